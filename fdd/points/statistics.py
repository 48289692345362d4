"""Counts of a point data set, and their tables for the terminal."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdd.points.structures import Category, PointDataset
from fdd.points.wording import counted, listed

__all__ = [
    "ClassCount",
    "PointStatistics",
    "class_table",
    "count_points",
    "format_statistics",
    "format_table",
    "summary",
]

_NAMES_SHOWN = 3
_LONGEST_NAME = 28
_BAR = 30
_SINGLE_VALUES = 10  # a histogram of more different values gets ranges
_RANGES = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class ClassCount:
    """A class: in how many images, with how many segments and points, it occurs."""

    category: Category
    images: int
    segments: int
    points: int


@dataclass(frozen=True)
class PointStatistics:
    """What is in a point data set.

    Attributes:
        images: number of images.
        classes: in the order of the file, also those that never occur.
        points_per_segment: number of segments (things and stuff) by number of points.
        instances_per_image: number of images by number of things.
        without_points, without_things: file names of the images without any.
        fullest: file name of the image with the most things; empty where there is none.
    """

    images: int
    classes: tuple[ClassCount, ...]
    points_per_segment: Mapping[int, int]
    instances_per_image: Mapping[int, int]
    without_points: tuple[str, ...]
    without_things: tuple[str, ...]
    fullest: str

    @property
    def segments(self) -> int:
        return sum(count.segments for count in self.classes)

    @property
    def points(self) -> int:
        return sum(count.points for count in self.classes)

    @property
    def class_occurrences(self) -> int:
        """Pairs of an image and a class that is labelled in it."""
        return sum(count.images for count in self.classes)

    @property
    def most_instances(self) -> int:
        """Things in the fullest image."""
        return max(self.instances_per_image, default=0)

    def as_json(self) -> dict[str, Any]:
        """Everything, of types that JSON has."""
        return {
            "images": self.images,
            "segments": self.segments,
            "points": self.points,
            "classes": [
                {
                    "id": int(c.category.id),
                    "name": c.category.name,
                    "isthing": bool(c.category.isthing),
                    "images": c.images,
                    "segments": c.segments,
                    "points": c.points,
                }
                for c in self.classes
            ],
            "points_per_segment": {str(n): c for n, c in sorted(self.points_per_segment.items())},
            "instances_per_image": {str(n): c for n, c in sorted(self.instances_per_image.items())},
            "most_instances": self.most_instances,
            "fullest_image": self.fullest,
            "images_without_points": list(self.without_points),
            "images_without_things": list(self.without_things),
        }


def count_points(dataset: PointDataset) -> PointStatistics:
    """Count a valid data set (see :func:`fdd.points.validate_points`)."""
    things = dataset.thing_ids
    images: Counter[int] = Counter()
    segments: Counter[int] = Counter()
    points: Counter[int] = Counter()
    per_segment: Counter[int] = Counter()
    instances = [sum(s.category_id in things for s in image.segments) for image in dataset.images]
    for image in dataset.images:
        images.update({segment.category_id for segment in image.segments})
        for segment in image.segments:
            segments[segment.category_id] += 1
            points[segment.category_id] += len(segment.points)
            per_segment[len(segment.points)] += 1
    most = max(instances, default=0)
    return PointStatistics(
        images=len(dataset.images),
        classes=tuple(
            ClassCount(c, images[c.id], segments[c.id], points[c.id]) for c in dataset.categories
        ),
        points_per_segment=dict(sorted(per_segment.items())),
        instances_per_image=dict(sorted(Counter(instances).items())),
        without_points=tuple(
            i.file_name for i in dataset.images if not any(s.points for s in i.segments)
        ),
        without_things=tuple(
            i.file_name for i, n in zip(dataset.images, instances, strict=True) if n == 0
        ),
        fullest=dataset.images[instances.index(most)].file_name if most else "",
    )


def class_table(dataset: PointDataset) -> str:
    """Segments and points of every class that occurs, and their totals."""
    counts = count_points(dataset)
    rows = [
        (c.category.name, c.category.kind, f"{c.segments:,}", f"{c.points:,}")
        for c in counts.classes
        if c.segments
    ]
    rows.append(("total", "", f"{counts.segments:,}", f"{counts.points:,}"))
    table = format_table([("class", "kind", "segments", "points"), *rows])
    absent = sum(c.segments == 0 for c in counts.classes)
    if absent:
        table += f"\n({absent} of {len(counts.classes)} classes without a segment)"
    return table


def summary(dataset: PointDataset) -> str:
    """Images, and what was left out when the points were drawn, in one line."""
    without = sum(not image.segments for image in dataset.images)
    text = f"{counted(len(dataset.images), 'image')} ({without:,} without a segment)"
    for key, what in (
        ("skipped_crowd", "crowd segments"),
        ("skipped_empty", "empty segments"),
        ("images_without_masks", "images without masks"),
    ):
        if dataset.info.get(key):
            text += f", {dataset.info[key]:,} {what} left out"
    return text


def format_statistics(counts: PointStatistics, queries: int | None = None) -> str:
    """The counts for a terminal of 80 columns.

    Args:
        counts: see :func:`count_points`.
        queries: objects that the model can find in an image (``MODEL.FDD.PAN.NUM_QUERIES``); None:
            not known.
    """
    rows = [
        (
            c.category.name,
            c.category.kind,
            f"{c.images:,}",
            f"{c.segments:,}",
            f"{c.points:,}",
            f"{c.points / c.segments:.1f}" if c.segments else "never labelled",
        )
        for c in counts.classes
    ]
    average = f"{counts.points / counts.segments:.1f}" if counts.segments else ""
    total = (f"{counts.images:,}", f"{counts.segments:,}", f"{counts.points:,}", average)
    head = ("class", "kind", "images", "segments", "points", "points/segment")
    parts = [format_table([head, *rows, ("total", "", *total)])]
    if counts.points_per_segment:
        parts.append(_histogram("points per segment", "segments", counts.points_per_segment))
    if counts.most_instances:
        parts.append(_histogram("things per image", "images", counts.instances_per_image))
        parts.append(_room(counts, queries))
    for names, what in (
        (counts.without_points, "a point"),
        (counts.without_things, "a thing"),
    ):
        if names:
            parts.append(
                f"{len(names):,} of {counts.images:,} images without {what}: "
                f"{listed(names, _NAMES_SHOWN)}"
            )
    return "\n\n".join(parts)


def _room(counts: PointStatistics, queries: int | None) -> str:
    found = f"Most things in an image: {counts.most_instances:,} ({counts.fullest})"
    if queries is None:
        return f"{found};\nMODEL.FDD.PAN.NUM_QUERIES of the training config must not be less."
    if counts.most_instances <= queries:
        return f"{found}; the model can find {queries:,}."
    return (
        f"{found}, but the model can find only {queries:,}.\nSet MODEL.FDD.PAN.NUM_QUERIES to "
        f"{counts.most_instances:,} or more, or cut the images into tiles."
    )


def _histogram(value: str, counted: str, counts: Mapping[int, int]) -> str:
    """Rows of a value (or a range), how often it occurs, and a bar."""
    rows = _bins(counts)
    largest = max(count for _, count in rows)
    # Every value that occurs has a bar.
    lines = [
        (name, f"{count:,}", "#" * (-(-_BAR * count // largest) if count else 0))
        for name, count in rows
    ]
    return format_table([(value, counted, ""), *lines], left=(0, 2))


def _bins(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    if len(counts) <= _SINGLE_VALUES:
        return [(f"{value:,}", count) for value, count in sorted(counts.items())]
    edges = [*_RANGES, max(_RANGES[-1], *counts) + 1]
    rows = []
    for low, high in itertools.pairwise(edges):
        count = sum(c for value, c in counts.items() if low <= value < high)
        name = f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}"
        rows.append((name, count))
    while rows and rows[0][1] == 0:
        rows.pop(0)
    while rows and rows[-1][1] == 0:
        rows.pop()
    return rows


def format_table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0, 1)) -> str:
    """Columns side by side, those of ``left`` to the left and the others to the right."""
    cells = [[_shorten(cell) for cell in row] for row in rows]
    widths = [max(_width(row[n]) for row in cells) for n in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = []
        for n, cell in enumerate(row):
            space = " " * (widths[n] - _width(cell))
            padded.append(cell + space if n in left else space + cell)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns that a terminal takes for a text: East Asian characters are wide, accents none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _shorten(text: str) -> str:
    # A line break in the name of a class would break the table.
    text = " ".join(text.split()) if text.strip("#") else text
    if _width(text) <= max(_LONGEST_NAME, _BAR):
        return text
    while _width(text) > _LONGEST_NAME - 1:
        text = text[:-1]
    return text + "…"

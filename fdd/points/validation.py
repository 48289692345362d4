"""What is wrong with point labels: the readers raise it, ``fdd points check`` lists it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from fdd.points.findings import Finding, raise_errors
from fdd.points.structures import (
    MAX_SIDE,
    Category,
    PointDataset,
    PointImage,
    PointSegment,
    is_integer,
    is_side,
)
from fdd.points.void import find_invalid, is_void
from fdd.points.wording import listed

__all__ = ["ROUNDING", "FlatPoints", "list_problems", "validate_points"]

#: A point at most so far outside, in pixels, was rounded or is one of a pixel's other corner.
ROUNDING = 1.0


def validate_points(dataset: PointDataset, source: str = "point labels") -> None:
    """Raise one error that lists what is wrong with ``dataset``, or return.

    Args:
        dataset: the labels; read, never changed.
        source: what the message calls them, usually the path of the file.

    Raises:
        PointLabelError: its ``problems`` holds every finding, its message the first 20.
    """
    raise_errors(source, list_problems(dataset))


def list_problems(dataset: PointDataset, warnings: bool = False) -> list[Finding]:
    """Apply the rules E103 to E108, E112 and E201 to E203, and, if ``warnings``, W110, W204, W209.

    The findings do not name the file.
    """
    flat = FlatPoints(dataset.images)
    problems = [*_check_categories(dataset.categories), *_check_images(dataset)]
    problems += [*flat.problems, *_check_coordinates(flat)]
    if warnings:
        problems += [*_find_split_stuff(dataset), *_find_equal_points(flat)]
        problems += _find_hidden_points(flat)
    return problems


def _check_categories(categories: list[Category]) -> Iterator[Finding]:
    if not categories:
        text = "no categories. Expected at least one; list them under 'categories'."
        yield Finding("E103", text)
    ids: set[Any] = set()
    names: set[Any] = set()
    for category in categories:
        problems = []
        if not is_integer(category.id) or category.id < 0:
            problems.append("the id is not an integer >= 0. Give it an integer id.")
        elif category.id in ids:
            problems.append("this id is used twice. Give every category its own id.")
        if not isinstance(category.name, str) or not category.name:
            problems.append("the name is empty or not a text. Give the category a name.")
        elif category.name in names:
            problems.append("this name is used twice. Give every category its own name.")
        ids.add(category.id)
        names.add(category.name)
        where = f"category id {category.id!r} ({category.name!r})"
        yield from (Finding("E103", f"{where}: {text}") for text in problems)


def _check_images(dataset: PointDataset) -> Iterator[Finding]:
    known = {category.id for category in dataset.categories}
    stuff = known - dataset.thing_ids
    first: dict[Any, int] = {}  # position of each image id
    for position, image in enumerate(dataset.images):
        image_id = image.image_id
        if not (is_integer(image_id) or (isinstance(image_id, str) and image_id)):
            text = f"image at position {position}: id {image_id!r} is not an integer or a text."
            yield Finding("E104", text, image_id=image_id)
        elif first.setdefault(image_id, position) != position:
            text = (
                f"this id is used by the images at positions {first[image_id]} and {position}. "
                "Image ids must be unique; merge the two entries or rename one."
            )
            yield Finding.about("E104", image, text)
        if not isinstance(image.file_name, str) or not image.file_name:
            text = f"file_name {image.file_name!r} is not a path. Name the image file."
            yield Finding.about("E105", image, text)
        for side in ("height", "width"):
            if not is_side(value := getattr(image, side)):
                text = f"{side} {value!r} is not a number of pixels (1 to {MAX_SIDE})."
                yield Finding.about("E105", image, text)
        for position, stroke in enumerate(image.void):
            if invalid := find_invalid(stroke):
                text = f"void stroke at position {position}: {invalid}. Correct or delete it."
                yield Finding.about("E112", image, text)
        yield from _check_segments(image, known, stuff)


def _check_segments(image: PointImage, known: set[int], stuff: set[int]) -> Iterator[Finding]:
    counts = Counter(segment.id for segment in image.segments)
    twins: dict[Any, set[int]] = {}  # classes of the segments of an id that is used twice
    if len(counts) < len(image.segments):
        for segment in image.segments:
            twins.setdefault(segment.id, set()).add(segment.category_id)
    seen: set[Any] = set()
    for segment in image.segments:
        if not is_integer(segment.id) or segment.id <= 0:
            text = "the id is not an integer >= 1 (0 stands for unlabelled pixels). Renumber it."
            yield Finding.about("E106", image, text, segment.id, fixable=is_integer(segment.id))
        elif segment.id in seen:
            text = (
                "this id is used twice in the image. Merge the two entries (one instance, or one "
                "stuff class) or renumber one."
            )
            # Entries of one stuff class are one segment; of a thing class they may be two objects.
            classes = twins[segment.id]
            fixable = len(classes) == 1 and classes <= stuff
            yield Finding.about("E106", image, text, segment.id, fixable=fixable)
        seen.add(segment.id)
        if segment.category_id not in known or not is_integer(segment.category_id):
            text = (
                f"category_id {segment.category_id!r} is not among the categories of the file. "
                "Correct it, or add the category to 'categories'."
            )
            yield Finding.about("E107", image, text, segment.id)
        if len(segment.points) == 0:
            text = "it has no point. Add a point, or delete the segment."
            yield Finding.about("E108", image, text, segment.id, fixable=True)


class FlatPoints:
    """All points of a data set in arrays, with the way back to image and segment.

    Attributes:
        images: of the data set.
        segments: of all images, one after the other.
        xy: float64 ``(P, 2)``; infinite where a number is beyond all floats.
        image, segment: int64 ``(P,)``, indices into the two lists.
        problems: findings (E201) of what is not a pair of numbers, and therefore left out.
    """

    def __init__(self, images: list[PointImage]) -> None:
        self.images = images
        self.segments = [segment for image in images for segment in image.segments]
        per_image = np.array([len(image.segments) for image in images], dtype=np.int64)
        per_segment = np.array([len(s.points) for s in self.segments], dtype=np.int64)
        self.segment = np.repeat(np.arange(len(self.segments)), per_segment)
        self.image = np.repeat(np.arange(len(images)), per_image)[self.segment]
        self.problems: list[Finding] = []
        points = [point for segment in self.segments for point in segment.points]
        try:
            self.xy = _to_array(points)
        except (TypeError, ValueError, OverflowError):
            self._convert_one_by_one(points)

    def _convert_one_by_one(self, points: list[Any]) -> None:
        xy = np.zeros((len(points), 2))
        keep = np.ones(len(points), dtype=bool)
        for i, point in enumerate(points):
            try:
                xy[i] = _to_array([point])[0]
            except OverflowError:
                xy[i] = np.inf
            except (TypeError, ValueError):
                keep[i] = False
                text = f"point {point!r} is not a pair of numbers. Write it as [x, y]."
                image, segment = self.place(i)
                self.problems.append(Finding.about("E201", image, text, segment.id))
        self.segment, self.image, self.xy = self.segment[keep], self.image[keep], xy[keep]

    def place(self, i: int) -> tuple[PointImage, PointSegment]:
        """Image and segment of point ``i``."""
        return self.images[self.image[i]], self.segments[self.segment[i]]


def _to_array(points: list[Any]) -> np.ndarray:
    """Turn ``[x, y]`` pairs into float64 ``(P, 2)``; raise on what is not a pair of numbers."""
    if not set(map(len, points)) <= {2}:
        raise ValueError("a point without exactly two coordinates")
    flat = list(chain.from_iterable(points))
    for kind in set(map(type, flat)):
        if not issubclass(kind, (int, float, np.integer, np.floating)) or kind is bool:
            raise TypeError(f"a coordinate of type {kind.__name__}")
    return np.array(flat, dtype=np.float64).reshape(-1, 2)


def _check_coordinates(flat: FlatPoints) -> Iterator[Finding]:
    # An image without a valid size has its own finding already.
    sizes = np.array(
        [[i.width, i.height] if i.has_size else [0, 0] for i in flat.images], dtype=np.int64
    ).reshape(-1, 2)
    size = sizes[flat.image]
    finite = np.isfinite(flat.xy).all(axis=1)
    outside = finite & ((flat.xy < 0) | (flat.xy > size)).any(axis=1)
    sized = size[:, 0] > 0
    for i in np.flatnonzero(~finite).tolist():
        image, segment = flat.place(i)
        x, y = flat.xy[i].tolist()
        text = f"point ({x}, {y}) is not finite. Write its coordinates in pixels, or delete it."
        yield Finding.about("E201", image, text, segment.id, (x, y), fixable=True)
    rounded = np.all((flat.xy >= -ROUNDING) & (flat.xy <= size + ROUNDING), axis=1).tolist()
    for i in np.flatnonzero(outside & sized).tolist():
        image, segment = flat.place(i)
        x, y = flat.xy[i].tolist()
        text = (
            f"point ({x:g}, {y:g}) lies outside the image. Expected 0 <= x <= {image.width} and "
            f"0 <= y <= {image.height}. Are x and y exchanged, or are the coordinates those of a "
            "resized image? Correct or delete it."
        )
        yield Finding.about("E202", image, text, segment.id, (x, y), fixable=rounded[i])
    yield from _find_collisions(flat, sizes, finite & ~outside & sized)


def _find_collisions(flat: FlatPoints, sizes: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    """Find points of different segments on one pixel: a pixel has one label in panoptic data."""
    rows = np.flatnonzero(usable)
    size = sizes[flat.image[rows]]
    # A point on the right or lower edge belongs to the last pixel.
    pixel = np.minimum(np.floor(flat.xy[rows]).astype(np.int64), size - 1)
    first_key = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))])
    key = first_key[flat.image[rows]] + pixel[:, 1] * size[:, 0] + pixel[:, 0]
    order = np.argsort(key, kind="stable")
    before, after = order[:-1], order[1:]
    segment = flat.segment[rows]
    clash = (key[before] == key[after]) & (segment[before] != segment[after])
    for pair in zip(before[clash].tolist(), after[clash].tolist(), strict=True):
        first, second = sorted(pair)
        image, segment_1 = flat.place(rows[first])
        _, segment_2 = flat.place(rows[second])
        x, y = pixel[first]
        text = (
            f"image {image.image_id!r}, segments {segment_1.id!r} and {segment_2.id!r}: both have "
            f"a point on pixel x={x}, y={y}. A pixel belongs to one segment; move or delete one of "
            "the points."
        )
        point = tuple(flat.xy[rows[first]].tolist())
        yield Finding("E203", text, None, image.image_id, segment_1.id, point)


def _find_split_stuff(dataset: PointDataset) -> Iterator[Finding]:
    stuff = {c.id: c.name for c in dataset.categories if not c.isthing}
    for image in dataset.images:
        ids: dict[int, list[int]] = {}
        for segment in image.segments:
            if segment.category_id in stuff:
                ids.setdefault(segment.category_id, []).append(segment.id)
        for category_id, found in ids.items():
            if len(found) > 1:
                text = (
                    f"image {image.image_id!r}: {len(found)} segments "
                    f"({listed(found, 5)}) of the stuff class "
                    f"{stuff[category_id]!r}"
                )
                yield Finding("W110", text, None, image.image_id, found[1], fixable=True)


def _find_equal_points(flat: FlatPoints) -> Iterator[Finding]:
    order = np.lexsort((flat.xy[:, 1], flat.xy[:, 0], flat.segment))  # stable: file order in ties
    before, after = order[:-1], order[1:]
    same = (flat.segment[before] == flat.segment[after]) & (flat.xy[before] == flat.xy[after]).all(
        1
    )
    for i in np.sort(after[same]).tolist():
        image, segment = flat.place(i)
        x, y = flat.xy[i].tolist()
        text = f"the point ({x:g}, {y:g}) is listed more than once"
        yield Finding.about("W204", image, text, segment.id, (x, y), fixable=True)


def _find_hidden_points(flat: FlatPoints) -> Iterator[Finding]:
    painted = [
        n
        for n, image in enumerate(flat.images)
        if image.void and image.has_size and not any(map(find_invalid, image.void))
    ]
    for n in painted:
        image, rows = flat.images[n], np.flatnonzero(flat.image == n)
        rows = rows[np.isfinite(flat.xy[rows]).all(axis=1)]
        hidden = is_void(image.void, flat.xy[rows], image.height, image.width)
        for i in rows[hidden].tolist():
            _, segment = flat.place(i)
            x, y = flat.xy[i].tolist()
            text = f"the point ({x:g}, {y:g}) is painted over as void, and counts for nothing"
            yield Finding.about("W209", image, text, segment.id, (x, y))

"""Checks of point labels: every finding says where it is, what was expected and how to mend it."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from fdd.points.structures import Category, PointDataset, PointImage, PointLabelError
from fdd.points.wording import counted, numbered

__all__ = ["FlatPoints", "LabelProblem", "find_problems", "list_problems", "validate_points"]

_MAX_SIDE = 1_000_000  # pixels; pixel numbers of a whole data set stay far below 2^63


def validate_points(dataset: PointDataset, source: str = "point labels") -> None:
    """Raise one error that lists what is wrong with ``dataset``, or return.

    Args:
        dataset: the labels; read, never changed.
        source: what the message calls them, usually the path of the file.

    Raises:
        PointLabelError: its ``problems`` holds every finding, its message the first 20.
    """
    problems = find_problems(dataset)
    if not problems:
        return
    head = f"{source}: {counted(len(problems), 'problem')} found"
    raise PointLabelError("\n".join([head, *numbered(problems)]), problems)


@dataclass(frozen=True)
class LabelProblem:
    """A finding and its place.

    Attributes:
        kind: ``categories``, ``image_id``, ``image_entry``, ``segment_id``, ``category_id``,
            ``no_points``, ``not_a_pair``, ``not_finite``, ``outside`` or ``one_pixel``.
        text: the sentence for people; it names image and segment.
        image: position in ``dataset.images``; None for a matter of the whole file.
        segment_id: as given; for two segments on one pixel, the first.
        point: ``(x, y)``, where it is one.
    """

    kind: str
    text: str
    image: int | None = None
    segment_id: Any = None
    point: tuple[float, float] | None = None


def find_problems(dataset: PointDataset) -> list[str]:
    """List every problem of ``dataset`` as a sentence; an empty list means sound labels."""
    return [problem.text for problem in list_problems(dataset)]


def list_problems(dataset: PointDataset) -> list[LabelProblem]:
    """What :func:`find_problems` says, with the place of each finding."""
    problems = [LabelProblem("categories", t) for t in _check_categories(dataset.categories)]
    known = {category.id for category in dataset.categories}
    seen: dict[str | int, int] = {}
    for position, image in enumerate(dataset.images):
        problems += _check_image(image, position, seen)
        problems += _check_segments(image, position, known)
    return problems + _check_coordinates(dataset.images)


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer of Python or NumPy. ``True`` is not one here."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_side(value: Any) -> bool:
    """Whether ``value`` can be a side of an image in pixels."""
    return is_integer(value) and 1 <= value <= _MAX_SIDE


def _check_categories(categories: list[Category]) -> list[str]:
    problems = []
    if not categories:
        problems.append("no categories. Expected at least one; list them under 'categories'.")
    ids: set[Any] = set()
    names: set[Any] = set()
    for category in categories:
        where = f"category id {category.id!r} ({category.name!r})"
        if not is_integer(category.id) or category.id < 0:
            problems.append(f"{where}: the id is no integer >= 0. Give it an integer id.")
        elif category.id in ids:
            problems.append(f"{where}: this id is used twice. Give every category its own id.")
        if not isinstance(category.name, str) or not category.name:
            problems.append(f"{where}: the name is empty or no text. Give the category a name.")
        elif category.name in names:
            problems.append(f"{where}: this name is used twice. Give every category its own name.")
        ids.add(category.id)
        names.add(category.name)
    return problems


def _check_image(
    image: PointImage, position: int, seen: dict[str | int, int]
) -> list[LabelProblem]:
    problems = []

    def add(kind: str, text: str) -> None:
        problems.append(LabelProblem(kind, text, position))

    where = f"image {image.image_id!r}"
    if not (is_integer(image.image_id) or (isinstance(image.image_id, str) and image.image_id)):
        where = f"image at position {position}"
        add("image_id", f"{where}: id {image.image_id!r} is neither an integer nor a text.")
    elif image.image_id in seen:
        add(
            "image_id",
            f"{where}: this id is used by the images at positions {seen[image.image_id]} and "
            f"{position}. Image ids must be unique; merge the two entries or rename one.",
        )
    else:
        seen[image.image_id] = position
    if not isinstance(image.file_name, str) or not image.file_name:
        text = f"{where}: file_name {image.file_name!r} is no path. Name the image file."
        add("image_entry", text)
    for side in ("height", "width"):
        value = getattr(image, side)
        if not is_side(value):
            text = f"{where}: {side} {value!r} is no number of pixels (1 to {_MAX_SIDE})."
            add("image_entry", text)
    return problems


def _check_segments(image: PointImage, position: int, known: set[int]) -> list[LabelProblem]:
    problems = []
    ids: set[Any] = set()
    for segment in image.segments:
        found = []
        if not is_integer(segment.id) or segment.id <= 0:
            text = (
                "the id is no integer >= 1 (0 stands for unlabelled pixels). Renumber the segment."
            )
            found.append(("segment_id", text))
        elif segment.id in ids:
            text = (
                "this id is used twice in the image. Merge the two entries (one instance, or one "
                "stuff class) or renumber one."
            )
            found.append(("segment_id", text))
        ids.add(segment.id)
        if segment.category_id not in known or not is_integer(segment.category_id):
            text = (
                f"category_id {segment.category_id!r} is not among the categories of the file. "
                "Correct it, or add the category to 'categories'."
            )
            found.append(("category_id", text))
        if len(segment.points) == 0:
            found.append(("no_points", "it has no point. Add a point, or delete the segment."))
        if found:
            where = f"image {image.image_id!r}, segment {segment.id!r}"
            problems += [
                LabelProblem(kind, f"{where}: {text}", position, segment.id) for kind, text in found
            ]
    return problems


class FlatPoints:
    """All points of a data set in arrays, with the way back to image and segment."""

    def __init__(self, images: list[PointImage]) -> None:
        self.images = images
        self.segments = [segment for image in images for segment in image.segments]
        per_image = np.array([len(image.segments) for image in images], dtype=np.int64)
        per_segment = np.array([len(s.points) for s in self.segments], dtype=np.int64)
        self.image_of_segment = np.repeat(np.arange(len(images)), per_image)
        self.segment = np.repeat(np.arange(len(self.segments)), per_segment)
        self.image = self.image_of_segment[self.segment]
        self.problems: list[LabelProblem] = []
        points = [point for segment in self.segments for point in segment.points]
        try:
            self.xy = _to_array(points)
        except (TypeError, ValueError, OverflowError):
            self.xy = self._to_array_one_by_one(points)

    def _to_array_one_by_one(self, points: list[Any]) -> np.ndarray:
        xy = np.zeros((len(points), 2))
        keep = np.ones(len(points), dtype=bool)
        for i, point in enumerate(points):
            try:
                xy[i] = _to_array([point])[0]
            except OverflowError:
                xy[i] = np.inf
            except (TypeError, ValueError):
                keep[i] = False
                text = f"point {point!r} is no pair of numbers. Write it as [x, y]."
                self.problems.append(self.problem(i, "not_a_pair", text))
        self.segment, self.image = self.segment[keep], self.image[keep]
        return xy[keep]

    def problem(
        self, i: int, kind: str, text: str, point: tuple[float, float] | None = None
    ) -> LabelProblem:
        """A finding about point ``i``."""
        image, segment = int(self.image[i]), self.segments[self.segment[i]].id
        where = f"image {self.images[image].image_id!r}, segment {segment!r}"
        return LabelProblem(kind, f"{where}: {text}", image, segment, point)


def _to_array(points: list[Any]) -> np.ndarray:
    """Turn ``[x, y]`` pairs into float64 ``(P, 2)``; raise on what is no pair of numbers."""
    if not set(map(len, points)) <= {2}:
        raise ValueError("a point without exactly two coordinates")
    flat = list(chain.from_iterable(points))
    for kind in set(map(type, flat)):
        if not issubclass(kind, (int, float, np.integer, np.floating)) or kind is bool:
            raise TypeError(f"a coordinate of type {kind.__name__}")
    return np.array(flat, dtype=np.float64).reshape(-1, 2)


def _check_coordinates(images: list[PointImage]) -> list[LabelProblem]:
    flat = FlatPoints(images)
    sizes = np.array(
        [[i.width, i.height] if is_side(i.width) and is_side(i.height) else [0, 0] for i in images],
        dtype=np.int64,
    ).reshape(-1, 2)
    size = sizes[flat.image]
    finite = np.isfinite(flat.xy).all(axis=1)
    outside = finite & ((flat.xy < 0) | (flat.xy > size)).any(axis=1)
    sized = size[:, 0] > 0  # an image without a sound size has its own finding already
    problems = flat.problems
    for i in np.flatnonzero(~finite).tolist():
        x, y = flat.xy[i].tolist()
        text = f"point ({x}, {y}) is not finite. Write its coordinates in pixels, or delete it."
        problems.append(flat.problem(i, "not_finite", text, (x, y)))
    for i in np.flatnonzero(outside & sized).tolist():
        (x, y), (width, height) = flat.xy[i].tolist(), size[i]
        text = (
            f"point ({x:g}, {y:g}) lies outside the image. Expected 0 <= x <= {width} and "
            f"0 <= y <= {height}. Are x and y exchanged, or are the coordinates those of a resized "
            "image? Correct or delete it."
        )
        problems.append(flat.problem(i, "outside", text, (x, y)))
    return problems + _find_collisions(flat, sizes, finite & ~outside & sized)


def _find_collisions(flat: FlatPoints, sizes: np.ndarray, usable: np.ndarray) -> list[LabelProblem]:
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
    problems = []
    for a, b in zip(before[clash], after[clash], strict=True):
        first, second = sorted((int(a), int(b)))
        x, y = pixel[first]
        position = int(flat.image[rows[first]])
        ids = [flat.segments[segment[i]].id for i in (first, second)]
        text = (
            f"image {flat.images[position].image_id!r}, segments {ids[0]!r} and {ids[1]!r}: both "
            f"have a point on pixel x={x}, y={y}. A pixel belongs to one segment; move or delete "
            "one of the points."
        )
        point = tuple(flat.xy[rows[first]].tolist())
        problems.append(LabelProblem("one_pixel", text, position, ids[0], point))
    return problems

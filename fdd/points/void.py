"""The void of an image: what a person painted over because it is to be ignored.

A ruler, a smear, a region that nobody can tell: its pixels belong to no segment, no loss looks at
them, and exported labels are void there. It is kept as the strokes of a round brush, not as a mask:
they can be undone, and read by people. A point under it counts for nothing as long as it is there,
and is not lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fdd.points.parsing import kind_of, require
from fdd.points.structures import MAX_SIDE, PointImage, PointLabelError, VoidStroke, is_integer

__all__ = ["find_invalid", "is_void", "parse_stroke", "stroke_record", "void_mask", "without_void"]

#: Places of a stroke, at most: no hand makes more without letting go.
MAX_PLACES = 10_000
# Pixels that are compared with a piece of a line at a time.
_CHUNK = 1 << 20


def void_mask(strokes: Sequence[VoidStroke], height: int, width: int) -> np.ndarray:
    """Bool ``(height, width)``: the pixels whose centre lies under a stroke or on its edge.

    Args:
        strokes: in pixels of the image, as points are; they may reach beyond it.
    """
    mask = np.zeros((height, width), dtype=bool)
    for start, end, radius in _pieces(strokes):
        left, top = np.minimum(start, end) - radius
        right, bottom = np.maximum(start, end) + radius
        first, last = (int(np.clip(n, 0, width)) for n in (np.floor(left), np.ceil(right)))
        x = np.arange(first, last) + 0.5
        rows = max(1, _CHUNK // max(1, len(x)))
        upper, lower = (int(np.clip(n, 0, height)) for n in (np.floor(top), np.ceil(bottom)))
        if mask[upper:lower, first:last].all():
            continue  # strokes are mostly painted over each other
        for row in range(upper, lower, rows):
            y = np.arange(row, min(row + rows, lower)) + 0.5
            mask[row : row + len(y), first:last] |= _is_near(x, y[:, None], start, end, radius)
    return mask


def is_void(
    strokes: Sequence[VoidStroke], points: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Bool ``(P,)``: whether the pixels of points are in :func:`void_mask`.

    Args:
        points: float ``(P, 2)``, x and y inside the image; those on its right or lower edge belong
            to the last pixel.
    """
    pixels = np.minimum(np.floor(points), (width - 1, height - 1)) + 0.5
    found = np.zeros(len(points), dtype=bool)
    for start, end, radius in _pieces(strokes):
        found |= _is_near(pixels[:, 0], pixels[:, 1], start, end, radius)
    return found


def without_void(image: PointImage) -> PointImage:
    """The image without the points under its void, and without segments that have no others."""
    if not image.void or not image.segments:
        return image
    points = np.array([point for s in image.segments for point in s.points], np.float64)
    hidden = iter(is_void(image.void, points.reshape(-1, 2), image.height, image.width).tolist())
    segments = []
    for segment in image.segments:
        kept = [point for point in segment.points if not next(hidden)]
        if kept:
            segments.append(replace(segment, points=kept))
    return replace(image, segments=segments)


def parse_stroke(entry: Any, where: str) -> VoidStroke:
    """A stroke of a file, whose numbers may be invalid (:func:`find_invalid`).

    Raises:
        PointLabelError: it has another form.
    """
    width, line = require(entry, "width", (int, float), where), require(entry, "line", list, where)
    if isinstance(width, bool) or not line:
        found = "true or false" if line else "an empty line"
        raise PointLabelError(f"{where}: {found}; expected a width and at least one [x, y]")
    for pair in line:
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_number, pair)):
            raise PointLabelError(f"{where}: {kind_of(pair)} in 'line' is not a pair [x, y]")
    return VoidStroke(width, tuple((x, y) for x, y in line))


def find_invalid(stroke: VoidStroke) -> str:
    """What is wrong with the numbers of a stroke, a part of a sentence; "" if nothing is."""
    if not 0 < stroke.width <= MAX_SIDE:
        return f"its width is {_shown(stroke.width)}; expected pixels, more than 0"
    if len(stroke.line) > MAX_PLACES:
        return (
            f"it has {len(stroke.line):,} places; expected at most {MAX_PLACES:,}, or two strokes"
        )
    for x, y in stroke.line:
        if not (abs(x) <= MAX_SIDE and abs(y) <= MAX_SIDE):  # false for NaN, too
            return f"({_shown(x)}, {_shown(y)}) is not a place in pixels"
    return ""


def stroke_record(stroke: VoidStroke) -> dict[str, Any]:
    """What a file has of a stroke."""
    return {"width": float(stroke.width), "line": [[float(x), float(y)] for x, y in stroke.line]}


def _shown(number: float) -> str:
    """A number of a file; JSON has integers that no float can hold."""
    try:
        return f"{number:g}"
    except OverflowError:
        return "a number too large to write"


def _is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, float)


def _pieces(strokes: Sequence[VoidStroke]) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Start, end and radius of the straight pieces; of a dot, start and end are the same."""
    for stroke in strokes:
        line = np.array(stroke.line, np.float64)
        ends = line[1:] if len(line) > 1 else line
        for start, end in zip(line, ends, strict=False):
            yield start, end, stroke.width / 2


def _is_near(
    x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float
) -> np.ndarray:
    """Whether places are at most ``radius`` from a piece of a line."""
    along = end - start
    length = float(along @ along)
    x, y = x - start[0], y - start[1]
    share = np.clip((x * along[0] + y * along[1]) / length, 0, 1) if length > 0 else 0.0
    near = (x - share * along[0]) ** 2 + (y - share * along[1]) ** 2 <= radius**2
    return np.asarray(near)

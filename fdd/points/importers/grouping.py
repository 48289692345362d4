"""The points of one image, put into segments; and what is said of those that fit nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Any

from fdd.points.classes import label_key
from fdd.points.image_files import ImageHeader
from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.structures import Category, PointSegment

__all__ = ["DROPPABLE", "Grouped", "group_points"]

#: Points that can be left out where asked for, instead of being an error.
DROPPABLE = ("outside", "shared-pixel")


@dataclass
class Grouped:
    """An image's segments, and what did not go into them.

    Attributes:
        segments: numbered from 1, or as the export has them.
        duplicates: points at exactly the place of another one of their segment.
        dropped: other points that were left out, in words, and how many.
        problems: sentences; empty if all points went somewhere.
    """

    segments: list[PointSegment] = field(default_factory=list)
    duplicates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A point that lies in the image; ``key`` says which object or region it belongs to."""

    key: tuple[int, Any]
    category: Category
    xy: tuple[float, float]
    pixel: tuple[int, int]
    raw: RawPoint


def group_points(
    raw: RawImage,
    header: ImageHeader,
    matched: dict[str, Category | None],
    name: str,
    keep_ids: bool = False,
    drop: Collection[str] = (),
    stored: bool = False,
) -> Grouped:
    """Make segments of an image's points, whatever their order.

    Args:
        raw: the image.
        header: of its file.
        matched: the class of each label, None for those to leave out.
        name: the file's, for messages.
        keep_ids: a segment's id is its points' ``instance``.
        drop: of ``DROPPABLE``, what to leave out. Of points on a shared pixel, all go: nobody knows
            which of the objects it belongs to.
        stored: the points are those of the stored picture, not turned by its EXIF tag.
    """
    result = Grouped()
    placed = _place(raw, header, matched, name, drop, stored, result)
    owners: dict[tuple[int, int], dict[Hashable, _Placed]] = {}
    for point in placed:
        owners.setdefault(point.pixel, {}).setdefault(point.key, point)
    shared = {pixel for pixel, keys in owners.items() if len(keys) > 1}
    if "shared-pixel" not in drop:
        fractions = len(placed) > 1 and all(max(point.xy) <= 1 for point in placed)
        for first, *others in map(dict.values, owners.values()):
            result.problems += [_explain_shared(o, first, name, fractions) for o in others]
    segments: dict[Hashable, PointSegment] = {}
    for point in placed:
        if point.pixel in shared:
            result.dropped["points on one pixel with a point of another object"] += 1
            continue
        segment = segments.get(point.key)
        if segment is None:
            number: Any = point.raw.instance if keep_ids else len(segments) + 1
            segment = segments[point.key] = PointSegment(number, point.category.id, [])
        segment.points.append(point.xy)
    lost = len({point.key for point in placed}) - len(segments)
    if lost:
        result.dropped["objects or regions of which no point is left"] += lost
    result.segments = list(segments.values())
    return result


def _place(
    raw: RawImage,
    header: ImageHeader,
    matched: dict[str, Category | None],
    name: str,
    drop: Collection[str],
    stored: bool,
    result: Grouped,
) -> list[_Placed]:
    """The points inside the image, each place of an object once."""
    placed = []
    seen: set[tuple[Hashable, float, float]] = set()
    size = header.stored_size if stored else (header.width, header.height)
    scale = size if raw.normalized else (1, 1)
    for point in raw.points:
        category = matched[label_key(point.label)]
        if category is None:
            continue
        x, y = point.x * scale[0], point.y * scale[1]
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            if "outside" in drop:
                result.dropped["points outside their image"] += 1
            else:
                result.problems.append(_explain_outside(point, x, y, name, header, stored))
            continue
        if stored:
            x, y = header.displayed_point(x, y)
        # Without an instance, the place is the key: the same click twice is one object.
        instance: Any = ("at", x, y) if point.instance is None else ("of", point.instance)
        key = (category.id, instance if category.isthing else None)
        if (key, x, y) in seen:
            result.duplicates += 1
            continue
        seen.add((key, x, y))
        pixel = min(int(x), header.width - 1), min(int(y), header.height - 1)
        placed.append(_Placed(key, category, (x, y), pixel, point))
    return placed


def _explain_shared(point: _Placed, first: _Placed, name: str, fractions: bool) -> str:
    kind = "object" if point.category.isthing else "region"
    text = (
        f"{point.raw.where}: on the same pixel (x={point.pixel[0]}, y={point.pixel[1]} of "
        f"{name!r}) as {first.raw.where} of another {kind}. "
    )
    if fractions:
        return text + (
            "All points of the image lie within 0 and 1: are they fractions of its width and "
            "height? Then give --units normalized, if all images of the export have such."
        )
    return text + (
        "A pixel belongs to one; move or delete one of the points, or leave out all such points "
        "with --drop shared-pixel."
    )


def _explain_outside(
    point: RawPoint, x: float, y: float, name: str, header: ImageHeader, stored: bool
) -> str:
    width, height = header.stored_size if stored else (header.width, header.height)
    text = (
        f"{point.where}: the point ({x:g}, {y:g}) of {point.label!r} lies outside {name!r}, which "
        f"is {width} x {height} pixels (width x height{', as stored' * stored})."
    )
    if header.is_transposed and 0 <= x <= height and 0 <= y <= width:
        return text + (
            f" The EXIF tag of the file (orientation {header.orientation}) lays it on its side, "
            f"and points are taken to follow the {'stored' if stored else 'displayed'} image. "
            f"Do they follow the other one? Give --exif {'displayed' if stored else 'stored'}."
        )
    if 0 <= y <= width and 0 <= x <= height:
        return text + " Are x and y exchanged?"
    return text + (
        " Was a resized copy labelled? Correct or delete the point, or leave out all such points "
        "with --drop outside."
    )

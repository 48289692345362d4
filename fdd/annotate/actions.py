"""What an action does to the points and the void of one image: pure functions.

Actions are mappings, as a page sends them:

=================  ====================================  ==========================================
``kind``           other keys                            what it does
=================  ====================================  ==========================================
``add``            ``x``, ``y``, ``segment`` (an id, or  a point of that segment, whatever the
                   None), ``category_id``                class; None: of a new thing, or of the
                                                         image's segment of that stuff class
``move``           ``segment``, ``point``, ``x``, ``y``  moves a point
``delete``         ``segment``, ``point``                removes a point, and with its last point
                                                         the segment
``delete_segment`` ``segment``                           removes a segment
``set_class``      ``segment``, ``category_id``          another class; of stuff: joins its segment
``merge``          ``segment``, ``into``                 points go into another segment, of whatever
                                                         class
``split``          ``segment``, ``points``               these points become a new thing
``paint``          ``width``, ``line``                   a stroke of void (see
                                                         :mod:`fdd.points.void`)
``unpaint``        ``strokes``                           removes strokes
=================  ====================================  ==========================================

``point`` and ``points`` are positions in the segment's points, ``strokes`` in the image's void,
all from 0. Other keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdd.points.classes import shown
from fdd.points.structures import Category, PointLabelError, VoidStroke, is_integer
from fdd.points.void import find_invalid, is_void, parse_stroke
from fdd.points.wording import listed

__all__ = [
    "AnnotatedImage",
    "Content",
    "InvalidEdit",
    "Point",
    "Segment",
    "apply_action",
    "clean_action",
]

Point = tuple[float, float]


@dataclass(frozen=True)
class Segment:
    """One thing, or one stuff class of an image, and its points.

    Attributes:
        id: positive, unique within the image, never given twice in a session.
        category_id: the label file's own category id.
        points: ``(x, y)``, at least one, in pixels of the original image, as in :mod:`fdd.points`.
    """

    id: int
    category_id: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Content:
    """What has been said of an image: its segments, and what is to be ignored."""

    segments: tuple[Segment, ...] = ()
    void: tuple[VoidStroke, ...] = ()

    @property
    def num_points(self) -> int:
        return sum(len(segment.points) for segment in self.segments)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as the points file lists it; height and width in pixels."""

    image_id: str | int
    file_name: str
    height: int
    width: int


class InvalidEdit(ValueError):
    """An edit that cannot be done, such as a point outside of the image; nothing has changed."""


#: Keys of each kind of action.
_KEYS: dict[str, tuple[str, ...]] = {
    "add": ("x", "y", "segment", "category_id"),
    "move": ("segment", "point", "x", "y"),
    "delete": ("segment", "point"),
    "delete_segment": ("segment",),
    "set_class": ("segment", "category_id"),
    "merge": ("segment", "into"),
    "split": ("segment", "points"),
    "paint": ("width", "line"),
    "unpaint": ("strokes",),
    "undo": (),
    "redo": (),
}


def clean_action(action: Any) -> dict[str, Any]:
    """The kind of an action and the keys that it has; others are left out.

    Raises:
        InvalidEdit: it is not a mapping of a known kind.
    """
    if not isinstance(action, Mapping):
        raise InvalidEdit(f"the action is {shown(action)}; expected an object with 'kind'")
    kind = action.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise InvalidEdit(f"an action of kind {shown(kind)}; expected one of {', '.join(_KEYS)}")
    return {"kind": kind, **{key: action[key] for key in _KEYS[kind] if key in action}}


def apply_action(
    image: AnnotatedImage,
    categories: Mapping[int, Category],
    content: Content,
    action: Mapping[str, Any],
    new_id: int,
) -> Content:
    """An image after an action other than undo and redo.

    Args:
        image: for its size, and for errors.
        categories: by id.
        content: before it.
        action: of :func:`clean_action`.
        new_id: for the segment that it may make.

    Raises:
        InvalidEdit: it cannot be done.
    """
    if action["kind"] == "paint":
        return replace(content, void=(*content.void, _stroke(image, action)))
    if action["kind"] == "unpaint":
        return replace(content, void=_without_strokes(image, content.void, action))
    segments = _Edit(image, categories, content, action, new_id).result()
    return replace(content, segments=segments)


def _stroke(image: AnnotatedImage, action: Mapping[str, Any]) -> VoidStroke:
    try:
        stroke = parse_stroke(action, f"image {image.image_id!r}, the stroke")
    except PointLabelError as error:
        raise InvalidEdit(str(error)) from None
    if invalid := find_invalid(stroke):
        raise InvalidEdit(f"image {image.image_id!r}, the stroke: {invalid}")
    line = tuple((float(x), float(y)) for x, y in stroke.line)
    return VoidStroke(float(stroke.width), line)


def _without_strokes(
    image: AnnotatedImage, void: tuple[VoidStroke, ...], action: Mapping[str, Any]
) -> tuple[VoidStroke, ...]:
    given = action.get("strokes")
    known = range(len(void))
    if not isinstance(given, (list, tuple)) or not all(is_integer(n) and n in known for n in given):
        raise InvalidEdit(
            f"image {image.image_id!r}: the strokes to remove are {shown(given)}; expected a list "
            f"of positions among its {len(void)}, from 0"
        )
    return tuple(stroke for n, stroke in enumerate(void) if n not in given)


class _Edit:
    """An action on the segments."""

    def __init__(
        self,
        image: AnnotatedImage,
        categories: Mapping[int, Category],
        content: Content,
        action: Mapping[str, Any],
        new_id: int,
    ) -> None:
        self.image, self.categories, self.segments = image, categories, content.segments
        self.void, self.action, self.new_id = content.void, action, new_id

    def result(self) -> tuple[Segment, ...]:
        does: dict[str, Callable[[], tuple[Segment, ...]]] = {
            "add": self._add,
            "move": self._move,
            "delete": self._delete,
            "delete_segment": lambda: self._without(self._segment("segment")),
            "set_class": self._set_class,
            "merge": self._merge,
            "split": self._split,
        }
        return does[self.action["kind"]]()

    def _add(self) -> tuple[Segment, ...]:
        if self.action.get("segment") is not None:
            segment = self._segment("segment")
        else:
            category = self._category()
            found = None if category.isthing else self._stuff(category.id)
            segment = found or Segment(self.new_id, category.id, ())
        point = self._place(segment, segment.points)
        return self._with(replace(segment, points=(*segment.points, point)))

    def _move(self) -> tuple[Segment, ...]:
        segment = self._segment("segment")
        position = self._position(segment, self.action.get("point"))
        before, after = segment.points[:position], segment.points[position + 1 :]
        point = self._place(segment, before + after)
        return self._with(replace(segment, points=(*before, point, *after)))

    def _delete(self) -> tuple[Segment, ...]:
        segment = self._segment("segment")
        position = self._position(segment, self.action.get("point"))
        left = segment.points[:position] + segment.points[position + 1 :]
        return self._with(replace(segment, points=left)) if left else self._without(segment)

    def _set_class(self) -> tuple[Segment, ...]:
        segment, category = self._segment("segment"), self._category()
        other = None if category.isthing else self._stuff(category.id)
        if other is None or category.id == segment.category_id:
            return self._with(replace(segment, category_id=category.id))
        return self._join(segment, other)

    def _merge(self) -> tuple[Segment, ...]:
        segment, into = self._segment("segment"), self._segment("into")
        if segment is into:
            raise self._refused(segment, "it cannot be merged into itself; name another segment")
        return self._join(segment, into)

    def _split(self) -> tuple[Segment, ...]:
        segment, given = self._segment("segment"), self.action.get("points")
        category = self.categories[segment.category_id]
        if not category.isthing:
            raise self._refused(
                segment,
                f"{category.name!r} is stuff, of which an image has one segment; give it the class "
                "of a thing first",
            )
        if not isinstance(given, (list, tuple)) or not given:
            raise self._refused(
                segment, f"the points to split off are {shown(given)}; expected a list of positions"
            )
        chosen = {self._position(segment, position) for position in given}
        if len(chosen) == len(segment.points):
            raise self._refused(segment, "all of its points would be split off; leave one at least")
        parts: tuple[list[Point], list[Point]] = ([], [])
        for position, point in enumerate(segment.points):
            parts[position in chosen].append(point)
        shared = set(map(self._pixel, parts[0])) & set(map(self._pixel, parts[1]))
        if shared:
            x, y = min(shared)
            raise self._refused(
                segment,
                f"some of its points on pixel x={x}, y={y} would stay, others not; a pixel belongs "
                "to one segment",
            )
        new = Segment(self.new_id, segment.category_id, tuple(parts[1]))
        return (*self._with(replace(segment, points=tuple(parts[0]))), new)

    # What actions consist of.

    def _with(self, segment: Segment) -> tuple[Segment, ...]:
        """The segments with this one in the place of that of its id, or at the end."""
        if all(s.id != segment.id for s in self.segments):
            return (*self.segments, segment)
        return tuple(segment if s.id == segment.id else s for s in self.segments)

    def _without(self, segment: Segment) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if s.id != segment.id)

    def _join(self, segment: Segment, into: Segment) -> tuple[Segment, ...]:
        joined = replace(into, points=into.points + segment.points)
        return tuple(joined if s is into else s for s in self.segments if s is not segment)

    def _stuff(self, category_id: int) -> Segment | None:
        return next((s for s in self.segments if s.category_id == category_id), None)

    # What is given.

    def _segment(self, key: str) -> Segment:
        wanted: Any = self.action.get(key)
        found = next((s for s in self.segments if is_integer(wanted) and s.id == wanted), None)
        if found is None:
            known = listed([s.id for s in self.segments], 20) or "none"
            raise InvalidEdit(
                f"image {self.image.image_id!r} has no segment {shown(wanted)}; it has {known}"
            )
        return found

    def _category(self) -> Category:
        wanted: Any = self.action.get("category_id")
        found = self.categories.get(wanted) if is_integer(wanted) else None
        if found is None:
            known = listed([f"{c.id} ({c.name})" for c in self.categories.values()], 20)
            raise InvalidEdit(f"there is no class {shown(wanted)}; expected one of {known}")
        return found

    def _position(self, segment: Segment, position: Any) -> int:
        if not is_integer(position) or not 0 <= position < len(segment.points):
            raise self._refused(
                segment,
                f"there is no point {shown(position)}; its points are 0 to "
                f"{len(segment.points) - 1}",
            )
        return position

    def _place(self, segment: Segment, others: tuple[Point, ...]) -> Point:
        """The place that is given, for a point of a segment that has these others."""
        x, y = (self._coordinate(key) for key in "xy")
        if not (0 <= x <= self.image.width and 0 <= y <= self.image.height):
            raise InvalidEdit(
                f"image {self.image.image_id!r}: the point ({x:g}, {y:g}) lies outside of the "
                f"image; expected 0 <= x <= {self.image.width} and 0 <= y <= {self.image.height}"
            )
        size = self.image.height, self.image.width
        if self.void and bool(is_void(self.void, np.array([[x, y]]), *size)[0]):
            raise InvalidEdit(
                f"image {self.image.image_id!r}: ({x:g}, {y:g}) is painted over as void, which is "
                "ignored; remove the void there first"
            )
        if (x, y) in others:
            raise self._refused(segment, f"there is a point at ({x:g}, {y:g}) already")
        pixel = self._pixel((x, y))
        for other in self.segments:
            if other.id == segment.id:
                continue
            # Most are not near: what is costly is asked of the others only.
            near = [p for p in other.points if -1 <= p[0] - x <= 1 and -1 <= p[1] - y <= 1]
            if near and pixel in map(self._pixel, near):
                name = self.categories[other.category_id].name
                raise InvalidEdit(
                    f"image {self.image.image_id!r}: segment {other.id} ({name}) has a point on "
                    f"pixel x={pixel[0]}, y={pixel[1]}; a pixel belongs to one segment. Move or "
                    "delete that point, or place this one beside it"
                )
        return x, y

    def _coordinate(self, key: str) -> float:
        value = self.action.get(key)
        number = math.nan
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
        if not math.isfinite(number):
            raise InvalidEdit(
                f"image {self.image.image_id!r}: {key} is {shown(value)}; expected a number of "
                "pixels"
            )
        return number

    def _pixel(self, point: Point) -> tuple[int, int]:
        # A point on the right or lower edge belongs to the last pixel, as in the format's checks.
        return (
            min(int(point[0]), self.image.width - 1),
            min(int(point[1]), self.image.height - 1),
        )

    def _refused(self, segment: Segment, text: str) -> InvalidEdit:
        return InvalidEdit(f"image {self.image.image_id!r}, segment {segment.id}: {text}")

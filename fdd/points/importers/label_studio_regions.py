"""Keypoints, their labels and what links them, out of the results of a Label Studio annotation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.parsing import (
    coordinate,
    kind_of,
    positive_int,
    refuse_shape,
    require,
)
from fdd.points.structures import PointLabelError

__all__ = ["add_results", "add_values"]

_SHAPES = ("rectangle", "polygon", "brush", "ellipse", "vector", "bitmask", "magicwand", "cube")
_SHAPE_TYPES = frozenset(name + end for name in _SHAPES for end in ("", "labels"))
_POINT_TYPES = frozenset({"keypoint", "keypointlabels"})
_NEGATIVE = "negative clicks of smart keypoints"


@dataclass
class _Keypoint:
    region: str
    value: dict[str, Any]
    holder: dict[str, Any]
    where: str


@dataclass
class _Links:
    """Which regions belong together."""

    parents: dict[str, str] = field(default_factory=dict)

    def root(self, region: str) -> str:
        path = [region]
        while (above := self.parents.get(path[-1], path[-1])) != path[-1]:
            path.append(above)
        self.parents.update(dict.fromkeys(path[:-1], path[-1]))
        return path[-1]

    def join(self, one: str, other: str) -> None:
        self.parents[self.root(one)] = self.root(other)


def add_results(image: RawImage, results: list[Any], *, skip_shapes: bool, old: bool) -> None:
    """Add the keypoints of one annotation's ``result`` to the image.

    Args:
        old: the file is of a version before 1.0.

    Raises:
        PointLabelError: naming the region.
    """
    keypoints: list[_Keypoint] = []
    labels: dict[str, list[str]] = {}
    links = _Links()
    for position, result in enumerate(results):
        kind = require(result, "type", str, f"{image.where}, result {position}")
        region = str(result.get("id", f"at position {position}"))
        where = f"{image.where}, region {region}"
        if kind == "relation":
            ends = (str(require(result, key, (str, int), where)) for key in ("from_id", "to_id"))
            links.join(*ends)
        elif kind in _POINT_TYPES:
            if old and result.get("image_rotation"):
                raise PointLabelError(
                    f"{where}: the image was turned by {result['image_rotation']} degrees in a "
                    "version before 1.0, which turned the coordinates with it. Export from a "
                    "newer version"
                )
            keypoints.append(
                _Keypoint(region, require(result, "value", dict, where), result, where)
            )
            if result.get("parentID"):
                links.join(region, str(result["parentID"]))
        elif kind == "labels":
            labels.setdefault(region, []).extend(_labels_of(result.get("value"), where))
        elif kind in _SHAPE_TYPES:
            _leave_out(image, kind, where, skip_shapes)
    for keypoint in keypoints:
        if keypoint.holder.get("is_positive") is False:
            image.notes[_NEGATIVE] += 1
            continue
        if keypoint.holder.get("item_index"):
            raise PointLabelError(f"{keypoint.where}: tasks of several images are not imported")
        named = [*_labels_of(keypoint.value, keypoint.where), *labels.get(keypoint.region, [])]
        instance = (image.where, links.root(keypoint.region))
        _add(image, keypoint, named, instance)


def add_values(image: RawImage, row: dict[str, Any], *, skip_shapes: bool) -> None:
    """Add the keypoints of one row of JSON-MIN to the image; each is an instance of its own.

    Raises:
        PointLabelError: naming the key and the position.
    """
    bare: list[tuple[str, tuple[Any, Any]]] = []
    for key, values in row.items():
        for position, value in enumerate(values if isinstance(values, list) else ()):
            if not isinstance(value, dict):
                continue
            where = f"{image.where}, {key!r}, position {position}"
            shape = next((name for name in _SHAPE_TYPES if name in value), None)
            if shape or {"points", "rle", "radiusX", "vertices"} & set(value) or "height" in value:
                _leave_out(image, shape or "shape", where, skip_shapes)
            elif "x" in value and "y" in value:
                named = _labels_of(value, where)
                if named:
                    _add(image, _Keypoint("", value, value, where), named, None)
                else:
                    bare.append((where, (value["x"], value["y"])))
    # A bare keypoint is listed again with its labels, under the key of those.
    _check_bare(bare, row)


def _check_bare(bare: list[tuple[str, tuple[Any, Any]]], row: dict[str, Any]) -> None:
    labelled = {
        (repr(v.get("x")), repr(v.get("y")))
        for values in row.values()
        if isinstance(values, list)
        for v in values
        if isinstance(v, dict) and ("labels" in v or "keypointlabels" in v)
    }
    for where, (x, y) in bare:
        if (repr(x), repr(y)) not in labelled:
            raise PointLabelError(f"{where}: a keypoint without a label; give it one")


def _leave_out(image: RawImage, kind: str, where: str, skip_shapes: bool) -> None:
    if not skip_shapes:
        refuse_shape(where, f"region of type {kind!r}")
    image.notes[f"{kind} regions"] += 1


def _labels_of(value: Any, where: str) -> list[str]:
    """The class names in a result's value."""
    if not isinstance(value, dict):
        raise PointLabelError(f"{where}: 'value' is {kind_of(value)}; expected an object")
    found: list[str] = []
    for key in ("keypointlabels", "labels"):
        names = value.get(key) or []
        if not isinstance(names, list):
            raise PointLabelError(f"{where}: {key!r} is {kind_of(names)}; expected a list")
        for name in names:
            if not isinstance(name, str):
                raise PointLabelError(f"{where}: the label {kind_of(name)}; expected a text")
        found += names
    return found


def _add(image: RawImage, keypoint: _Keypoint, labels: list[str], instance: Any) -> None:
    where = keypoint.where
    names = list(dict.fromkeys(labels))
    if len(names) != 1:
        raise PointLabelError(
            f"{where}: a keypoint with {len(names)} labels {names or ''}".rstrip()
            + "; expected one. Give each keypoint exactly one label"
        )
    width, height = (
        positive_int(keypoint.holder.get(f"original_{side}"), f"{where}: 'original_{side}'")
        for side in ("width", "height")
    )
    if image.width is not None and (image.width, image.height) != (width, height):
        raise PointLabelError(
            f"{where}: the image has {width} x {height} pixels here, {image.width} x "
            f"{image.height} in an earlier region; tasks of several images are not imported"
        )
    image.width, image.height = width, height
    x = _pixels(keypoint.value.get("x"), width, where)
    y = _pixels(keypoint.value.get("y"), height, where)
    image.points.append(RawPoint(names[0], x, y, instance, where))


def _pixels(percent: Any, side: int, where: str) -> float:
    return coordinate(coordinate(percent, where) * side / 100, where)

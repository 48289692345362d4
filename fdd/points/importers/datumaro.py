"""Datumaro JSON (``annotations/default.json``), as Datumaro and CVAT write it.

**Points.** Annotations of type ``points``: a flat list ``[x1, y1, x2, y2, ...]`` in pixels.
Datumaro has no convention of its own and keeps its source's; CVAT's, where most of these files come
from, is measured from the upper left corner of the image, as ours. Coordinates are taken as they
are.

**An instance** is one annotation with all its points. Annotations of one label with the same
``group`` (other than 0) in an item are one instance. A ``skeleton`` is one instance of its own
label.

**Left out**, and counted in the notes: points whose ``visibility`` is 0 (absent); 1 (hidden) and 2
(visible) are kept. Labels and captions of a whole image are not read. Boxes, polygons, masks and
so on are refused, or left out with ``skip_shapes``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fdd.points.importers.registry import ONLY_POINTS, RawImage, RawPoint, register_importer
from fdd.points.parsing import (
    coordinate,
    json_exports,
    kind_of,
    positive_int,
    refuse_shape,
    require,
    visibility,
)
from fdd.points.structures import PointLabelError

__all__ = ["read", "recognizes"]

_OF_THE_IMAGE = frozenset({"label", "caption", "hash_key"})


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format, see :class:`.registry.Importer`."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("items"), list)
        and isinstance(document.get("categories"), dict)
    )


@register_importer(
    "datumaro",
    title="Datumaro JSON",
    summary="Datumaro JSON (CVAT writes it, too)",
    hint=ONLY_POINTS,
    recognizes=recognizes,
)
def read(source: Path, *, skip_shapes: bool = False) -> list[RawImage]:
    """Read an export, see the module.

    Args:
        source: a JSON file, or a folder of them (one a subset).
        skip_shapes: leave out what is not a point instead of refusing it.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file, item and annotation.
    """
    images: list[RawImage] = []
    for path, document in json_exports(Path(source)):
        items = require(document, "items", list, str(path))
        labels = _labels(document, str(path))
        for number, item in enumerate(items):
            images.append(_image(item, labels, str(path), number, skip_shapes))
    return images


def _labels(document: dict[str, Any], source: str) -> list[str]:
    """Class names; an annotation's ``label_id`` is the position in this list."""
    categories = require(document, "categories", dict, source)
    if "label" not in categories:
        return []
    where = f"{source}: 'categories', 'label'"
    entries = require(categories["label"], "labels", list, where)
    return [require(e, "name", str, f"{where}, position {i}") for i, e in enumerate(entries)]


def _image(item: Any, labels: list[str], source: str, number: int, skip_shapes: bool) -> RawImage:
    name = require(item, "id", (str, int), f"{source}: 'items', position {number}")
    where = f"{source}, item {name!r}"
    image = RawImage(str(name), where=where)
    for key in ("point_cloud", "video", "video_frame"):
        if key in item:
            raise PointLabelError(f"{where}: a {key}; only images are imported")
    said = item.get("image")
    if said is not None:
        if not isinstance(said, dict):
            raise PointLabelError(f"{where}: 'image' is {kind_of(said)}; expected an object")
        if said.get("path"):
            image.file_name = require(said, "path", str, f"{where}, 'image'")
        if said.get("size") is not None:
            image.height, image.width = _size(said["size"], f"{where}, 'image'")
    for position, annotation in enumerate(require(item, "annotations", list, where)):
        _add(image, annotation, labels, (source, number, position), skip_shapes)
    return image


def _size(size: Any, where: str) -> tuple[int, int]:
    if not isinstance(size, list) or len(size) != 2:
        raise PointLabelError(f"{where}: 'size' is {reprlib.repr(size)}; expected [height, width]")
    height, width = (positive_int(side, f"{where}: 'size'") for side in size)
    return height, width


def _add(
    image: RawImage,
    annotation: Any,
    labels: list[str],
    place: tuple[str, int, int],
    skip_shapes: bool,
) -> None:
    """Add an annotation's points to the image; ``place``: file, item and position within it."""
    where = f"{image.where}, annotation {place[2]}"
    kind = require(annotation, "type", str, where)
    if kind in _OF_THE_IMAGE:
        return
    if kind not in ("points", "skeleton"):
        if not skip_shapes:
            refuse_shape(where, kind)
        image.notes[f"{kind} annotations"] += 1
        return
    label = _label(annotation, labels, where)
    instance = _instance(annotation, place, where)
    step = 2 if kind == "points" else 3
    flat = require(annotation, "points", list, where)
    if len(flat) % step:
        raise PointLabelError(
            f"{where}: 'points' has {len(flat)} numbers; expected a multiple of {step}"
        )
    seen = flat[2::3] if step == 3 else annotation.get("visibility")
    if seen is not None and (not isinstance(seen, list) or len(seen) != len(flat) // step):
        raise PointLabelError(
            f"{where}: 'visibility' is {kind_of(seen)}; expected one number for each of the "
            f"{len(flat) // step} points"
        )
    for n, (x, y) in enumerate(zip(flat[::step], flat[1::step], strict=True)):
        if seen is not None and visibility(seen[n], where) == 0:
            image.notes["points marked as absent"] += 1
            continue
        image.points.append(
            RawPoint(label, coordinate(x, where), coordinate(y, where), instance, where)
        )


def _label(annotation: dict[str, Any], labels: list[str], where: str) -> str:
    number = require(annotation, "label_id", (int, type(None)), where)
    if number is None:
        raise PointLabelError(f"{where}: 'label_id' is null; give the points a class")
    if not 0 <= number < len(labels):
        raise PointLabelError(
            f"{where}: 'label_id' is {number}, but the file has {len(labels)} labels (from 0)"
        )
    return labels[number]


def _instance(annotation: dict[str, Any], place: tuple[str, int, int], where: str) -> Hashable:
    group = annotation.get("group") or 0
    if not isinstance(group, int):
        raise PointLabelError(f"{where}: 'group' is {kind_of(group)}; expected a number")
    source, item, position = place
    return (source, item, "group", group) if group else (source, item, "shape", position)

"""Points of COCO's JSON: COCO keypoints, and PointSup's ``point_coords``.

Both extend COCO's images, categories and annotations. Boxes, areas and segmentations of an
annotation are not read: they say more than points may. **An instance** is one annotation with all
its labelled points, of the annotation's category. **Left out**, and counted in the notes: crowds
(regions of many objects), and annotations without points.

**COCO keypoints** are ``x, y, visibility``. x and y are whole numbers, the index of a pixel from 0.
The centre of pixel 0 lies at 0.5, so 0.5 is added, as in Detectron2. CVAT and Label Studio write
fractions of pixels, measured from the upper left corner, into the same format. A file in which any
coordinate has a fraction is therefore taken as it is, and a note says so; ``pixel_centers`` decides
it by hand. Keypoints with visibility 0 (not labelled) are left out; 1 (occluded) and 2 are kept.
The names of the keypoints are not used.

**PointSup**'s ``point_coords`` is ``[[x, y], ...]``, whole numbers, the index of a pixel from 0.
The mapper of PointSup (a project of Detectron2) always adds 0.5 to reach the pixel's centre; so
does this reader. Points with label 1 in ``point_labels`` lie on the object. Left out: points with
label 0, which lie in the object's box but not on the object (they say what a pixel is *not*, which
point labels cannot say); ignored points (label -1); objects of which no point is left.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fdd.points.importers.registry import RawImage, RawPoint, register_importer
from fdd.points.parsing import (
    coordinate,
    json_exports,
    kind_of,
    optional_side,
    require,
    visibility,
)
from fdd.points.structures import PointLabelError

__all__ = ["has_keypoints", "has_point_coords", "read_keypoints", "read_pointsup"]

#: From the index of a pixel to the position of its centre.
_PIXEL_CENTER = 0.5
_FRACTIONS = "keypoints taken as positions, because the file has fractions of pixels"
_ON_OBJECT = 1
_LEFT_OUT = {0: "points that do not lie on the object (label 0)", -1: "ignored points (label -1)"}
_MASKS = "Are the labels masks? `fdd points sample` draws points from them."

#: Called with the annotation, its image, the category's name, the annotation's place for messages
#: and a key that no other annotation has; adds the annotation's points to the image.
_PointReader = Callable[[dict[str, Any], RawImage, str, str, tuple[str, int]], None]


def has_keypoints(path: Path, document: Any) -> bool:
    """Whether a file has COCO keypoints, see :class:`.registry.Importer`."""
    return _has(document, "keypoints") and not _has(document, "point_coords")


@register_importer(
    "coco-keypoints",
    title="COCO keypoints JSON",
    summary="COCO keypoints JSON",
    hint="A keypoint counts with visibility 1 or 2, and not in a crowd. Are the points in "
    f"'point_coords'? Give --format pointsup. {_MASKS}",
    recognizes=has_keypoints,
)
def read_keypoints(source: Path, *, pixel_centers: bool | None = None) -> list[RawImage]:
    """Read COCO keypoints, see the module.

    Args:
        source: a JSON file, or a folder of them.
        pixel_centers: True: coordinates are indices of pixels (0.5 is added); False: positions,
            taken as they are; None: positions if the file has fractions.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and annotation.
    """
    files = _read(source, "keypoints", _add_keypoints)
    for images in files:
        points = [p for image in images for p in image.points]
        whole = all(p.x == int(p.x) and p.y == int(p.y) for p in points)
        if whole if pixel_centers is None else pixel_centers:
            for image in images:
                image.shift = _PIXEL_CENTER
            for point in points:
                point.x += _PIXEL_CENTER
                point.y += _PIXEL_CENTER
        elif pixel_centers is None:
            for image in images:
                image.notes[_FRACTIONS] += len(image.points)
    return [image for images in files for image in images]


def _add_keypoints(
    annotation: dict[str, Any], image: RawImage, label: str, where: str, key: tuple[str, int]
) -> None:
    flat = require(annotation, "keypoints", list, where)
    if len(flat) % 3:
        raise PointLabelError(
            f"{where}: 'keypoints' has {len(flat)} numbers; expected three for each: x, y and "
            "visibility"
        )
    for x, y, seen in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        if visibility(seen, where) == 0:
            image.notes["keypoints that are not labelled (visibility 0)"] += 1
            continue
        image.points.append(RawPoint(label, coordinate(x, where), coordinate(y, where), key, where))


def has_point_coords(path: Path, document: Any) -> bool:
    """Whether a file is PointSup's, see :class:`.registry.Importer`."""
    return _has(document, "point_coords")


@register_importer(
    "pointsup",
    title="PointSup COCO JSON",
    summary="PointSup's COCO JSON (point_coords, point_labels)",
    hint="Only points that lie on their object (label 1) count. Are the points in 'keypoints'? "
    f"Give --format coco-keypoints. {_MASKS}",
    recognizes=has_point_coords,
)
def read_pointsup(source: Path) -> list[RawImage]:
    """Read PointSup's points, see the module.

    Args:
        source: a JSON file, or a folder of them.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and annotation.
    """
    return [i for images in _read(source, "point_coords", _add_point_coords) for i in images]


def _add_point_coords(
    annotation: dict[str, Any], image: RawImage, label: str, where: str, key: tuple[str, int]
) -> None:
    coords = require(annotation, "point_coords", list, where)
    signs = require(annotation, "point_labels", list, where)
    if len(coords) != len(signs):
        raise PointLabelError(
            f"{where}: {len(coords)} 'point_coords', but {len(signs)} 'point_labels'"
        )
    before = len(image.points)
    image.shift = _PIXEL_CENTER
    for pair, sign in zip(coords, signs, strict=True):
        if isinstance(sign, int) and sign in _LEFT_OUT:
            image.notes[_LEFT_OUT[sign]] += 1
            continue
        if sign != _ON_OBJECT:
            raise PointLabelError(f"{where}: the point label {kind_of(sign)}; expected 1, 0 or -1")
        if not isinstance(pair, list) or len(pair) != 2:
            raise PointLabelError(f"{where}: the point {reprlib.repr(pair)}; expected [x, y]")
        x, y = (coordinate(value, where) + _PIXEL_CENTER for value in pair)
        image.points.append(RawPoint(label, x, y, key, where))
    if len(image.points) == before:
        image.notes["objects without a point on them"] += 1


def _has(document: Any, key: str) -> bool:
    """Whether parsed JSON is COCO-like and an annotation has the key."""
    annotations = document.get("annotations") if isinstance(document, dict) else None
    return (
        isinstance(annotations, list)
        and isinstance(document.get("images"), list)
        and any(isinstance(a, dict) and key in a for a in annotations)
    )


def _read(source: Path, key: str, add: _PointReader) -> list[list[RawImage]]:
    """Call ``add`` for each annotation with ``key`` that is not a crowd; the images of each file.

    Images are those of the file, also without annotations. Their ids are kept where one file is
    read; those of several files may clash.

    Raises:
        PointLabelError: naming file and element; also where no annotation has the key.
    """
    files = [_read_file(str(path), d, key, add) for path, d in json_exports(Path(source))]
    if len(files) > 1:
        for image in (image for images in files for image in images):
            image.image_id = None
    return files


def _read_file(source: str, document: Any, key: str, add: _PointReader) -> list[RawImage]:
    images = _images(require(document, "images", list, source), source)
    names = _names(require(document, "categories", list, source), source)
    annotations = require(document, "annotations", list, source)
    if annotations and not _has(document, key):
        raise PointLabelError(f"{source}: none of {len(annotations)} annotations has {key!r}")
    for position, annotation in enumerate(annotations):
        place = f"position {position}"
        image_id = require(annotation, "image_id", (int, str), f"{source}, annotation {place}")
        where = f"{source}, annotation {annotation.get('id', place)}"
        if image_id not in images:
            raise PointLabelError(f"{where}: no image has the id {image_id!r}")
        category = require(annotation, "category_id", int, where)
        if category not in names:
            raise PointLabelError(f"{where}: no category has the id {category}")
        image = images[image_id]
        if annotation.get("iscrowd"):
            image.notes["crowd annotations (regions of many objects)"] += 1
        elif key not in annotation:
            image.notes[f"annotations without {key!r}"] += 1
        else:
            add(annotation, image, names[category], where, (source, position))
    return list(images.values())


def _images(entries: list[Any], source: str) -> dict[str | int, RawImage]:
    images: dict[str | int, RawImage] = {}
    for position, entry in enumerate(entries):
        image_id = require(entry, "id", (int, str), f"{source}, 'images', position {position}")
        where = f"{source}, image {image_id!r}"
        if image_id in images:
            raise PointLabelError(f"{where}: two images have this id")
        width, height = (optional_side(entry, side, where) for side in ("width", "height"))
        name = require(entry, "file_name", str, where)
        images[image_id] = RawImage(name, [], width, height, where, image_id)
    return images


def _names(entries: list[Any], source: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for position, entry in enumerate(entries):
        where = f"{source}, 'categories', position {position}"
        number = require(entry, "id", int, where)
        if number in names:
            raise PointLabelError(f"{where}: two categories have the id {number}")
        names[number] = require(entry, "name", str, where)
    return names

"""PointSup's COCO JSON: ``point_coords`` and ``point_labels`` of annotations.

**Points.** ``point_coords`` is ``[[x, y], ...]``, whole numbers, the index of a pixel from 0.
The mapper of PointSup (a project of Detectron2) adds 0.5 to reach the pixel's centre, always; so
does this reader.

**An instance** is one annotation with all its points whose label is 1.

**Left out**, and counted in the notes: points with label 0, which lie in the object's box but not
on the object (they say what a pixel is *not*, which point labels cannot say); ignored points
(label -1); objects of which no point is left; crowds, as in PointSup; annotations without points.
Boxes and segmentations, which PointSup's files also hold, are not read.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from fdd.points.importers.coco_tables import has_annotations_with, read_coco
from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.parsing import coordinate, kind_of, require
from fdd.points.structures import PointLabelError

__all__ = ["TITLE", "read", "recognizes"]

TITLE = "PointSup COCO JSON"

_PIXEL_CENTER = 0.5
_ON_OBJECT = 1
_LEFT_OUT = {0: "points that do not lie on the object (label 0)", -1: "ignored points (label -1)"}


def read(source: Path) -> list[RawImage]:
    """Read annotations, see the module.

    Args:
        source: a JSON file, or a folder of them.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and annotation.
    """
    files = read_coco(Path(source), "point_coords", _take)
    return [image for images in files for image in images]


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format; ``document`` is its parsed JSON, if it is JSON."""
    return has_annotations_with(document, "point_coords")


def _take(
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

"""LabelMe: one JSON file an image, or a folder of them.

Shapes of type ``point`` are read. ``group_id`` makes points of one label one instance, as the tool
itself does: an instance is a pair of label and ``group_id``. Without it each point is an instance
of its own. Files of versions 3 to 6 are read (3 has no ``group_id``); ``imageData``, the image
itself in the file, is not read.

Coordinates are continuous pixels, (0, 0) is the outer corner of the first pixel: the tool scales
the cursor's place on its canvas, whose origin is the corner of the picture, and stores it
unrounded. That is our convention, nothing is converted. The tool turns images upright by their EXIF
tag before it shows them, so ``imageWidth`` and ``imageHeight`` are those of the displayed image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fdd.points.importers.registry import (
    NOT_IMPORTED,
    ONLY_POINTS,
    RawImage,
    RawPoint,
    register_importer,
)
from fdd.points.parsing import coordinate, json_exports, kind_of, optional_side, require
from fdd.points.structures import PointLabelError, raise_problems

__all__ = ["read", "recognizes"]


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format, see :class:`.registry.Importer`."""
    return isinstance(document, dict) and "shapes" in document and "imagePath" in document


@register_importer(
    "labelme",
    title="LabelMe JSON",
    summary="LabelMe JSON, a file an image",
    hint=ONLY_POINTS,
    recognizes=recognizes,
)
def read(source: Path, *, skip_shapes: bool = False) -> list[RawImage]:
    """Read a LabelMe file, or all below a folder, in the order of their paths.

    Args:
        source: a file or a folder.
        skip_shapes: leave out polygons, rectangles and other shapes that are not points, and count
            them in the images' notes; by default they are an error.

    Raises:
        FileNotFoundError: there is no such file, or no JSON file in the folder.
        PointLabelError: a file is not a valid LabelMe file, or has other shapes.
    """
    problems: list[str] = []
    images = [_read_image(path, d, skip_shapes, problems) for path, d in json_exports(source)]
    hint = "Label with points, or leave such shapes out with --skip-shapes."
    raise_problems(str(source), problems, NOT_IMPORTED, hint)
    return images


def _read_image(path: Path, document: Any, skip_shapes: bool, problems: list[str]) -> RawImage:
    where = str(path)
    if not recognizes(path, document):
        raise PointLabelError(
            f"{where}: not a LabelMe file; expected an object with 'shapes' and 'imagePath'. Move "
            "the file elsewhere if it is something else."
        )
    image = RawImage(require(document, "imagePath", str, where), where=where)
    for i, shape in enumerate(require(document, "shapes", list, where)):
        here = f"{where}, shapes[{i}]"
        if isinstance(shape, dict) and shape.get("shape_type") is None:
            kind = "polygon"  # as the tool itself reads old files
        else:
            kind = require(shape, "shape_type", str, here)
        if kind == "point":
            image.points.append(_read_point(shape, here))
        elif skip_shapes:
            image.notes[f"shapes of type {kind!r}, which are no points"] += 1
        else:
            label = shape.get("label")
            problems.append(f"{here}: a {kind!r} of {label!r}; only shapes of type 'point' count.")
    # Some versions of the tool leave them out, or null.
    image.width = optional_side(document, "imageWidth", where)
    image.height = optional_side(document, "imageHeight", where)
    return image


def _read_point(shape: dict[str, Any], where: str) -> RawPoint:
    label = require(shape, "label", str, where)
    points = require(shape, "points", list, where)
    if len(points) != 1 or not isinstance(points[0], list) or len(points[0]) != 2:
        raise PointLabelError(f"{where}: 'points' of a point is {points!r:.60}; expected [[x, y]]")
    x, y = (coordinate(value, where) for value in points[0])
    group = None if shape.get("group_id") == "" else shape.get("group_id")
    if isinstance(group, bool) or not isinstance(group, (int, str, type(None))):
        raise PointLabelError(f"{where}: 'group_id' is {kind_of(group)}; expected a whole number")
    return RawPoint(label, x, y, group, where)

"""COCO keypoints JSON: ``keypoints`` of annotations, each ``x, y, visibility``.

**Points.** COCO's keypoints are whole numbers, the index of a pixel from 0. The centre of pixel 0
lies at 0.5, so 0.5 is added, as Detectron2 does. CVAT and Label Studio write fractions of pixels,
measured from the upper left corner, into the same format. A file in which any coordinate has a
fraction is therefore taken as it is, and a note says so; ``pixel_centers`` decides it by hand.

**An instance** is one annotation with all its labelled keypoints, of the annotation's category. The
keypoints' names are not looked at.

**Left out**, and counted in the notes: keypoints with visibility 0 (not labelled); crowds;
annotations without keypoints. Visibility 1 (occluded) and 2 are kept. Boxes, areas and
segmentations are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fdd.points.importers.coco_tables import has_annotations_with, read_coco
from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.parsing import coordinate, kind_of, require
from fdd.points.structures import PointLabelError

__all__ = ["TITLE", "read", "recognizes"]

TITLE = "COCO keypoints JSON"

#: From the index of a pixel to the position of its centre.
PIXEL_CENTER = 0.5
_NOT_LABELLED = 0
_FRACTIONS = "keypoints taken as positions, because the file has fractions of pixels"


def read(source: Path, *, pixel_centers: bool | None = None) -> list[RawImage]:
    """Read annotations, see the module.

    Args:
        source: a JSON file, or a folder of them.
        pixel_centers: True: coordinates are indices of pixels (0.5 is added); False: positions,
            taken as they are; None: by whether the file has fractions.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and annotation.
    """
    files = read_coco(Path(source), "keypoints", _take)
    for images in files:
        points = [p for image in images for p in image.points]
        whole = all(p.x == int(p.x) and p.y == int(p.y) for p in points)
        if whole if pixel_centers is None else pixel_centers:
            for image in images:
                image.shift = PIXEL_CENTER
            for point in points:
                point.x += PIXEL_CENTER
                point.y += PIXEL_CENTER
        elif pixel_centers is None:
            for image in images:
                image.notes[_FRACTIONS] += len(image.points)
    return [image for images in files for image in images]


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format; ``document`` is its parsed JSON, if it is JSON."""
    return has_annotations_with(document, "keypoints") and not has_annotations_with(
        document, "point_coords"
    )


def _take(
    annotation: dict[str, Any], image: RawImage, label: str, where: str, key: tuple[str, int]
) -> None:
    flat = require(annotation, "keypoints", list, where)
    if len(flat) % 3:
        raise PointLabelError(
            f"{where}: 'keypoints' has {len(flat)} numbers; expected three for each: x, y and "
            "visibility"
        )
    for x, y, seen in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        if isinstance(seen, bool) or not isinstance(seen, (int, float)) or seen not in (0, 1, 2):
            hint = ""
            if isinstance(seen, float) and 0 < seen < 1:
                hint = ". A model's score? Write 0 for keypoints to leave out and 2 for the others"
            raise PointLabelError(
                f"{where}: the visibility {kind_of(seen)}; expected 0, 1 or 2{hint}"
            )
        if seen == _NOT_LABELLED:
            image.notes["keypoints that are not labelled (visibility 0)"] += 1
            continue
        image.points.append(RawPoint(label, coordinate(x, where), coordinate(y, where), key, where))

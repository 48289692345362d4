"""Sparse panoptic PNGs, the form in which PSPS and Point2Mask distribute point labels.

A picture is the image's panoptic PNG with every pixel 0 except the labelled ones, whose number
R + 256 G + 65536 B is the id of their segment. The full panoptic JSON says which class a segment
has, and which classes are things; no area, box or mask in it is read. A point is the centre of
its pixel. Segment and image ids are kept, so that masks of the same data set fit the points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fdd.points.classes import ClassList
from fdd.points.coco_panoptic import read_panoptic_json
from fdd.points.importers.registry import RawImage, RawPoint, register_importer
from fdd.points.sparse_png import read_sparse_png
from fdd.points.structures import PointLabelError

__all__ = ["classes", "read", "recognizes"]


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file may be one of the pictures; the JSON beside them decides."""
    return document is None and path.suffix.lower() == ".png"


def classes(source: Path, panoptic_json: Path | None = None) -> ClassList:
    """The classes of the panoptic JSON, with its ids."""
    categories, _ = read_panoptic_json(_given(source, panoptic_json))
    return ClassList(tuple(categories))


@register_importer(
    "sparse-png",
    title="sparse panoptic PNGs",
    summary="sparse PNGs of PSPS and Point2Mask, with --panoptic-json",
    hint="No PNG has a labelled pixel of an object or region: is it the right folder, and the "
    "--panoptic-json that belongs to it?",
    recognizes=recognizes,
    classes=classes,
    keep_ids=True,
    defines_unit=True,  # a point is a pixel of a picture
)
def read(source: Path, panoptic_json: Path | None = None) -> list[RawImage]:
    """Read a folder of sparse PNGs.

    Args:
        source: the folder.
        panoptic_json: the panoptic JSON of the full masks, with the same PNG names.

    Raises:
        FileNotFoundError: a file is missing.
        PointLabelError: no folder or no JSON is given, or they do not belong together.
    """
    panoptic_json = _given(source, panoptic_json)
    if not source.is_dir():
        raise PointLabelError(f"{source}: expected the folder of the sparse PNGs")
    dataset = read_sparse_png(panoptic_json, source)
    names = {category.id: category.name for category in dataset.categories}
    images = []
    for image in dataset.images:
        where = f"{panoptic_json}, image {image.image_id!r}"
        raw = RawImage(image.file_name, [], image.width, image.height, where, image.image_id)
        for segment in image.segments:
            here, label = f"{where}, segment {segment.id}", names[segment.category_id]
            raw.points += [RawPoint(label, x, y, segment.id, here) for x, y in segment.points]
        images.append(raw)
    crowd = dataset.info["skipped_crowd_points"]
    if images and crowd:
        images[0].notes["points on crowds (regions of many objects)"] += crowd
    return images


def _given(source: Path, panoptic_json: Path | None) -> Path:
    if panoptic_json is None:
        raise PointLabelError(
            f"{source}: sparse PNGs hold segment ids, whose classes are in the panoptic JSON. "
            "Give it with --panoptic-json FILE."
        )
    return Path(panoptic_json)

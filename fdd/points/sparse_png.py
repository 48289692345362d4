"""Point labels as sparse panoptic PNGs, the form PSPS and Point2Mask distribute theirs in.

A picture is the image's panoptic PNG with every pixel 0 except the sampled ones. The categories
come from the full panoptic JSON, of which only ids, ``category_id`` and ``iscrowd`` are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from fdd.points.coco_panoptic import (
    MAX_SEGMENT_ID,
    PanopticImage,
    group_pixels,
    load_segment_ids,
    read_panoptic_json,
    save_segment_ids,
)
from fdd.points.structures import PointDataset, PointImage, PointLabelError, PointSegment
from fdd.points.validation import validate_points
from fdd.points.void import without_void

__all__ = ["read_sparse_png", "write_sparse_png"]


def read_sparse_png(
    panoptic_json: str | os.PathLike[str],
    sparse_root: str | os.PathLike[str],
    max_points: int = 1000,
) -> PointDataset:
    """Read a folder of sparse PNGs as points at pixel centres.

    Segments without a point are left out, and so are points on crowds, whose number is
    ``info["skipped_crowd_points"]``. The points of a segment come in reading order.

    Args:
        panoptic_json: the full panoptic JSON that the PNGs belong to.
        sparse_root: the folder of the sparse PNGs, named like the panoptic ones.
        max_points: a segment with more is taken for a mask.

    Raises:
        FileNotFoundError: a file is missing.
        PointLabelError: a PNG does not fit the JSON, or holds masks.
    """
    categories, images = read_panoptic_json(panoptic_json)
    read = [_read_image(image, Path(sparse_root), max_points) for image in images]
    info = {
        "source": Path(panoptic_json).name,
        "sparse_png": Path(sparse_root).name,
        "skipped_crowd_points": sum(crowd for _, crowd in read),
    }
    dataset = PointDataset(categories, [image for image, _ in read], info)
    validate_points(dataset, os.fspath(sparse_root))
    return dataset


def _read_image(image: PanopticImage, root: Path, max_points: int) -> tuple[PointImage, int]:
    path = root / image.png_name
    ids = load_segment_ids(path, image.height, image.width)
    result = PointImage(image.image_id, image.file_name, image.height, image.width)
    crowd_points = 0
    for i, pixels in enumerate(group_pixels(ids, image.segment_ids, str(path))):
        if len(pixels) > max_points:
            raise PointLabelError(
                f"{path}: segment {image.segment_ids[i]} of image {image.image_id!r} has "
                f"{len(pixels)} points. This looks like a full mask; give the folder of sparse "
                "PNGs, or raise max_points."
            )
        if image.crowd[i]:
            crowd_points += len(pixels)
        elif len(pixels):
            points = [(p % image.width + 0.5, p // image.width + 0.5) for p in pixels.tolist()]
            segment = PointSegment(image.segment_ids[i], image.category_ids[i], points)
            result.segments.append(segment)
    return result, crowd_points


def write_sparse_png(
    dataset: PointDataset,
    sparse_root: str | os.PathLike[str],
    png_names: Mapping[str | int, str] | None = None,
) -> None:
    """Write one sparse PNG per image. A point sets the pixel that it lies in.

    A PNG cannot say what was painted over as void: points under it are left out.

    Args:
        dataset: the points.
        sparse_root: the folder to write to.
        png_names: PNG name of each image id; by default the image's file name with ``.png``.

    Raises:
        PointLabelError: invalid points, ids beyond 2^24, or two images with one PNG name.
    """
    validate_points(dataset, f"point labels for {os.fspath(sparse_root)}")
    owner: dict[str, str | int] = {}
    for image in dataset.images:
        if png_names is None:
            name = PurePosixPath(image.file_name.replace("\\", "/")).stem + ".png"
        else:
            name = png_names[image.image_id]
        if name in owner:
            raise PointLabelError(
                f"images {owner[name]!r} and {image.image_id!r} would both be written to {name!r}. "
                "Give their image files different names, or pass png_names."
            )
        owner[name] = image.image_id
        _write_image(without_void(image), Path(sparse_root) / name)


def _write_image(image: PointImage, path: Path) -> None:
    ids = np.zeros((image.height, image.width), dtype=np.int64)
    for segment in image.segments:
        if segment.id > MAX_SEGMENT_ID:
            raise PointLabelError(
                f"image {image.image_id!r}, segment {segment.id}: a PNG holds ids up to "
                f"{MAX_SEGMENT_ID}. Renumber the segment, or write the JSON form."
            )
        xy = np.floor(np.array(segment.points, dtype=np.float64)).astype(np.int64)
        ids[np.minimum(xy[:, 1], image.height - 1), np.minimum(xy[:, 0], image.width - 1)] = (
            segment.id
        )
    save_segment_ids(path, ids)

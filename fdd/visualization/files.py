"""Pictures in and out of files, by paths of any alphabet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fdd.points.coco_panoptic import load_segment_ids

__all__ = ["read_ground_truth", "read_rgb", "write_rgb"]


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
    """An image as uint8 ``(H, W, 3)`` RGB, turned upright as its EXIF tag says (as Detectron2
    does).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a readable image.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{os.fspath(path)} is not a readable image: {error}") from error


def write_rgb(path: str | os.PathLike[str], picture: np.ndarray) -> Path:
    """Write a uint8 ``(H, W, 3)`` RGB picture in the format of the path's ending; parents are
    made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(np.ascontiguousarray(picture)).save(path, **options)
    return path


def read_ground_truth(
    dataset_dict: Mapping[str, Any],
) -> tuple[np.ndarray, Sequence[Mapping[str, Any]]] | None:
    """The masks of a dataset dict, for :func:`fdd.visualization.draw_panoptic`; None in a point
    set.

    Returns:
        ids int32 ``(H, W)`` and the ``segments_info`` (contiguous ids) without crowds, so that
        those are drawn as void.
    """
    path = dataset_dict.get("pan_seg_file_name")
    if path is None:
        return None
    segments = [s for s in dataset_dict["segments_info"] if not s.get("iscrowd", 0)]
    return load_segment_ids(path), segments

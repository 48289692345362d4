"""Pictures and panoptic PNGs in and out of files, by paths of any alphabet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


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
    options: dict[str, Any] = {}
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options["quality"] = 92
    Image.fromarray(np.ascontiguousarray(picture)).save(path, **options)
    return path


def read_panoptic_png(path: str | os.PathLike[str]) -> np.ndarray:
    """The segment ids of a COCO panoptic PNG (``R + 256 G + 65536 B``), int64 ``(H, W)``."""
    with Image.open(path) as image:
        rgb = np.array(image.convert("RGB"), dtype=np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def write_panoptic_png(path: str | os.PathLike[str], ids: np.ndarray) -> Path:
    """Write segment ids ``(H, W)`` as a COCO panoptic PNG.

    Raises:
        ValueError: for an id that three bytes do not hold.
    """
    ids = np.asarray(ids).astype(np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        raise ValueError(f"segment ids span {ids.min()}..{ids.max()}, expected 0..{(1 << 24) - 1}")
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    return write_rgb(path, rgb)


def read_ground_truth(
    dataset_dict: Mapping[str, Any],
) -> tuple[np.ndarray, Sequence[Mapping[str, Any]]] | None:
    """The masks of a dataset dict, for :func:`fdd.visualization.draw_panoptic`; None in a point
    set.

    Returns:
        ids int64 ``(H, W)`` and the ``segments_info`` (contiguous ids) without crowds, so that
        those are drawn as void.
    """
    path = dataset_dict.get("pan_seg_file_name")
    if path is None:
        return None
    segments = [s for s in dataset_dict["segments_info"] if not s.get("iscrowd", 0)]
    return read_panoptic_png(path), segments

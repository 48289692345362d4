"""From a dataset dict to what the model takes: read, augment, then rasterise the points."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from fdd.data.augmentation import build_augmentation
from fdd.data.images import ImageFileError, read_image
from fdd.points import num_valid_cells, rasterize_points
from fdd.points.coco_panoptic import load_segment_ids, rank_pixels
from fdd.points.void import parse_stroke, void_mask

__all__ = ["MASK_STRIDE", "FDDDatasetMapper", "ImageFileError", "sample_cells"]

logger = logging.getLogger(__name__)

_SUPERVISION = ("points", "masks")
#: Stride of the masks that full supervision learns from, in pixels of the augmented image.
MASK_STRIDE = 4
# A coordinate this far outside the image is rounding noise, in pixels.
_TOLERANCE = 1e-3


class FDDDatasetMapper:
    """Make a training or test example of a dataset dict.

    Points travel through the augmentations as coordinates and are rasterised at the end. Masks,
    where full supervision asks for them, are looked up at the places that the cells of the
    augmented image come from. A point set's masks are never opened.

    The returned dict:

    * ``file_name``, ``image_id`` (as given), ``height``, ``width``: of the original image;
    * ``image``: uint8 ``(3, H, W)`` after augmentation, channels in ``image_format`` order. It is a
      view of rows, columns, channels (strides ``(1, 3 W, 3)``): no copy is made to turn it;
    * ``diagonal``: float, the diagonal in pixels of the whole image at the scale of ``image``,
      also where a crop left a part of it;
    * ``classes``: int64 ``(N,)``, contiguous, things first; ``instance_ids``: list of N ids;
    * ``point_coords``: float32 ``(P, 2)``, x and y in pixels of the augmented image;
    * ``point_index``: int64 ``(P,)``, the instance of each point;
    * ``point_cells``: int64 ``(M, 3)``, rows (instance, row, column) of the stride-8 cells of each
      instance's dilated points; two instances may share a cell;
    * ``point_instance_map`` (S^ins): int32 ``(h, w)`` at stride 8, instance or -1;
    * ``point_semantic_map`` (S^sem): int32 ``(h, w)``, class or -1;
    * ``instance_map``: int32 ``(h4, w4)`` at stride 4, instance or -1; only when training with
      ``supervision="masks"``, where the point fields are empty.

    Where the image has void (:mod:`fdd.points.void`), also ``void``, its strokes in pixels of the
    original, and ``void_map``: bool ``(h4, w4)`` at stride 4.

    An image without points has N = P = M = 0 and maps of -1. If the dataset dict has an integer
    ``"_seed"``, it alone determines the augmentations, and numpy's global state is left as it was.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        supervision: str = "points",
        dilate_side: float = 17.0,
        dilate_reference: float = 600.0,
    ) -> None:
        """Create the mapper.

        Args:
            is_train: whether examples are for training (then dicts need labels).
            augmentations: Detectron2 augmentations; geometric ones must be affine with masks.
            image_format: ``RGB`` or ``BGR``.
            supervision: ``points``, or ``masks`` for full supervision.
            dilate_side: side of a point's square in pixels, at a short side of ...
            dilate_reference: ... this many pixels (see :func:`fdd.points.raster.dilated_side`).
        """
        if supervision not in _SUPERVISION:
            raise ValueError(
                f"supervision is {supervision!r}; allowed: {', '.join(map(repr, _SUPERVISION))}"
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.supervision = supervision
        self.dilate_side = dilate_side
        self.dilate_reference = dilate_reference

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        augmentations = build_augmentation(cfg, is_train)
        logger.info("Augmentations (%s): %s", "training" if is_train else "test", augmentations)
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "supervision": "masks" if cfg.MODEL.FDD.PAN_SUPERVISION == "full" else "points",
            "dilate_side": cfg.INPUT.POINTS.DILATE_SIDE,
            "dilate_reference": cfg.INPUT.POINTS.DILATE_REFERENCE,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dict of a point set or mask set (see :mod:`fdd.data.loading`), left unchanged.

        Raises:
            FileNotFoundError: the image (or panoptic PNG) is missing.
            ImageFileError: the image is corrupt or has another size than the labels say.
            ValueError: the dict does not carry the labels that the supervision needs.
        """
        example, transforms = self.read(dataset_dict)
        record = dataset_dict | {k: example[k] for k in ("image_id", "height", "width")}
        size = tuple(example["image"].shape[-2:])
        if self.is_train and self.supervision == "masks":
            example.update(self._map_masks(record, transforms, size))
        else:
            example.update(self.map_points(record, transforms, size))
            if record.get("void"):
                example.update(_map_void(record, transforms, size))
        return example

    def read(self, dataset_dict: dict[str, Any]) -> tuple[dict[str, Any], T.TransformList]:
        """An example without its labels, and how its image was augmented; errors of the images."""
        record = copy.copy(dataset_dict)
        record.setdefault("image_id", record["file_name"])
        image = _read_image(record, self.image_format)
        raw_size = image.shape[:2]
        with _seeded(record.get("_seed")):
            aug_input = T.AugInput(image)
            transforms = self.augmentations(aug_input)
        example = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        # Augmentations of others may return a mirrored view, or Pillow's read-only memory.
        image = np.require(aug_input.image, requirements=["C", "W"])
        example["image"] = torch.from_numpy(image).permute(2, 0, 1)
        example["diagonal"] = _diagonal(transforms, raw_size)
        return example, transforms

    def map_points(
        self, record: dict[str, Any], transforms: T.TransformList, size: tuple[int, int]
    ) -> dict[str, Any]:
        """The point fields of an example, from ``classes`` on.

        Args:
            record: dataset dict; its ``points`` are looked at.
            transforms: what made the image. size: (H, W) of it.
        """
        if self.is_train and "points" not in record:
            raise ValueError(
                f"image {record['image_id']!r} ({record['file_name']}): training with points, but "
                "its data set has none. Train on a point set (fdd_..._p1, register_points), or set "
                "MODEL.FDD.PAN_SUPERVISION to 'full' for full masks."
            )
        segments = sorted(record.get("points", ()), key=lambda segment: not segment["isthing"])
        owner = [n for n, segment in enumerate(segments) for _ in segment["coords"]]
        coords = np.array([xy for s in segments for xy in s["coords"]], np.float64).reshape(-1, 2)
        coords, inside = _transform_points(transforms, coords, size)
        # Instances whose points were all cropped away leave the image.
        kept, index = np.unique(np.array(owner, np.int64)[inside], return_inverse=True)
        segments = [segments[n] for n in kept]
        return self._point_fields(segments, coords[inside], index.reshape(-1), size)

    def _point_fields(
        self,
        segments: list[dict[str, Any]],
        coords: np.ndarray,
        index: np.ndarray,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        classes = np.array([segment["category_id"] for segment in segments], np.int64)
        raster = rasterize_points(
            coords, index, classes, size[0], size[1], self.dilate_side, self.dilate_reference
        )
        return {
            "classes": torch.from_numpy(classes),
            "instance_ids": [_instance_id(segment) for segment in segments],
            "point_coords": torch.from_numpy(coords.astype(np.float32)),
            "point_index": torch.from_numpy(index.astype(np.int64)),
            "point_cells": torch.from_numpy(raster.cells.astype(np.int64)),
            "point_instance_map": torch.from_numpy(raster.instance_map),
            "point_semantic_map": torch.from_numpy(raster.semantic_map),
        }

    def _map_masks(
        self, record: dict[str, Any], transforms: T.TransformList, size: tuple[int, int]
    ) -> dict[str, Any]:
        if "segments_info" not in record:
            raise ValueError(
                f"image {record['image_id']!r} ({record['file_name']}): full supervision, but its "
                "data set has no masks. Train on a mask set (fdd_..._panoptic, register_panoptic), "
                "or set MODEL.FDD.PAN_SUPERVISION to 'pseudo'."
            )
        segments = sorted(
            (s for s in record["segments_info"] if not s["iscrowd"]), key=lambda s: not s["isthing"]
        )
        cells = sample_cells(_rank_map(record), transforms, size)
        cells = _places(record, [segment["id"] for segment in segments])[cells]
        # Segments that the crop, or the grid, lost have nothing to learn from.
        kept = np.unique(cells[cells >= 0])
        renumber = np.full(len(segments) + 1, -1, np.int32)
        renumber[kept] = np.arange(len(kept))
        no_points, no_index = np.zeros((0, 2)), np.zeros(0, np.int64)
        fields = self._point_fields([segments[n] for n in kept], no_points, no_index, size)
        # Index -1 (void, crowd) picks the last entry, which is -1 too.
        fields["instance_map"] = torch.from_numpy(renumber[cells])
        return fields


def _map_void(
    record: dict[str, Any], transforms: T.TransformList, size: tuple[int, int]
) -> dict[str, Any]:
    strokes = [parse_stroke(stroke, f"image {record['image_id']!r}") for stroke in record["void"]]
    mask = void_mask(strokes, record["height"], record["width"])
    cells = sample_cells(mask, transforms, size)
    return {"void": strokes, "void_map": torch.from_numpy(cells == 1)}


def _instance_id(segment: dict[str, Any]) -> int:
    return segment["instance_id"] if "instance_id" in segment else segment["id"]


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Start numpy's global generator, which Detectron2's augmentations draw from, at ``seed``."""
    if seed is None:
        yield
        return
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.SeedSequence(seed).generate_state(8))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _read_image(record: dict[str, Any], image_format: str) -> np.ndarray:
    """The image as uint8 (H, W, 3), upright; checks the record's size, or completes it."""
    where = f"image {record['image_id']!r} ({record['file_name']})"
    image = read_image(record["file_name"], image_format, where)
    try:
        utils.check_image_size(record, image)
    except utils.SizeMismatchError as error:
        raise ImageFileError(
            f"{where}: {image.shape[1]} x {image.shape[0]} px (width x height, upright by EXIF), "
            f"but the label file says {record['width']} x {record['height']}. Were the labels made "
            "for a resized or unturned copy? Correct the label file's size and points."
        ) from error
    return image


def _transform_points(
    transforms: T.TransformList, coords: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Move points (P, 2) along with the image; also tells which are inside it, bool (P,)."""
    moved = transforms.apply_coords(coords.copy())
    limit = np.array([size[1], size[0]], np.float64)
    inside = ((moved >= -_TOLERANCE) & (moved <= limit + _TOLERANCE)).all(axis=1)
    return np.clip(moved, 0, limit), inside


def _diagonal(transforms: T.TransformList, size: tuple[int, int]) -> float:
    """Length in augmented pixels of the original's diagonal, (H, W) px: a crop does not cut it."""
    corners = transforms.apply_coords(np.array([[0, 0], [size[1], size[0]]], np.float64))
    return float(np.linalg.norm(corners[1] - corners[0]))


def _rank_map(record: dict[str, Any]) -> np.ndarray:
    """Of each pixel of the panoptic PNG, 1 + the position of its segment in the record, or 0."""
    source = f"{record['pan_seg_file_name']} (image {record['image_id']!r})"
    segment_ids = load_segment_ids(record["pan_seg_file_name"], record["height"], record["width"])
    return rank_pixels(segment_ids, tuple(s["id"] for s in record["segments_info"]), source)


def _places(record: dict[str, Any], ids: list[int]) -> np.ndarray:
    """Position in ``ids`` by the rank of :func:`_rank_map`; -1 for rank 0, for rank -1 (which is
    the last entry) and for segments that are not in ``ids``. int32 (S + 2,).
    """
    position = {segment_id: n for n, segment_id in enumerate(ids)}
    ranks = [position.get(segment["id"], -1) for segment in record["segments_info"]]
    return np.array([-1, *ranks, -1], np.int32)


def sample_cells(
    full: np.ndarray, transforms: T.TransformList, size: tuple[int, int]
) -> np.ndarray:
    """Look up the pixel that each cell centre of the augmented image comes from, (h4, w4).

    Centres that come from outside the image have -1. The way back is the inverse of the affine map
    that the transforms make of three corners. Resizing the map to nearest neighbours would be off
    by half a pixel and not commute with flips.
    """
    height, width = full.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width / 3, height / 2]], np.float64)
    origin, right, down, probe = transforms.apply_coords(corners.copy()).astype(np.float64)
    forward = np.stack([(right - origin) / width, (down - origin) / height], axis=1)
    if not np.allclose(forward @ corners[3] + origin, probe, atol=1e-2):
        raise ValueError(f"masks and void need affine augmentations; these are not: {transforms}")
    y, x = (MASK_STRIDE * (np.arange(num_valid_cells(n, MASK_STRIDE)) + 0.5) for n in size)
    (ux, uy), (vx, vy) = np.linalg.inv(forward)
    x, y = x[None] - origin[0], y[:, None] - origin[1]
    # A row or a column where nothing was turned, for x then does not depend on y.
    u, v = (ux * x + uy * y if uy else ux * x), (vx * x + vy * y if vx else vy * y)
    u, v = (np.floor(n + 1e-6).astype(np.int64) for n in (u, v))
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    found = full[np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return np.where(inside, found.astype(np.int64), -1)

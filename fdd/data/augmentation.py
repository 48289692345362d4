"""Detectron2's resize and flip, done by OpenCV: the same draws, sizes and coordinates."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

__all__ = [
    "HFlipTransform",
    "RandomFlip",
    "ResizeShortestEdge",
    "ResizeTransform",
    "VFlipTransform",
    "build_augmentation",
]


class ResizeTransform(T.ResizeTransform):
    """Detectron2's ``ResizeTransform`` with OpenCV's bilinear filter for uint8 images.

    Enlarging, that and Pillow's filter are one formula, and differ by rounding. Shrinking, Pillow
    averages over all pixels that a new one covers and OpenCV interpolates between the nearest four,
    so fine texture aliases. The code that the method builds on resizes with OpenCV and is followed
    here.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize ``(h, w)`` or ``(h, w, C)``; other types and filters as in Detectron2."""
        if interp is not None or not _is_image(img):
            return super().apply_image(img, interp)
        assert img.shape[:2] == (self.h, self.w), (img.shape, self.h, self.w)
        size = (self.new_w, self.new_h)
        resized = cv2.resize(np.ascontiguousarray(img), size, interpolation=cv2.INTER_LINEAR)
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:])

    def inverse(self) -> ResizeTransform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ``ResizeShortestEdge`` (arguments, draws, sizes) with OpenCV's filter."""

    def get_transform(self, image: np.ndarray) -> Transform:
        drawn = super().get_transform(image)
        if not isinstance(drawn, T.ResizeTransform):
            return drawn  # a size of 0 keeps the image
        return ResizeTransform(drawn.h, drawn.w, drawn.new_h, drawn.new_w)


class HFlipTransform(T.HFlipTransform):
    """Mirror an image into a new array; numpy's view would cost more when it is copied."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Mirror ``(h, w)`` or ``(h, w, C)`` left to right; other types as in Detectron2."""
        return _flip(img, 1) if _is_image(img) else super().apply_image(img)


class VFlipTransform(T.VFlipTransform):
    """As :class:`HFlipTransform`, upside down."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return _flip(img, 0) if _is_image(img) else super().apply_image(img)


class RandomFlip(T.RandomFlip):
    """Detectron2's ``RandomFlip`` (arguments, draws) with OpenCV's flip."""

    def get_transform(self, image: np.ndarray) -> Transform:
        drawn = super().get_transform(image)
        if isinstance(drawn, T.NoOpTransform):
            return drawn
        height, width = image.shape[:2]
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations that the keys under ``INPUT`` ask for.

    ``MIN_SIZE_TRAIN``, ``MIN_SIZE_TRAIN_SAMPLING``, ``MAX_SIZE_TRAIN``, ``RANDOM_FLIP`` and
    ``CROP``, or ``MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, mean what they mean in Detectron2.
    """
    keys = cfg.INPUT
    if not is_train:
        return [ResizeShortestEdge(keys.MIN_SIZE_TEST, keys.MAX_SIZE_TEST, "choice")]
    augmentations: list[Any] = []
    if keys.CROP.ENABLED:
        augmentations.append(T.RandomCrop(keys.CROP.TYPE, keys.CROP.SIZE))
    if keys.RANDOM_FLIP != "none":
        horizontal = keys.RANDOM_FLIP == "horizontal"
        vertical = keys.RANDOM_FLIP == "vertical"
        augmentations.append(RandomFlip(horizontal=horizontal, vertical=vertical))
    # After the flip, of which it then has the smaller image to copy; the two commute.
    augmentations.append(
        ResizeShortestEdge(keys.MIN_SIZE_TRAIN, keys.MAX_SIZE_TRAIN, keys.MIN_SIZE_TRAIN_SAMPLING)
    )
    return augmentations


def _is_image(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim in (2, 3)


def _flip(image: np.ndarray, axis: int) -> np.ndarray:
    return cv2.flip(np.ascontiguousarray(image), axis).reshape(image.shape)

"""A trained model as a function from an image to its panoptic map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fdd.data.augmentation import build_augmentation
from fdd.inference.tiles import TiledPredictor, Tiling
from fdd.inference.trained_model import TrainedModel
from fdd.points.coco_panoptic import measure_segments
from fdd.visualization import as_palette, draw_panoptic
from fdd.visualization.draw import fit_into

__all__ = ["Predictor", "fit_into"]

#: A picture with a shorter longest side is enlarged, so that names on it can be read.
_READABLE_SIDE = 480


class Predictor:
    """Segments images with a trained model, as the evaluation does::

        predictor = Predictor(load_trained("output/cells"))
        ids, segments = predictor(image)

    Args:
        trained: model, config and classes, see :func:`fdd.inference.trained_model.load_trained`.
        tiling: how large images are cut (:mod:`fdd.inference.tiles`); None: they are not.
    """

    def __init__(self, trained: TrainedModel, tiling: Tiling | None = None) -> None:
        self.trained = trained
        self._tiled = None if tiling is None else TiledPredictor(self._segment, tiling)
        self.categories = trained.categories
        self._palette = as_palette(trained.categories)
        (self._resize,) = build_augmentation(trained.cfg, is_train=False)
        self._bgr = trained.cfg.INPUT.FORMAT == "BGR"

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Segment one image.

        Args:
            image: uint8 ``(H, W, 3)`` RGB, of any size.

        Returns:
            ids: int64 ``(H, W)``, segment ids from 1; 0 is void. Of several tiles int32.
            segments: one dict a segment, best first: ``id``, contiguous ``category_id`` (position
                in :attr:`categories`), ``isthing``, ``score`` (>= 0, may exceed 1) and ``area`` in
                pixels.

        Raises:
            ValueError: another dtype or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"an image of {image.dtype} {image.shape}; expected uint8 (height, width, 3) in RGB"
            )
        return self._segment(image) if self._tiled is None else self._tiled(image)

    def _segment(self, image: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        height, width = image.shape[:2]
        pixels = image[:, :, ::-1] if self._bgr else image
        pixels = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)
        output = self.trained.model([{"image": tensor, "height": height, "width": width}])[0]
        ids, segments = output["panoptic_seg"]
        return ids.cpu().numpy().astype(np.int64), list(segments)

    def describe(
        self, ids: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """COCO panoptic ``segments_info``: ids of the label files, names and scores; areas and
        boxes (x, y, width, height in pixels) are measured on the map. Segments without a pixel are
        left out.
        """
        measured = measure_segments(ids, [int(s["id"]) for s in segments])
        described = []
        for segment, (area, bbox) in zip(segments, measured, strict=True):
            if not area:
                continue
            category = self.categories[int(segment["category_id"])]
            entry: dict[str, Any] = {
                "id": int(segment["id"]),
                "category_id": int(category["id"]),
                "category_name": str(category["name"]),
                "isthing": int(category["isthing"]),
                "area": area,
                "bbox": bbox,
                "iscrowd": 0,
            }
            if segment.get("score") is not None:
                entry["score"] = round(float(segment["score"]), 4)
            described.append(entry)
        return described

    def draw(
        self,
        image: np.ndarray,
        ids: np.ndarray,
        segments: Sequence[Mapping[str, Any]],
        *,
        alpha: float = 0.55,
        max_side: int = 1920,
    ) -> np.ndarray:
        """The segments over the image, with class names and scores; void is hatched.

        Args:
            image, ids, segments: as given to and returned by a call.
            alpha: weight of the colours against the image, 0 to 1.
            max_side: longest side of the result in pixels; larger images are shrunk first.

        Returns:
            uint8 RGB; small images are enlarged by a whole factor.
        """
        return draw_panoptic(
            fit_into(image, max_side),
            ids,
            segments,
            self._palette,
            alpha=alpha,
            scores=True,
            upscale_to=min(_READABLE_SIDE, max_side),
        )

"""The views of each image that labels are estimated from: several scales, and mirrored ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data import transforms as T
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fdd.data import FDDDatasetMapper
from fdd.data.augmentation import HFlipTransform, ResizeShortestEdge, ResizeTransform
from fdd.engine.loader import worker_options

__all__ = ["ImageViews", "ResizeToScale", "Views", "build_view_loader"]


class ResizeToScale(T.Augmentation):
    """The test time resize, and from its size on by a factor; at 1 it is exactly that resize."""

    def __init__(self, min_size: int, max_size: int, scale: float) -> None:
        """
        Args:
            min_size, max_size: ``INPUT.MIN_SIZE_TEST`` (0 keeps the image's size) and
                ``INPUT.MAX_SIZE_TEST``.
            scale: factor, above 0.
        """
        super().__init__()
        self.min_size, self.max_size, self.scale = min_size, max_size, scale

    def get_transform(self, image: Any) -> T.Transform:
        """The resize of this image."""
        usual = ResizeShortestEdge(self.min_size, self.max_size, "choice").get_transform(image)
        height, width = image.shape[:2]
        size = (usual.new_h, usual.new_w) if isinstance(usual, ResizeTransform) else (height, width)
        new = [max(1, round(side * self.scale)) for side in size]
        return ResizeTransform(height, width, *new)


class _Mirror(T.Augmentation):
    def get_transform(self, image: Any) -> T.Transform:
        return HFlipTransform(image.shape[1])


class Views:
    """Which views are made of an image."""

    def __init__(self, cfg: CfgNode, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        """
        Args:
            cfg: of the model.
            scales: factors of the size at test time; the first one's cells are the points' own.
            flip: each scale is also looked at mirrored left to right.
        """
        self.flipped: list[bool] = []
        self.mappers: list[FDDDatasetMapper] = []
        for scale in scales:
            resize = ResizeToScale(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, scale)
            for flipped in (False, True)[: 1 + flip]:
                steps = [_Mirror(), resize] if flipped else [resize]
                mapper = FDDDatasetMapper(cfg, is_train=False, augmentations=steps)
                self.mappers.append(mapper)
                self.flipped.append(flipped)


class ImageViews(Dataset):
    """An image as a dict: ``index``, and ``views`` or, if it cannot be read, ``problem``."""

    def __init__(self, dicts: Sequence[dict[str, Any]], views: Views) -> None:
        self.dicts = DatasetFromList(list(dicts), copy=True, serialize=True)
        self.views = views

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.dicts[index]
        try:
            return {"index": index, "views": [mapper(record) for mapper in self.views.mappers]}
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return {"index": index, "problem": str(error)}


def build_view_loader(
    cfg: CfgNode, dicts: Sequence[dict[str, Any]], views: Views, batch: int = 1
) -> DataLoader[Any]:
    """Yields lists of up to ``batch`` images as :class:`ImageViews` has them, in order."""
    dataset = ImageViews(dicts, views)
    return DataLoader(dataset, batch_size=batch, shuffle=False, **worker_options(cfg))

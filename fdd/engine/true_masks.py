"""True masks for label makers that need them: in an evaluation, and never in training on points."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from fdd.data import FDDDatasetMapper
from fdd.data.mapper import sample_cells
from fdd.evaluation.ground_truth import PanopticGroundTruth, SegmentTable
from fdd.modeling.label_makers import get_label_maker


def mapper_with_masks(cfg: CfgNode, evaluator: Any) -> MapperWithMasks | None:
    """Mapper for an evaluation of labels if a maker needs masks, else None.

    Args:
        cfg: names the makers.
        evaluator: may have the masks as ``ground_truth``.
    """
    truth = getattr(evaluator, "ground_truth", None)
    names = [*cfg.TEST.PSEUDO_LABELS.BASELINES]
    names.append("full" if cfg.MODEL.FDD.PAN_SUPERVISION == "full" else cfg.MODEL.FDD.LABEL_MAKER)
    if truth is None or not any("masks" in get_label_maker(name).needs for name in names):
        return None
    return MapperWithMasks(FDDDatasetMapper(cfg, is_train=False), truth)


class MapperWithMasks:
    """The test mapper of a point set, plus ``instance_map``: what stride 4 lets through of the
    true masks, int32 (h4, w4), -1 for void, crowd and segments without a point."""

    def __init__(self, mapper: FDDDatasetMapper, truth: PanopticGroundTruth) -> None:
        """
        Args:
            mapper: that does not augment, except for resizing.
            truth: masks of the same images.
        """
        self.mapper, self.truth = mapper, truth

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dict.

        Raises:
            ValueError: the image is not in the ground truth, or of another size there.
        """
        x = self.mapper(dataset_dict)
        image_id, size = x["image_id"], (int(x["height"]), int(x["width"]))
        table, true_map = self.truth[image_id], self.truth.load(image_id)
        if true_map.shape != size:
            raise ValueError(
                f"{table.file_name} (image {image_id!r}) has {true_map.shape[1]} x "
                f"{true_map.shape[0]} px; expected those of the image, {size[1]} x {size[0]}"
            )
        input_size = (x["image"].shape[1], x["image"].shape[2])
        scale = np.array(size[::-1]) / input_size[::-1]
        coords = x["point_coords"].double().numpy() * scale
        owner = segment_owners(
            true_map, table, coords, x["point_index"].numpy(), x["classes"].numpy()
        )
        resize = T.ResizeTransform(*size, *input_size)
        ids = sample_cells(true_map, T.TransformList([resize]), input_size)
        instance_map = np.full(ids.shape, -1, np.int32)
        for segment_id, instance in owner.items():
            instance_map[ids == segment_id] = instance
        return x | {"instance_map": torch.from_numpy(instance_map)}


def segment_owners(
    true_map: np.ndarray,
    table: SegmentTable,
    coords: np.ndarray,
    index: np.ndarray,
    classes: np.ndarray,
) -> dict[int, int]:
    """Which instance of the point labels each true segment is: the one of its class with the most
    points on it (the first of several).

    Ids are not compared: those of points and of masks may come from different hands.

    Args:
        true_map: (H, W) segment ids.
        table: of the segments.
        coords: (P, 2) float (x, y) in px of the map. index: (P,) instance of each point.
        classes: (N,) contiguous class of each instance.

    Returns:
        Instance by segment id, without crowd and segments on which no such point lies.
    """
    limit = np.array(true_map.shape[::-1]) - 1
    column, row = np.clip(np.floor(coords).astype(np.int64), 0, limit).T
    found = true_map[row, column]
    owner = {}
    for segment_id, label, crowd in zip(table.ids, table.classes, table.crowd, strict=True):
        votes = index[(found == segment_id) & (classes[index] == label)]
        if len(votes) and not crowd:
            owner[int(segment_id)] = int(np.bincount(votes).argmax())
    return owner

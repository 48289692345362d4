"""One-to-one assignment of queries to things (DETR's Hungarian matching)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fdd.modeling.losses.boxes import box_cxcywh_to_xyxy, pairwise_generalized_iou


@dataclass(frozen=True)
class Matches:
    """Assigned pairs as parallel int64 vectors, sorted by layer, image and query.

    Attributes:
        layer: index of the decoder layer. image: index in the batch.
        query: detection query. target: instance (column of the padded targets).
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


@torch.no_grad()
def matching_cost(
    logits: Tensor,
    boxes: Tensor,
    target_classes: Tensor,
    target_boxes: Tensor,
    *,
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Cost of giving a query to a thing: focal + L1 + (-GIoU) (Deformable DETR).

    Args:
        logits: (..., Q, C). boxes: (..., Q, 4) cxcywh in [0, 1].
        target_classes: broadcastable (..., N) int64 in [0, C); clamp padding before.
        target_boxes: broadcastable (..., N, 4) cxcywh in [0, 1].

    Returns:
        (..., Q, N) float32.
    """
    prob = logits.float().sigmoid()
    negative = (1 - alpha) * prob**gamma * -(1 - prob + 1e-8).log()
    positive = alpha * (1 - prob) ** gamma * -(prob + 1e-8).log()
    index = target_classes.expand(*logits.shape[:-2], target_classes.shape[-1])
    index = index[..., None, :].expand(*logits.shape[:-1], -1)
    class_cost = (positive - negative).gather(-1, index)
    targets = target_boxes.expand(*logits.shape[:-2], *target_boxes.shape[-2:])
    l1_cost = (boxes.float()[..., :, None, :] - targets[..., None, :, :]).abs().sum(-1)
    giou = pairwise_generalized_iou(box_cxcywh_to_xyxy(boxes.float()), box_cxcywh_to_xyxy(targets))
    return class_weight * class_cost + l1_weight * l1_cost - giou_weight * giou


def assign(cost: Tensor, is_target: Tensor, rounds: int = 1) -> Matches:
    """Hungarian assignment of every layer and image, after one copy to the host.

    Args:
        cost: (layers, B, Q, N).
        is_target: (B, N) bool, columns that are targets.
        rounds: above 1, the last layer is matched again that often, each time without the queries
            that are taken (Panoptic SegFormer's query filter); its extra pairs get the layer index
            ``layers + r`` in round r = 0, 1, ...

    Raises:
        FloatingPointError: when a cost is not finite.
        ValueError: when an image has more things than queries.
    """
    host = torch.cat([cost.flatten(), is_target.to(cost.dtype).flatten()]).cpu().numpy()
    targets = host[cost.numel() :].reshape(is_target.shape) > 0.5
    host = host[: cost.numel()].reshape(cost.shape)
    if not np.isfinite(host[:, targets.any(1)]).all():
        raise FloatingPointError(
            "matching costs are not finite: the detection logits or boxes hold NaN or infinity"
        )
    layers, batch, queries, _ = host.shape
    found: list[tuple[int, int, np.ndarray, np.ndarray]] = []
    for b in range(batch):
        columns = np.flatnonzero(targets[b])
        if len(columns) > queries:
            raise ValueError(
                f"image {b} of the batch has {len(columns)} things but there are {queries} "
                "detection queries; raise MODEL.FDD.PAN.NUM_QUERIES"
            )
        for i in range(layers):
            rows, cols = linear_sum_assignment(host[i, b][:, columns])
            found.append((i, b, rows, columns[cols]))
        taken = found[-1][2]
        for r in range(min(rounds, queries // max(1, len(columns))) - 1):
            free = np.setdiff1d(np.arange(queries), taken)
            rows, cols = linear_sum_assignment(host[-1, b][free][:, columns])
            found.append((layers + r, b, free[rows], columns[cols]))
            taken = np.concatenate([taken, free[rows]])
    found.sort(key=lambda item: item[:2])
    rows_all = [np.stack([np.full_like(q, i), np.full_like(q, b), q, t]) for i, b, q, t in found]
    table = np.concatenate(rows_all, 1) if rows_all else np.zeros((4, 0), np.int64)
    return Matches(*torch.as_tensor(table, dtype=torch.int64).to(cost.device).unbind(0))

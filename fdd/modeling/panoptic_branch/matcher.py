"""One-to-one assignment of queries to things (DETR's Hungarian matching)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.losses.boxes import box_cxcywh_to_xyxy, pairwise_generalized_iou

# Stands for a cost that is not finite: the assignment goes on, and the losses, which are made of
# the same logits and boxes, tell every process that the step is spoilt.
_SPOILT = 1e8


@dataclass(frozen=True)
class Matches:
    """Assigned pairs, sorted by layer, image and query: on the host, which made them.

    Attributes:
        table: (4, R) int64, rows layer, image, query, target. ``layer`` is the index of the decoder
            layer, ``image`` the index in the batch, ``query`` the detection query, ``target`` the
            instance (column of the padded targets).
    """

    table: np.ndarray

    def of_layers(self, first: int, end: int | None = None) -> Matches:
        """The pairs of the layers ``first`` to ``end`` (not included)."""
        layer = self.table[0]
        return Matches(self.table[:, (layer >= first) & (layer < (end or np.inf))])

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(layer, image, query, target), each (R,) int64, in one copy."""
        layer, image, query, target = upload(self.table, device).unbind(0)
        return layer, image, query, target


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
    index = target_classes.expand(*logits.shape[:-2], target_classes.shape[-1])
    index = index[..., None, :].expand(*logits.shape[:-1], -1)
    prob = logits.gather(-1, index).float().sigmoid()  # of the targets' classes only
    negative = (1 - alpha) * prob**gamma * -(1 - prob + 1e-8).log()
    positive = alpha * (1 - prob) ** gamma * -(prob + 1e-8).log()
    targets = target_boxes.expand(*logits.shape[:-2], *target_boxes.shape[-2:])
    l1_cost = torch.cdist(boxes.float(), targets, p=1.0)
    giou = pairwise_generalized_iou(box_cxcywh_to_xyxy(boxes.float()), box_cxcywh_to_xyxy(targets))
    return class_weight * (positive - negative) + l1_weight * l1_cost - giou_weight * giou


def assign(cost: Tensor, is_target: Tensor, listed: np.ndarray, rounds: int = 1) -> Matches:
    """Hungarian assignment of every layer and image, after one copy to the host.

    Args:
        cost: (layers, B, Q, N). A value that is not finite counts as a very bad one.
        is_target: (B, N) bool on the same device, columns that are targets.
        listed: (B, N) bool on the host, columns that may be targets.
        rounds: above 1, the last layer is matched again that often, each time without the queries
            that are taken (Panoptic SegFormer's query filter); its extra pairs get the layer index
            ``layers + r`` in round r = 0, 1, ...

    On the meta device, which has no costs, every listed column is a target and the k-th of them
    gets the k-th query: as many pairs, for those who count work.

    Raises:
        ValueError: when an image has more things than queries.
    """
    layers, batch, queries, most = cost.shape
    if cost.is_meta:
        targets = listed
        host = np.broadcast_to(1 - np.eye(queries, most, dtype=np.float32), cost.shape)
    else:
        packed = torch.cat([cost.flatten(), is_target.to(cost.dtype).flatten()]).cpu().numpy()
        targets = listed & (packed[cost.numel() :].reshape(batch, most) > 0.5)
        host = packed[: cost.numel()].reshape(cost.shape)
        host = np.where(np.isfinite(host), host, _SPOILT)
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
    pairs = [np.stack([np.full_like(q, i), np.full_like(q, b), q, t]) for i, b, q, t in found]
    return Matches(np.concatenate(pairs, 1) if pairs else np.zeros((4, 0), np.int64))

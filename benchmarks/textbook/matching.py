"""Hungarian matching and the losses of the location decoder, image by image and layer by layer.

Published: DETR (Carion et al., ECCV 2020), section 3.1, with Deformable DETR's focal cost;
``HungarianAssigner`` of mmdet, ``loss_single`` in
``easymd/models/panformer/wsup_panformer_head.py`` of BraveGroup/PSPS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_TINY = 1e-9


class LocationSettings(NamedTuple):
    """``MODEL.FDD.PAN``'s weights of classes, boxes and their costs."""

    class_weight: float
    l1_weight: float
    giou_weight: float
    alpha: float
    gamma: float


class Targets(NamedTuple):
    """Things of one image: (n,) classes and (n, 4) boxes (cx, cy, w, h) in [0, 1]."""

    classes: Tensor
    boxes: Tensor


Pairs = list[tuple[Tensor, Tensor]]


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes from (cx, cy, w, h) to (x0, y0, x1, y1)."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Rezatofighi et al. (CVPR 2019), Algorithm 1; corner boxes, broadcastable."""
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    shared, hull = inner.clamp(min=0).prod(-1), outer.clamp(min=0).prod(-1)
    union = area_a + area_b - shared
    return shared / union.clamp(min=_TINY) - (hull - union) / hull.clamp(min=_TINY)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017, Eq. 5), element by element."""
    p = logits.sigmoid()
    miss = (1 - p) * targets + p * (1 - targets)
    weight = (alpha * targets + (1 - alpha) * (1 - targets)) * miss.pow(gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _cost(logits: Tensor, boxes: Tensor, targets: Targets, s: LocationSettings) -> Tensor:
    """(..., Q, C) logits and (..., Q, 4) boxes to (..., Q, n) costs."""
    p = logits.sigmoid()
    positive = s.alpha * (1 - p) ** s.gamma * -(p + 1e-8).log()
    negative = (1 - s.alpha) * p**s.gamma * -(1 - p + 1e-8).log()
    class_cost = (positive - negative)[..., targets.classes]
    l1_cost = torch.cdist(boxes, targets.boxes.expand(*boxes.shape[:-2], -1, -1), p=1)
    giou = generalized_iou(corners(boxes)[..., :, None, :], corners(targets.boxes))
    return s.class_weight * class_cost + s.l1_weight * l1_cost - s.giou_weight * giou


@torch.no_grad()
def match_layer_by_layer(
    logits: Tensor, boxes: Tensor, targets: Targets, s: LocationSettings
) -> Pairs:
    """The published form for one image: cost, copy to the host and assignment in every layer.

    Args:
        logits: (layers, Q, C). boxes: (layers, Q, 4).

    Returns:
        Queries and targets of the pairs of each layer.
    """
    pairs = []
    for layer_logits, layer_boxes in zip(logits, boxes, strict=True):
        cost = _cost(layer_logits, layer_boxes, targets, s).cpu()
        rows, columns = linear_sum_assignment(cost)
        pairs.append((torch.as_tensor(rows), torch.as_tensor(columns)))
    return [(r.to(logits.device), c.to(logits.device)) for r, c in pairs]


@torch.no_grad()
def match_together(logits: Tensor, boxes: Tensor, targets: Targets, s: LocationSettings) -> Pairs:
    """Cheap variant: the costs of all layers at once, one copy."""
    costs = _cost(logits, boxes, targets, s).cpu()
    found = [linear_sum_assignment(cost) for cost in costs]
    return [
        (torch.as_tensor(r, device=logits.device), torch.as_tensor(c, device=logits.device))
        for r, c in found
    ]


def location_losses(
    logits: Tensor, boxes: Tensor, pairs: Pairs, targets: Targets, s: LocationSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal, L1 and GIoU losses of one image, summed over layers, unweighted."""
    focal, l1, giou = logits.new_zeros(3).unbind(0)
    for layer_logits, layer_boxes, (rows, columns) in zip(logits, boxes, pairs, strict=True):
        wanted = torch.zeros_like(layer_logits)
        wanted[rows, targets.classes[columns]] = 1
        focal = focal + focal_loss(layer_logits, wanted, s.alpha, s.gamma).sum()
        found, goal = layer_boxes[rows], targets.boxes[columns]
        l1 = l1 + F.l1_loss(found, goal, reduction="sum")
        giou = giou + (1 - generalized_iou(corners(found), corners(goal))).sum()
    return focal, l1, giou

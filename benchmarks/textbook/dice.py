"""Dice loss of up-sampled masks.

Published: Panoptic SegFormer, section 3.4 (Milletari's dice); ``loss_single_panoptic_simplified``
in ``easymd/models/panformer/wsup_panformer_head.py`` of BraveGroup/PSPS: the masks of all layers
are stacked and up-sampled to the padded input size; of stuff all classes, where those that are
absent have weight 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHEAP_STRIDE = 4


def _dice(masks: Tensor, targets: Tensor, eps: float) -> Tensor:
    """(M, H, W) masks in [0, inf) and targets in [0, 1] to (M,)."""
    masks, targets = masks.flatten(1), targets.flatten(1)
    overlap = (masks * targets).sum(1)
    return 1 - 2 * overlap / ((masks * masks).sum(1) + (targets * targets).sum(1) + 2 * eps)


def full_size(
    layers: list[Tensor], targets: Tensor, known: Tensor, weights: Tensor, eps: float
) -> Tensor:
    """The published form.

    Args:
        layers: (M, h, w) masks a layer, in [0, inf), at stride 8.
        targets: (M, H, W) float at stride 1.
        known: (H, W) bool; elsewhere masks and targets count as 0. (PSPS counts padding.)
        weights: (M,), 0 for a mask that has no target.

    Returns:
        Scalar: weighted sum over layers and masks.
    """
    if len(targets) == 0:
        return torch.stack(layers).sum()
    masks = F.interpolate(
        torch.stack(layers), size=targets.shape[-2:], mode="bilinear", align_corners=False
    )
    return torch.stack(
        [(weights * _dice(m * known, targets * known, eps)).sum() for m in masks]
    ).sum()


def present_at_full_size(
    layers: list[Tensor], targets: Tensor, known: Tensor, weights: Tensor, eps: float
) -> Tensor:
    """Cheap variant: leave out the masks whose weight is 0."""
    some = weights > 0
    return full_size([m[some] for m in layers], targets[some], known, weights[some], eps)


def present_at_stride_4(
    layers: list[Tensor], targets: Tensor, known: Tensor, weights: Tensor, eps: float
) -> Tensor:
    """Cheaper, *not equal*: Panoptic SegFormer's resolution, two times that of the masks."""
    middle = slice(_CHEAP_STRIDE // 2, None, _CHEAP_STRIDE)
    targets, known = targets[:, middle, middle], known[middle, middle]
    return present_at_full_size(layers, targets, known, weights, eps)

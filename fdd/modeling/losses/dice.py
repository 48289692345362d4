"""Dice loss and dice matching cost of soft masks without a sigmoid (Panoptic SegFormer's masks)."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import full_precision


def dice_loss(
    masks: Tensor, targets: Tensor, weight_mask: Tensor | None = None, eps: float = 1e-3
) -> Tensor:
    """1 - 2 sum(p t) / (sum p^2 + sum t^2 + 2 eps) for each mask.

    Args:
        masks: (M, h, w) float in [0, inf): used as they are.
        targets: (M, h, w) bool, integer or float in [0, 1].
        weight_mask: multiplies masks and targets before anything is summed; broadcastable to (M, h,
            w), 0 where a cell is padding or unknown. ``None`` keeps all.
        eps: half of the constant in the denominator.

    Returns:
        (M,) float. 1 with gradient 0 where the target is empty; an image-free batch (M = 0) gives
        an empty tensor.

    Raises:
        ValueError: shapes that do not fit.
    """
    if masks.dim() != 3 or masks.shape != targets.shape:
        raise ValueError(
            f"masks and targets have shapes {tuple(masks.shape)} and {tuple(targets.shape)}; "
            "expected equal (M, h, w)"
        )
    masks = full_precision(masks)
    targets = targets.to(masks.dtype)
    if weight_mask is not None:
        weight = weight_mask.to(masks.dtype)
        masks, targets = masks * weight, targets * weight
    overlap = (masks * targets).sum((1, 2))
    size = masks.square().sum((1, 2)) + targets.square().sum((1, 2))
    return 1 - 2 * overlap / (size + 2 * eps)


def pairwise_dice_cost(masks: Tensor, targets: Tensor, eps: float = 1e-3) -> Tensor:
    """:func:`dice_loss` of every mask with every target, as a matching cost.

    Args:
        masks: (Q, P) float in [0, inf), flattened masks; ignored cells left out or zero.
        targets: (G, P) bool, integer or float in [0, 1]; ignored cells as above.
        eps: as in :func:`dice_loss`.

    Returns:
        (Q, G) float.
    """
    if masks.dim() != 2 or targets.dim() != 2 or masks.shape[1] != targets.shape[1]:
        raise ValueError(
            f"masks and targets have shapes {tuple(masks.shape)} and {tuple(targets.shape)}; "
            "expected (Q, P) and (G, P)"
        )
    masks = full_precision(masks)
    targets = targets.to(masks.dtype)
    with torch.autocast(masks.device.type, enabled=False):
        overlap = masks @ targets.T
    size = masks.square().sum(1)[:, None] + targets.square().sum(1)[None]
    return 1 - 2 * overlap / (size + 2 * eps)

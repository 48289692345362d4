"""Sigmoid focal loss (Lin et al., 2017), as the detection and stuff class heads use it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.losses.common import full_precision


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, element by element.

    Args:
        logits: float, any shape.
        targets: same shape, 1 for positives and 0 for negatives (bool, integer or float).
        alpha: weight of positives; negatives have 1 - ``alpha``.
        gamma: focusing exponent, 0 or >= 1.

    Returns:
        Float tensor of the same shape; not reduced, so that the caller owns the normaliser.
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets have shapes {tuple(logits.shape)} and {tuple(targets.shape)}; "
            "expected equal"
        )
    logits = full_precision(logits)
    targets = targets.to(logits.dtype)
    p = logits.sigmoid()
    miss = p + targets - 2 * p * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (
        weight
        * miss.pow(gamma)
        * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    )

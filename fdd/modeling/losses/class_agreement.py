"""Agreement of the instances with the classes: ours, not the paper's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.losses.common import at_least_one, attached_zero, full_precision

# Below this a class's total counts as this, without gradient: its logarithm stays finite.
_LEAST = 1e-30


def present_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Which classes an image has instances of.

    Args:
        classes: (B, N) int64, -1 where padded.

    Returns:
        (B, C) bool.
    """
    present = torch.zeros(len(classes), num_classes + 1, dtype=torch.bool, device=classes.device)
    present.scatter_(1, torch.where(classes >= 0, classes, num_classes), True)
    return present[:, :num_classes]


def class_distribution(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax of (B, C, h, w) class logits over the classes that have an instance in the image.

    Args:
        classes: (B, N) int64, -1 where padded.

    Returns:
        (B, C, h, w); over all classes in an image without instances.
    """
    present = present_classes(classes, logits.shape[1])
    absent = ~present & present.any(1, keepdim=True)
    return full_precision(logits).masked_fill(absent[:, :, None, None], -torch.inf).softmax(1)


def class_agreement_loss(
    logits: Tensor, classes: Tensor, target: Tensor, keep: Tensor, normalizer: Tensor | float
) -> Tensor:
    """Cross-entropy of the instances' class totals against a distribution over classes.

    With P_n(i) the softmax over the instances and T_c(i) the target,

        Q_c(i) = sum of P_n(i) over the instances n of class c,
        L = -1/normalizer * sum over cells i and classes c of T_c(i) log Q_c(i).

    It says nothing of which instance of a class a cell belongs to.

    Args:
        logits: (B, N, h, w) float; padded instances are ``-inf`` and without influence.
        classes: (B, N) int64 in [0, C), -1 where padded.
        target: (B, C, h, w) of :func:`class_distribution`; no gradient goes there.
        keep: (B, h, w) bool, the cells that count: none of an image without instances.
        normalizer: number of cells to divide by; values below 1 count as 1.

    Returns:
        0-d tensor; 0, attached, without instances.
    """
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    num_classes = target.shape[1]
    member = F.one_hot(torch.where(classes >= 0, classes, num_classes), num_classes + 1)
    member = member[..., :num_classes].to(target.dtype)
    totals = torch.einsum("bnc,bnhw->bchw", member, full_precision(logits).softmax(1))
    entropy = (target.detach() * totals.clamp(min=_LEAST).log()).sum(1).neg()
    return (entropy * keep).sum() / at_least_one(normalizer, entropy)

"""Cross-entropy against the branch's own argmax (paper Eq. 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common import at_least_one, attached_zero, check_label_map, full_precision


class _MaskedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy over cells with a label; keeps only the logits and one map for the
    backward pass.

    ``F.cross_entropy(ignore_index)`` is no substitute: in an image without a single real channel
    its log-softmax is NaN, and so are the gradients of the ignored cells.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        keep = labels >= 0
        lse = logits.logsumexp(1)
        chosen = logits.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(logits, labels, lse)
        return (lse - chosen).masked_fill(~keep, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels, lse = ctx.saved_tensors
        keep = (labels >= 0).unsqueeze(1)
        out = (logits - lse.unsqueeze(1)).exp_()
        index = labels.clamp(min=0).unsqueeze(1)
        out.scatter_add_(1, index, out.new_full((), -1.0).expand(index.shape))
        return out.masked_fill_(~keep, 0).mul_(grad), None


def self_training_ce(logits: Tensor, labels: Tensor, normalizer: Tensor | float) -> Tensor:
    """Cross-entropy of the softmax over channels against a dense label map (paper Eq. 6).

    Args:
        logits: (B, K, h, w) float; padded channels are ``-inf`` and without influence.
        labels: (B, h, w) integer map (``pseudo_labels`` M^pse at the logits' stride), -1 where
            ignored (padding).
        normalizer: number of cells to divide by; values below 1 count as 1.

    Returns:
        0-d tensor: the mean over cells with a label when ``normalizer`` is their number. 0,
        attached, without any.

    Raises:
        ValueError: ``labels`` is no integer map of the logits' size.
    """
    check_label_map("labels", logits, labels)
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    loss = _MaskedCrossEntropy.apply(full_precision(logits), labels.long())
    return loss / at_least_one(normalizer, loss)

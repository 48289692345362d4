"""Cross-entropy against the branch's own argmax (paper Eq. 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.losses.common import at_least_one, attached_zero, check_label_map, full_precision


class _MaskedCrossEntropy(torch.autograd.Function):
    """Summed -log p at the cells' labels, with the gradient p - 1[k = label].

    The log-softmax is turned into the gradient where it lies: one map a channel is made, and kept.

    ``F.cross_entropy(ignore_index)`` is no substitute: in an image without a single real channel
    its log-softmax is NaN, and so are the gradients of the ignored cells.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        keep, index = labels >= 0, labels.clamp(min=0).unsqueeze(1)
        work = logits.log_softmax(1)
        loss = work.gather(1, index).squeeze(1).masked_fill_(~keep, 0).sum().neg()
        if ctx.needs_input_grad[0]:
            work.exp_().scatter_add_(1, index, work.new_full((), -1.0).expand(index.shape))
            ctx.save_for_backward(work.masked_fill_(~keep.unsqueeze(1), 0))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (work,) = ctx.saved_tensors
        return work * grad, None


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

"""Partial cross-entropy on the labelled cells (paper Eq. 3 and Eq. 9)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .common import at_least_one, attached_zero, check_label_map, full_precision


def partial_cross_entropy(logits: Tensor, target: Tensor, normalizer: Tensor | float) -> Tensor:
    """Cross-entropy of the softmax over channels, at labelled cells only (paper Eq. 3).

    Args:
        logits: (B, K, h, w) float. Channels that pad an image to K are ``-inf`` there and stay
            without influence; no target may name one.
        target: (B, h, w) integer map (``point_instance_map`` S^ins or ``point_semantic_map``
            S^sem), -1 where unlabelled.
        normalizer: number of labelled cells Z to divide by (over all processes and accumulated
            batches); values below 1 count as 1.

    Returns:
        0-d tensor, sum of -log p at the target / max(normalizer, 1). Exactly 0, still attached to
        the graph, where nothing is labelled.

    Raises:
        ValueError: ``target`` is no integer map of the logits' size.
    """
    check_label_map("target", logits, target)
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    # Labelled cells are some 1 % of the map: gather them before the softmax instead of ignoring the
    # rest after it.
    image, row, column = (target >= 0).nonzero(as_tuple=True)
    labelled = full_precision(logits[image, :, row, column])
    loss = F.cross_entropy(labelled, target[image, row, column].long(), reduction="sum")
    return loss / at_least_one(normalizer, loss)

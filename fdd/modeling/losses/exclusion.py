"""Cross-entropy against what a cell is known not to be. Ours, not the paper's."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.losses.common import at_least_one, full_precision


def exclusion_loss(logits: Tensor, excluded: Tensor, normalizer: Tensor | float) -> Tensor:
    """-log of the probability of all channels that a cell is not known not to be.

    Args:
        logits: (B, K, h, w) float, at least one of them finite in each cell.
        excluded: (B, K, h, w) bool. A cell that everything is excluded from says nothing.
        normalizer: number of cells to divide by, over all processes and accumulated batches.

    Returns:
        0-d tensor, sum / max(normalizer, 1); exactly 0, still attached to the graph, where nothing
        is excluded.
    """
    logits = full_precision(logits)
    possible = (~excluded & logits.isfinite()).any(1, keepdim=True)
    excluded = excluded & possible
    allowed = logits.masked_fill(excluded, -torch.inf).logsumexp(1)
    loss = (logits.logsumexp(1) - allowed).sum()
    return loss / at_least_one(normalizer, loss)

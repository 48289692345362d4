"""Cross-entropy terms over the whole map.

Published: FDD Eq. 3, 6 and 9; ``partial_cross_entropy_loss`` in
``easymd/models/panformer/utils.py`` of BraveGroup/PSPS.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = -1


def partial_over_map(logits: Tensor, target: Tensor) -> Tensor:
    """The published form of Eq. 3 and 9: log-softmax of every cell, most of which are ignored.

    Args:
        logits: (1, K, h, w). target: (1, h, w) int64, -1 where unlabelled.

    Returns:
        Scalar sum over the labelled cells; the caller divides by their global number. (PSPS divides
        by the number in the local batch, unclamped.)
    """
    return F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none").sum()


def partial_on_cells(logits: Tensor, target: Tensor) -> Tensor:
    """Cheap variant: gather the labelled cells, then the same."""
    labelled = target >= 0
    picked = logits.permute(0, 2, 3, 1)[labelled]
    return F.cross_entropy(picked, target[labelled], reduction="sum")


def self_training_by_target(logits: Tensor, target: Tensor) -> Tensor:
    """Eq. 6 as it stands: cross-entropy against the label map.

    Args:
        logits: (1, K, h, w). target: (1, h, w) int64, M^pse at the logits' size, -1 on padding.

    Returns:
        Scalar sum over the cells.
    """
    return F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none").sum()


def self_training_by_logsumexp(logits: Tensor, target: Tensor) -> Tensor:
    """Cheap variant: log-sum-exp less the chosen logit, without a second map of K channels."""
    chosen = logits.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return ((logits.logsumexp(1) - chosen) * (target >= 0)).sum()

"""Partial cross-entropy on the labelled cells (paper Eq. 3 and Eq. 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.losses.common import at_least_one, attached_zero, check_label_map, full_precision


class LabelledCells(NamedTuple):
    """The labelled cells of a (B, h, w) map, listed.

    To find them in the map takes the device's answer; where the labels come from the host, they
    are listed there and the device is never asked.

    Attributes:
        image, row, column: (M,) int64. label: (M,) int64, channel of the target.
    """

    image: Tensor
    row: Tensor
    column: Tensor
    label: Tensor


def labelled_cells(target: Tensor) -> LabelledCells:
    """List the cells of an integer (B, h, w) map that are not -1."""
    image, row, column = (target >= 0).nonzero(as_tuple=True)
    return LabelledCells(image, row, column, target[image, row, column].long())


def partial_cross_entropy(
    logits: Tensor, target: Tensor | LabelledCells, normalizer: Tensor | float
) -> Tensor:
    """Cross-entropy of the softmax over channels, at labelled cells only (paper Eq. 3).

    Args:
        logits: (B, K, h, w) float. Channels that pad an image to K are ``-inf`` there and stay
            without influence; no target may name one.
        target: (B, h, w) integer map (S^ins or S^sem), -1 where unlabelled, or its
            :class:`LabelledCells`.
        normalizer: number of labelled cells Z to divide by (over all processes and accumulated
            batches); values below 1 count as 1.

    Returns:
        0-d tensor, sum of -log p at the target / max(normalizer, 1). Exactly 0, still attached to
        the graph, where nothing is labelled.

    Raises:
        ValueError: ``target`` is no integer map of the logits' size.
    """
    if isinstance(target, Tensor):
        check_label_map("target", logits, target)
        target = labelled_cells(target)
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    # Labelled cells are some 1 % of the map: gather them before the softmax instead of ignoring the
    # rest after it.
    labelled = full_precision(logits[target.image, :, target.row, target.column])
    loss = F.cross_entropy(labelled, target.label, reduction="sum")
    return loss / at_least_one(normalizer, loss)

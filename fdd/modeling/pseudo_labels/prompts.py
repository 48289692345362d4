"""Random subsets of the points as prompts: a branch that is good with few points and with many."""

from __future__ import annotations

from typing import Any

import torch

from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.modeling.pseudo_labels.leave_one_out import without_points

__all__ = ["hide_points"]


def hide_points(
    batched_inputs: list[dict[str, Any]], share: float, settings: LabelSettings
) -> list[dict[str, Any]]:
    """Mapper outputs of which some lack points; every instance keeps at least one.

    An image that is chosen draws a number k from 1 to the points of its richest instance, and each
    of its instances keeps k random points (or all, if it has fewer). The default generator of
    PyTorch decides.

    Args:
        batched_inputs: mapper outputs; not changed.
        share: in [0, 1], of the images that are chosen.
        settings: how points are rasterised.
    """
    return [_hide(x, settings) if bool(torch.rand(()) < share) else x for x in batched_inputs]


def _hide(x: dict[str, Any], settings: LabelSettings) -> dict[str, Any]:
    index = x["point_index"]
    if len(index) == 0:
        return x
    most = int(torch.bincount(index).max())
    keep = int(torch.randint(1, most + 1, ()))
    # Random order within each instance, then each point's rank in it.
    order = torch.randperm(len(index))
    order = order[index[order].argsort(stable=True)]
    owner = index[order]
    rank = torch.arange(len(index)) - torch.searchsorted(owner, owner)
    left = torch.zeros(len(index), dtype=torch.bool)
    left[order] = rank >= keep
    return without_points(x, left.numpy(), settings) if bool(left.any()) else x

"""Images without some of their points: to test labels by, and to train with.

A label is tested by leaving out one point of each instance, estimating it from the others and
looking up the left-out point's cell. That needs no masks, and works for every maker. Training on
random subsets makes a branch that is good with few points and with many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import own_cells
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels
from fdd.modeling.structures import PointBatch, batch_points
from fdd.points import rasterize_points

#: The network's logits for points of images that it has encoded; None where only rules make labels.
Estimate = Callable[[PointBatch], BranchOutput | None]

#: Of the labels in which left-out points are looked up: labels are drawn between the cells of the
#: network, and small things may hold no cell's centre.
LEFT_OUT_STRIDE = 4
# Rounds that go through the label branch as one batch: a bound on memory.
_ROUNDS_AT_ONCE = 5


def _rank_and_count(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point's position among the points of its instance, and how many these are; (P,) each."""
    order = np.argsort(index, kind="stable")
    _, start, count = np.unique(index[order], return_index=True, return_counts=True)
    rank, total = np.empty_like(index), np.empty_like(index)
    rank[order] = np.arange(len(index)) - np.repeat(start, count)
    total[order] = np.repeat(count, count)
    return rank, total


def left_out_rounds(index: np.ndarray, max_rounds: int) -> list[np.ndarray]:
    """Which points each round leaves out: one of each instance, every point once.

    Args:
        index: (P,) integer instance of each point. One that has a single point keeps it.
        max_rounds: of an instance with more points than this, so many are left out, evenly spread
            over their order in the file.

    Returns:
        One bool (P,) a round; none where no instance has two points.

    Raises:
        ValueError: ``max_rounds`` is below 1.
    """
    if max_rounds < 1:
        raise ValueError(f"max_rounds is {max_rounds}; leave-one-point-out needs at least 1")
    rank, total = _rank_and_count(index)
    turns = np.where(total > 1, np.minimum(total, max_rounds), 0)
    return [
        (turn < turns) & (rank == turn * total // np.maximum(turns, 1))
        for turn in range(int(turns.max(initial=0)))
    ]


def left_out_turn(index: np.ndarray, turn: int) -> np.ndarray:
    """Bool (P,): point number ``turn`` (modulo their number) of every instance with several."""
    rank, total = _rank_and_count(index)
    return (total > 1) & (rank == turn % np.maximum(total, 1))


def without_points(x: dict[str, Any], left: np.ndarray, settings: LabelSettings) -> dict[str, Any]:
    """A mapper output without some of its points.

    Args:
        x: mapper output.
        left: bool (P,), points to leave out; every instance must keep one.
    """
    keep = torch.from_numpy(~left)
    coords, index = x["point_coords"][keep], x["point_index"][keep]
    height, width = x["image"].shape[-2:]
    raster = rasterize_points(
        coords.numpy(),
        index.numpy(),
        x["classes"].numpy(),
        height,
        width,
        settings.dilate_side,
        settings.dilate_reference,
    )
    return x | {
        "point_coords": coords,
        "point_index": index,
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


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


def points_found(
    labels: Tensor,
    inputs: Sequence[dict[str, Any]],
    left: Sequence[np.ndarray],
    image_sizes: Sequence[tuple[int, int]],
    stride: int = LEFT_OUT_STRIDE,
) -> Tensor:
    """Whether the left-out points' own cells carry their instance; does not wait for the device.

    Args:
        labels: (B, h, w) integer instance map, made without the points.
        inputs: B mapper outputs with all points.
        left: of each, bool (P,), its points that were left out.
        image_sizes: (H, W) of each un-padded image.
        stride: of the labels.

    Returns:
        Bool (L,), the left-out points of one image after the other.
    """
    chosen = [torch.from_numpy(mask) for mask in left]
    owner = torch.cat([x["point_index"][m] for x, m in zip(inputs, chosen, strict=True)])
    coords = torch.cat([x["point_coords"][m] for x, m in zip(inputs, chosen, strict=True)])
    image = torch.from_numpy(np.repeat(np.arange(len(left)), [int(m.sum()) for m in left]))
    cell = own_cells(image, coords, image_sizes, labels.shape[2], labels.shape[1], stride)
    return labels.flatten()[upload(cell, labels.device)] == upload(owner, labels.device)


def nearest_finds(x: dict[str, Any], left: np.ndarray) -> np.ndarray:
    """Whether the nearest of the remaining points belongs to a left-out point's instance.

    Args:
        x: mapper output.
        left: bool (P,), points that are left out; some must remain.

    Returns:
        Bool (L,), one a left-out point, in their order.
    """
    coords, index = x["point_coords"].double().numpy(), x["point_index"].numpy()
    if not left.any():
        return np.zeros(0, bool)
    _, nearest = cKDTree(coords[~left]).query(coords[left])
    return index[~left][nearest] == index[left]


@torch.no_grad()
def leave_one_out(
    x: dict[str, Any],
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
    estimate: Estimate,
    makers: Sequence[str],
    settings: LabelSettings,
    device: torch.device,
    max_rounds: int = 10,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Leave every point of one image out once and count those whose label finds them.

    Queries are pooled again from the remaining points' cells; no point is forced. A cell without a
    label (``LABEL_MIN_PROB``, or a rule that gives -1) finds nothing.

    Args:
        x: mapper output.
        image_size: (H, W) of the un-padded input. padded_size: likewise padded.
        estimate: logits of one row for each round.
        makers: "learned" (where ``estimate`` gives logits) and names of rules.
        max_rounds: see :func:`left_out_rounds`.

    Returns:
        (N,) int64 left-out points of each instance, and by maker (N,) int64 those found; on the
        CPU.
    """
    rounds = left_out_rounds(x["point_index"].numpy(), max_rounds)
    owner = [x["point_index"][torch.from_numpy(left)] for left in rounds]
    none = torch.zeros(len(x["classes"]), dtype=torch.long)
    found: dict[str, list[Tensor]] = {name: [] for name in makers}
    for start in range(0, len(rounds), _ROUNDS_AT_ONCE):
        left = rounds[start : start + _ROUNDS_AT_ONCE]
        points = batch_points([without_points(x, m, settings) for m in left], padded_size, device)
        output = estimate(points)
        sizes = [image_size] * len(left)
        for name in makers:
            free = replace(settings.free(), maker=name, stride=LEFT_OUT_STRIDE)
            labels, _ = dense_labels(output, points, sizes, padded_size, free)
            found[name].append(points_found(labels, [x] * len(left), left, sizes).cpu())
    if not rounds:
        return none, {name: none for name in makers}
    every = torch.cat(owner)
    count = none.scatter_add(0, every, torch.ones_like(every))
    return count, {n: none.scatter_add(0, every, torch.cat(f).long()) for n, f in found.items()}

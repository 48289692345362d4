"""What the instance queries stand for: a target and all of its points, or one point each.

The paper makes one query of all points of a target. A target of several parts that look unlike, or
lie apart, has to be found by one vector then. With one query a point (ours), a cell may belong to a
target because of any of its points:

    z_n(i) = log of the sum over the points p of n of exp(z_p(i)),

so that the softmax over instances is the softmax over all points, summed over those of an instance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.structures import PointBatch


@dataclass(frozen=True)
class Prompts:
    """The queries of B images, padded to the largest number of them (at least 1).

    Attributes:
        classes: (B, Q) int64 contiguous class, -1 where padded.
        own: (B, Q, K, 2) float32 points (x, y) in input pixels of each query; those of one with
            fewer than K are repeated. K = 0 where nobody looks at them.
        instance: (B, Q) int64 instance of each query, N where padded; None: query n is instance n.
        num_instances: N of the batch.
    """

    classes: Tensor
    own: Tensor
    instance: Tensor | None
    num_instances: int


def instance_prompts(points: PointBatch, num_things: int) -> Prompts:
    """One query an instance; ``own`` holds the points of things only."""
    own = upload(torch.from_numpy(_points_of_things(points, num_things)), points.classes.device)
    return Prompts(points.classes, own, None, points.classes.shape[1])


def _points_of_things(points: PointBatch, num_things: int) -> np.ndarray:
    """(B, N, K, 2) float32 (x, y) of the points of each thing, the last one repeated; K = 0 where
    no thing has a point."""
    most = points.host_classes.shape[1]
    ranked = []
    for classes, (coords, index) in zip(points.host_classes, points.host_points, strict=True):
        chosen = np.flatnonzero(classes[index] < num_things)
        chosen = chosen[np.argsort(index[chosen], kind="stable")]
        owner = index[chosen]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        ranked.append((owner, rank, coords[chosen]))
    deepest = max((int(rank.max(initial=-1)) + 1 for _, rank, _ in ranked), default=0)
    table = np.full((len(ranked), most, deepest, 2), np.nan, np.float32)
    for image, (owner, rank, coords) in zip(table, ranked, strict=True):
        image[owner, rank] = coords
    for k in range(1, deepest):
        missing = np.isnan(table[:, :, k])
        table[:, :, k][missing] = table[:, :, k - 1][missing]
    return np.nan_to_num(table, nan=0.0)


def point_prompts(points: PointBatch) -> Prompts:
    """One query a point."""
    num_instances = points.classes.shape[1]
    batch, most = len(points.host_points), max(1, *(len(i) for _, i in points.host_points))
    own = np.zeros((batch, most, 1, 2), np.float32)
    instance = np.full((batch, most), num_instances, np.int64)
    classes = np.full((batch, most), -1, np.int64)
    for b, (coords, index) in enumerate(points.host_points):
        own[b, : len(index), 0] = coords
        instance[b, : len(index)] = index
        classes[b, : len(index)] = points.host_classes[b][index]
    device = points.classes.device
    return Prompts(
        upload(torch.from_numpy(classes), device),
        upload(torch.from_numpy(own), device),
        upload(torch.from_numpy(instance), device),
        num_instances,
    )


def join_points(logits: Tensor, prompts: Prompts) -> Tensor:
    """Logits of instances from those of their points: the log of the sum of the exponentials.

    Args:
        logits: (B, Q, h, w) float; padded queries may hold anything.
        prompts: of :func:`point_prompts`.

    Returns:
        (B, N, h, w) float32, -inf for padded instances, but 0 in an image without any.
    """
    instance = prompts.instance
    assert instance is not None
    batch, _, height, width = logits.shape
    slots = prompts.num_instances + 1  # the last takes the padding
    index = instance[..., None, None].expand_as(logits)
    padded = (prompts.classes < 0)[..., None, None]
    logits = logits.masked_fill(padded, 0.0)
    with torch.no_grad():
        top = torch.full((batch, slots, height, width), -torch.inf, device=logits.device)
        top.scatter_reduce_(1, index, logits.detach().float(), "amax")
        absent = top == -torch.inf
        top.masked_fill_(absent, 0.0)
    shifted = (logits.float() - top.gather(1, index)).exp()
    total = torch.zeros_like(top).scatter_add(1, index, shifted)
    joined = total.masked_fill(absent, 1.0).log() + top
    joined = joined[:, :-1]
    real = (~absent[:, :-1]).any(1, keepdim=True)
    return joined.masked_fill(absent[:, :-1] & real, -torch.inf)

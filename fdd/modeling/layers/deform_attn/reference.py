"""Two forms of deformable attention that autograd differentiates: by ``grid_sample``, the textbook
form that every backend is compared with, and by ``embedding_bag``, for ``torch.export``.

Arguments and results are those of :func:`fdd.modeling.layers.ms_deform_attn`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


def grid_sample_attention(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """One ``grid_sample`` a level, samples stacked, one weighted sum (Deformable DETR, Eq. 3)."""
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    dtype = locations.dtype
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    scores = weights.to(dtype).permute(0, 2, 1, 3, 4).flatten(3).flatten(0, 1)
    levels = value.to(dtype).split([h * w for h, w in shapes], dim=1)
    samples = []
    for (h, w), level, grid in zip(shapes, levels, grids, strict=True):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, dim, h, w)
        # (B * heads, d, Q, points)
        samples.append(F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False))
    out = (torch.cat(samples, -1) * scores[:, None]).sum(-1)
    return out.reshape(batch, heads * dim, queries).transpose(1, 2).to(value.dtype)


def embedding_bag_attention(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Every query is one weighted bag of values: four corners a sample.

    Sides may be symbols. Several times as fast as the textbook form, which makes a map of every
    sample.
    """
    batch, cells, heads, dim = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    # Heights and widths, (levels, 1, 1) each.
    sides = [fill(side, locations).view(-1, 1, 1) for side in zip(*shapes, strict=True)]
    starts = [0]
    for height, width in shapes[:-1]:
        starts.append(starts[-1] + height * width)
    corner = torch.arange(4, device=value.device)
    row, scale = fill(starts, locations).view(-1, 1, 1).long(), weights[..., None]
    for axis, upper in ((1, corner // 2), (0, corner % 2)):  # y, then x
        side = sides[1 - axis]
        place = locations[..., axis, None] * side - 0.5
        low = place.floor()
        cell = low + upper
        nearest = torch.minimum(cell.clamp(min=0), side - 1)
        tap = 1 - upper + (2 * upper - 1) * (place - low)
        scale = scale * tap * (cell == nearest)
        row = row + nearest.long() * (sides[1].long() if axis else 1)
    # (B, heads, Q, samples and corners), so that a head's values lie together.
    first = torch.arange(batch * heads, device=value.device).view(batch, heads, 1, 1) * cells
    bags = (batch * heads * queries, 4 * levels * points)
    index = row.flatten(3).transpose(1, 2) + first
    table = value.to(scale.dtype).transpose(1, 2).reshape(batch * heads * cells, dim)
    out = F.embedding_bag(
        index.reshape(bags),
        table,
        per_sample_weights=scale.flatten(3).transpose(1, 2).reshape(bags),
        mode="sum",
    )
    out = out.view(batch, heads, queries, dim).transpose(1, 2)
    return out.reshape(batch, queries, heads * dim).to(value.dtype)


def fill(numbers: Sequence[int], like: Tensor) -> Tensor:
    """(n,) numbers, or symbols, in the dtype and on the device of ``like``.

    Filled on the device: an upload would make the host wait.
    """
    return torch.stack([torch.full((), n, dtype=like.dtype, device=like.device) for n in numbers])

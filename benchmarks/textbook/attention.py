"""Multi-scale deformable attention by grid sampling.

Published: Deformable DETR (Zhu et al., ICLR 2021), section 4.1, Eq. 3; its form without a compiled
operator is ``ms_deform_attn_core_pytorch`` in ``models/ops/functions/ms_deform_attn_func.py`` of
fundamentalvision/Deformable-DETR, which mmcv and the transformers library repeat.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Core = Callable[[Tensor, tuple[tuple[int, int], ...], Tensor, Tensor], Tensor]


def _sample(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, level: int
) -> Tensor:
    """One level's samples, (B * heads, d, Q, points); zero outside the level."""
    batch, _, heads, dim = value.shape
    height, width = shapes[level]
    start = sum(h * w for h, w in shapes[:level])
    maps = value[:, start : start + height * width].flatten(2).transpose(1, 2)
    maps = maps.reshape(batch * heads, dim, height, width)
    grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def stacked_samples(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """The published form: sample every level, stack all samples, take one weighted sum.

    Args:
        value: (B, L, heads, d), L = sum of h * w over ``shapes``.
        shapes: (h, w) of each level.
        locations: (B, Q, heads, levels, points, 2) in [0, 1], (x, y).
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * d).
    """
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    samples = [_sample(value, shapes, locations, i) for i in range(len(shapes))]
    scores = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    out = (torch.stack(samples, dim=-2).flatten(-2) * scores).sum(-1)
    return out.view(batch, heads * dim, queries).transpose(1, 2).contiguous()


def summed_by_level(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """Cheap variant: add up level by level, so that the samples of all levels are never stacked."""
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    scores = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(shapes), -1)
    parts = [
        (_sample(value, shapes, locations, i) * scores[..., i, :]).sum(-1)
        for i in range(len(shapes))
    ]
    return sum(parts).view(batch, heads * dim, queries).transpose(1, 2)


def deformable_attention(
    attn: nn.Module,
    query: Tensor,
    reference: Tensor,
    tokens: Tensor,
    shapes: tuple[tuple[int, int], ...],
    valid: Tensor,
    core: Core,
) -> Tensor:
    """The whole module (Deformable DETR, ``models/ops/modules/ms_deform_attn.py``).

    Args:
        attn: holds the four linear layers and the numbers of heads, levels and points.
        query: (B, Q, D), position included.
        reference: (B, Q, levels, 2) points or (B, Q, levels, 4) boxes in [0, 1] of the padded map.
        tokens: (B, L, D). valid: (B, L) bool; values on padding count as zero.
        core: :func:`stacked_samples` or :func:`summed_by_level`.
    """
    batch, queries, dim = query.shape
    heads, levels, points = attn.num_heads, attn.num_levels, attn.num_points
    value = attn.value_proj(tokens).masked_fill(~valid[..., None], 0.0)
    value = value.view(batch, -1, heads, dim // heads).float()
    offsets = attn.sampling_offsets(query).float().view(batch, queries, heads, levels, points, 2)
    weights = attn.attention_weights(query).float().view(batch, queries, heads, levels * points)
    weights = weights.softmax(-1).view(batch, queries, heads, levels, points)
    if reference.shape[-1] == 2:
        sizes = offsets.new_tensor([[w, h] for h, w in shapes])
        locations = reference[:, :, None, :, None, :] + offsets / sizes[None, None, None, :, None]
    else:
        centre, side = reference[..., :2], reference[..., 2:]
        locations = centre[:, :, None, :, None] + offsets / points * side[:, :, None, :, None] * 0.5
    return attn.output_proj(core(value, shapes, locations, weights).to(query.dtype))

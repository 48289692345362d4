"""The textbook form of multi-scale deformable attention: the oracle of every other backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """One ``grid_sample`` a level, all samples stacked, one weighted sum (Deformable DETR, Eq. 3).

    Arguments and result as of :func:`fdd.modeling.layers.ms_deform_attn`; gradients are autograd's.
    """
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

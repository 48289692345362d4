"""From attention logits to one mask a query.

Published: Panoptic SegFormer (Li et al., CVPR 2022), section 3.4; ``PanformerMaskDecoder`` in
``models/transformer.py`` of BraveGroup/PSPS: attention maps of every level through a 1x1
convolution over the heads and a ReLU, up-sampled to stride 8, concatenated, fused by one 1x1
convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _levels(logits: Tensor, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """(heads, Q, L) logits as one (Q, heads, h, w) map a level."""
    parts = logits.transpose(0, 1).split([h * w for h, w in shapes], dim=-1)
    return [p.unflatten(-1, shape) for p, shape in zip(parts, shapes, strict=True)]


def _mix_heads(head: nn.Module, level: Tensor, i: int) -> Tensor:
    weight = head.mix_weight[i][:, :, None, None]
    return F.conv2d(level, weight.to(level.dtype), head.mix_bias[i].to(level.dtype)).relu()


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def concatenate_levels(
    head: nn.Module, logits: Tensor, shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """The published form: up-sample all heads of all levels (24 channels a query), then fuse.

    Args:
        head: holds ``mix_weight`` (levels, heads, heads), ``mix_bias``, ``fuse_weight`` (levels,
            heads) and ``fuse_bias``.
        logits: (heads, Q, L) scaled logits of one image before the softmax.
        shapes: (h, w) of each level, the finest first.

    Returns:
        (Q, h, w) float32, without a final ReLU.
    """
    maps = [
        _upsample(_mix_heads(head, level, i), shapes[0])
        for i, level in enumerate(_levels(logits, shapes))
    ]
    stacked = torch.cat(maps, dim=1)
    weight = head.fuse_weight.view(1, -1, 1, 1).to(stacked.dtype)
    return F.conv2d(stacked, weight, head.fuse_bias.view(1).to(stacked.dtype))[:, 0].float()


def project_then_upsample(
    head: nn.Module, logits: Tensor, shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """Cheap variant: a 1x1 convolution and bilinear up-sampling commute, so fuse each level first.

    Equal; one channel a level is up-sampled instead of ``heads``.
    """
    out = None
    for i, level in enumerate(_levels(logits, shapes)):
        mixed = _mix_heads(head, level, i)
        weight = head.fuse_weight[i].view(1, -1, 1, 1).to(mixed.dtype)
        level_mask = _upsample(F.conv2d(mixed, weight).float(), shapes[0])
        out = level_mask if out is None else out + level_mask
    return (out + head.fuse_bias)[:, 0]

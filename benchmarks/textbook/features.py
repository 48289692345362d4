"""From images to feature tokens: normalising, backbone, channel mapper, deformable encoder.

Published: Deformable DETR, section 4.1 and appendix A.3; ``ChannelMapper`` of mmdet,
``easymd/models/panformer/deformable_detr.py`` of BraveGroup/PSPS.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.textbook.attention import deformable_attention
from benchmarks.textbook.parts import Arrangement
from fdd.modeling.label_maps import valid_cells


class Features(NamedTuple):
    """Tokens of B images, fine to coarse.

    Attributes:
        tokens, pos: (B, L, D). valid: (B, L) bool.
        shapes: (h, w) a level. ratios: (B, levels, 2), valid share in x and y.
    """

    tokens: Tensor
    pos: Tensor
    valid: Tensor
    shapes: tuple[tuple[int, int], ...]
    ratios: Tensor

    def finest(self, levels: int, image: int) -> Features:
        """The first levels of one image."""
        length = sum(h * w for h, w in self.shapes[:levels])
        one = slice(image, image + 1)
        return Features(
            self.tokens[one, :length],
            self.pos[one, :length],
            self.valid[one, :length],
            self.shapes[:levels],
            self.ratios[one, :levels],
        )


def normalise_and_pad(
    model: nn.Module, batched_inputs: list[dict[str, Any]]
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Images (B, 3, H, W), zero on padding, and their own (H, W)."""
    images = [(x["image"].to(model.device).float()) for x in batched_inputs]
    sizes = [(int(x.shape[1]), int(x.shape[2])) for x in images]
    step = model.size_divisibility
    height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
    padded = [
        F.pad((x - model.pixel_mean) / model.pixel_std, (0, width - w, 0, height - h))
        for x, (h, w) in zip(images, sizes, strict=True)
    ]
    return torch.stack(padded), sizes


def sine_encoding(valid: Tensor, dim: int) -> Tensor:
    """Sine encoding of the valid cells (DETR, appendix A.4), offset -0.5, (B, h, w, dim)."""
    half = dim // 2
    y = (valid.cumsum(1, dtype=torch.float32) - 0.5) / (valid.sum(1, keepdim=True) + 1e-6)
    x = (valid.cumsum(2, dtype=torch.float32) - 0.5) / (valid.sum(2, keepdim=True) + 1e-6)
    power = torch.arange(half, device=valid.device, dtype=torch.float32)
    power = 10000.0 ** (2 * (power // 2) / half)
    parts = []
    for place in (y, x):
        angle = place[..., None] * 2 * math.pi / power
        pair = (angle[..., 0::2].sin(), angle[..., 1::2].cos())
        parts.append(torch.stack(pair, dim=-1).flatten(3))
    return torch.cat(parts, dim=3)


def reference_points(shapes: tuple[tuple[int, int], ...], ratios: Tensor) -> Tensor:
    """Centre of every token on every level's padded map, (B, L, levels, 2) in [0, 1]."""
    points = []
    for level, (h, w) in enumerate(shapes):
        rows = torch.linspace(0.5, h - 0.5, h, device=ratios.device)
        columns = torch.linspace(0.5, w - 0.5, w, device=ratios.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        y = y.reshape(1, -1) / (ratios[:, None, level, 1] * h)
        x = x.reshape(1, -1) / (ratios[:, None, level, 0] * w)
        points.append(torch.stack([x, y], dim=-1))
    return torch.cat(points, dim=1)[:, :, None] * ratios[:, None]


def feed_forward(ffn: nn.Module, x: Tensor, activation: Any, dropout: float = 0.0) -> Tensor:
    """Residual perceptron with post-norm and PyTorch's dropout."""
    hidden = F.dropout(activation(ffn.linear1(x)), dropout)
    return ffn.norm(x + F.dropout(ffn.linear2(hidden), dropout))


def _continue_edge(x: Tensor, valid: list[Tensor], shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """Tokens on padding take the value of the nearest valid one of their level.

    This package's rule, so that masks do not depend on padding. PSPS zeroes masks there instead.
    """
    levels = []
    for part, mask, (h, w) in zip(
        x.split([h * w for h, w in shapes], 1), valid, shapes, strict=True
    ):
        images = []
        for image, inside in zip(part, mask, strict=True):
            rows, columns = int(inside[:, 0].sum()), int(inside[0].sum())
            grid = image.view(h, w, -1)
            v = torch.arange(h, device=x.device).clamp(max=rows - 1)
            u = torch.arange(w, device=x.device).clamp(max=columns - 1)
            images.append(grid[v][:, u].flatten(0, 1))
        levels.append(torch.stack(images))
    return torch.cat(levels, dim=1)


def encode(
    model: nn.Module,
    images: Tensor,
    sizes: list[tuple[int, int]],
    parts: Arrangement,
    dropout: float = 0.0,
) -> Features:
    """Backbone and encoder, all images in one batch."""
    encoder = model.encoder
    maps = model.backbone(images)
    maps = [maps[name] for name in model.in_features]
    inputs = [*maps, maps[-1]]
    levels = [
        norm(conv(x))
        for x, conv, norm in zip(inputs, encoder.mapper.convs, encoder.mapper.norms, strict=True)
    ]
    shapes = tuple((int(x.shape[2]), int(x.shape[3])) for x in levels)
    valid = [
        valid_cells(sizes, 8 * 2**i, shape).to(images.device) for i, shape in enumerate(shapes)
    ]
    tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)
    dim = tokens.shape[-1]
    pos = [
        sine_encoding(v, dim).flatten(1, 2) + encoder.level_embed[i] for i, v in enumerate(valid)
    ]
    pos = torch.cat(pos, dim=1).to(tokens.dtype)
    flat_valid = torch.cat([v.flatten(1) for v in valid], dim=1)
    ratios = torch.stack(
        [torch.stack([v[:, 0].float().mean(1), v[:, :, 0].float().mean(1)], -1) for v in valid], 1
    )
    reference = reference_points(shapes, ratios)
    for layer in encoder.layers:
        out = deformable_attention(
            layer.attn, tokens + pos, reference, tokens, shapes, flat_valid, parts.attention
        )
        tokens = layer.norm(tokens + F.dropout(out, dropout))
        tokens = feed_forward(layer.ffn, tokens, F.relu, dropout)
    tokens, pos = (_continue_edge(x, valid, shapes) for x in (tokens, pos))
    return Features(tokens, pos, flat_valid, shapes, ratios)

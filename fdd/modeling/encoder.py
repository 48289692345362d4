"""Channel mapper and deformable transformer encoder: backbone maps in, feature tokens F^e out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fdd.modeling.label_maps import valid_cells
from fdd.modeling.layers import (
    Dropout,
    FeedForward,
    Memory,
    MSDeformAttn,
    nearest_valid,
    sine_position_encoding,
    valid_ratios,
)
from fdd.points.raster import num_valid_cells


class ChannelMapper(nn.Module):
    """Bring every backbone map to the model's width and add one coarser level.

    1x1 convolution + GroupNorm a map; the extra level is a 3x3 stride-2 convolution on the last.
    """

    def __init__(self, *, in_channels: list[int], dim: int):
        super().__init__()
        groups = math.gcd(32, dim // 2)  # at least two channels a group: a 1x1 map has nothing else
        convs = [nn.Conv2d(c, dim, 1) for c in in_channels]
        convs.append(nn.Conv2d(in_channels[-1], dim, 3, stride=2, padding=1))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, dim) for _ in convs)
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """(B, C_i, h_i, w_i) a level, fine to coarse -> one more (B, D, h_i, w_i)."""
        inputs = [*features, features[-1]]
        return [n(c(x)) for x, c, n in zip(inputs, self.convs, self.norms, strict=True)]


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels and a perceptron, both with post-norm."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        num_levels: int,
        num_points: int,
        dropout: float,
    ):
        super().__init__()
        self.attn = MSDeformAttn(
            dim=dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.ffn = FeedForward(dim=dim, hidden=ffn_dim, dropout=dropout)

    def forward(self, tokens: Tensor, memory: Memory, reference: Tensor) -> Tensor:
        """(B, L, D) tokens -> refined tokens; ``reference`` is (B, L, levels, 2)."""
        out = self.attn(tokens + memory.pos, reference, tokens, memory.shapes, memory.padding_mask)
        return self.ffn(self.norm(tokens + self.dropout(out)))


class DeformableEncoder(nn.Module):
    """Channel mapper + stacked :class:`EncoderLayer` (Deformable DETR; the paper's Figure 2)."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: list[int],
        in_strides: list[int],
        dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        num_points: int,
        dropout: float,
        use_checkpoint: bool = False,
    ):
        """
        Args:
            in_channels, in_strides: of the backbone maps, fine to coarse; the finest has stride 8
                and each next one doubles it.

        Raises:
            ValueError: when the strides are others, since masks and labels live at stride 8.
        """
        super().__init__()
        if list(in_strides) != [8 * 2**i for i in range(len(in_strides))]:
            raise ValueError(
                f"MODEL.FDD.IN_FEATURES have strides {list(in_strides)}; expected 8, 16, 32, ...: "
                "choose backbone maps with these strides (res3, res4, res5 for a ResNet)"
            )
        self.dim, self.use_checkpoint = dim, use_checkpoint
        self.strides = [*in_strides, 2 * in_strides[-1]]
        self.mapper = ChannelMapper(in_channels=in_channels, dim=dim)
        self.level_embed = nn.Parameter(torch.randn(len(self.strides), dim))
        self.layers = nn.ModuleList(
            EncoderLayer(
                dim=dim,
                num_heads=num_heads,
                ffn_dim=ffn_dim,
                num_levels=len(self.strides),
                num_points=num_points,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict[str, Any]:
        """``shapes``: of the backbone's maps."""
        fdd = cfg.MODEL.FDD
        missing = [f for f in fdd.IN_FEATURES if f not in shapes]
        if missing:
            raise ValueError(
                f"MODEL.FDD.IN_FEATURES names {missing}; the backbone gives {sorted(shapes)}: "
                "add them to the backbone's OUT_FEATURES or change IN_FEATURES"
            )
        return {
            "in_channels": [shapes[f].channels for f in fdd.IN_FEATURES],
            "in_strides": [shapes[f].stride for f in fdd.IN_FEATURES],
            "dim": fdd.HIDDEN_DIM,
            "num_heads": fdd.NUM_HEADS,
            "ffn_dim": fdd.ENCODER.FFN_DIM,
            "num_layers": fdd.ENCODER.NUM_LAYERS,
            "num_points": fdd.ENCODER.NUM_POINTS,
            "dropout": fdd.ENCODER.DROPOUT,
            "use_checkpoint": fdd.CHECKPOINT,
        }

    def forward(self, features: list[Tensor], image_sizes: list[tuple[int, int]]) -> Memory:
        """
        Args:
            features: backbone maps (B, C_i, h_i, w_i), fine to coarse.
            image_sizes: un-padded (H, W) of each image in pixels.

        Returns:
            Memory with F^e as tokens.
        """
        maps = self.mapper(features)
        shapes = [(int(m.shape[2]), int(m.shape[3])) for m in maps]
        masks = [
            valid_cells(image_sizes, stride, shape, maps[0].device)
            for stride, shape in zip(self.strides, shapes, strict=True)
        ]
        padded = any(
            (num_valid_cells(height, stride), num_valid_cells(width, stride)) != shape
            for height, width in image_sizes
            for stride, shape in zip(self.strides, shapes, strict=True)
        )
        return self.refine(maps, masks, padded)

    def refine(self, maps: list[Tensor], masks: list[Tensor], padded: bool) -> Memory:
        """Memory of the mapped features.

        Args:
            maps: (B, D, h, w) a level. masks: (B, h, w) bool a level, True inside the image.
            padded: whether any mask has a False.
        """
        pos = [
            sine_position_encoding(mask, self.dim).flatten(1, 2) + embed
            for mask, embed in zip(masks, self.level_embed, strict=True)
        ]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        memory = Memory(
            tokens=tokens,
            pos=torch.cat(pos, 1).to(tokens.dtype),
            valid=torch.cat([m.flatten(1) for m in masks], 1),
            shapes=tuple((m.shape[2], m.shape[3]) for m in maps),
            valid_ratios=valid_ratios(masks),
            padded=padded,
        )
        reference = _cell_centres(memory)
        for layer in self.layers:
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, memory, reference, use_reentrant=False)
            else:
                tokens = layer(tokens, memory, reference)
        if memory.padded:
            index = nearest_valid(masks)[..., None].expand_as(tokens)
            tokens, extended_pos = tokens.gather(1, index), memory.pos.gather(1, index)
            memory = replace(memory, pos=extended_pos)
        return replace(memory, tokens=tokens)


def _cell_centres(memory: Memory) -> Tensor:
    """Where each token lies on every level's padded map: (B, L, levels, 2) in [0, 1], (x, y)."""
    device = memory.tokens.device
    centres = []
    for i, (h, w) in enumerate(memory.shapes):
        y = torch.arange(0.5, h, device=device).view(1, h, 1).expand(1, h, w).reshape(1, -1)
        x = torch.arange(0.5, w, device=device).repeat(h).view(1, -1)
        ratio = memory.valid_ratios[:, i]
        centres.append(torch.stack([x / (ratio[:, :1] * w), y / (ratio[:, 1:] * h)], -1))
    return torch.cat(centres, 1)[:, :, None] * memory.valid_ratios[:, None]


def finest_map(memory: Memory, flat: Tensor, num_levels: int) -> Tensor:
    """Up-sample the first levels of a (B, L, D) tensor to the finest grid and sum: (B, D, h, w)."""
    maps = memory.split(flat.transpose(1, 2))[:num_levels]
    out = maps[0]
    for level in maps[1:]:
        out = out + F.interpolate(
            level, size=memory.shapes[0], mode="bilinear", align_corners=False
        )
    return out

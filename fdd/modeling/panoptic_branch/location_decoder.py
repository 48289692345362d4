"""Location decoder: detection queries that find things (Deformable DETR with box refinement)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdd.modeling.layers import MLP, Dropout, FeedForward, Memory, MSDeformAttn, SelfAttention


@dataclass(frozen=True)
class Detections:
    """What the location decoder says, for each of its layers.

    Attributes:
        logits: (layers, B, Q, Cth) class logits, sigmoid, no background.
        boxes: (layers, B, Q, 4) as cx, cy, w, h in [0, 1] of the un-padded image.
        queries: (B, Q, D), refined content of the last layer.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor


class LocationLayer(nn.Module):
    """Self-attention, deformable cross-attention and perceptron, with post-norm."""

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
        self.self_attn = SelfAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.cross_attn = MSDeformAttn(
            dim=dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.ffn = FeedForward(dim=dim, hidden=ffn_dim, dropout=dropout)

    def forward(self, query: Tensor, pos: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        query = self.self_attn(query, pos)
        out = self.cross_attn(
            query + pos, reference, memory.tokens, memory.shapes, memory.padding_mask
        )
        return self.ffn(self.norm(query + self.dropout(out)))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of a probability, clamped away from 0 and 1."""
    x = x.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


class LocationDecoder(nn.Module):
    """Fixed set of queries, refined layer by layer; class and box heads on every layer."""

    def __init__(
        self,
        *,
        dim: int,
        num_things: int,
        num_queries: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        num_levels: int,
        num_points: int,
        dropout: float,
    ):
        super().__init__()
        self.query_pos = nn.Embedding(num_queries, dim)
        self.query_content = nn.Embedding(num_queries, dim)
        self.reference_points = nn.Linear(dim, 2)
        self.layers = nn.ModuleList(
            LocationLayer(
                dim=dim,
                num_heads=num_heads,
                ffn_dim=ffn_dim,
                num_levels=num_levels,
                num_points=num_points,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        class_heads = [nn.Linear(dim, num_things) for _ in range(num_layers)]
        box_heads = [MLP(dim=dim, hidden=dim, out=4, num_layers=3) for _ in range(num_layers)]
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)
        self._reset(class_heads, [head.last for head in box_heads])

    def _reset(self, class_heads: list[nn.Linear], box_outputs: list[nn.Linear]) -> None:
        """Rare-class prior of 0.01; boxes start at the reference points, small."""
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        for head in class_heads:
            nn.init.constant_(head.bias, -math.log(99.0))
        for output in box_outputs:
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)
        nn.init.constant_(box_outputs[0].bias[2:], -2.0)

    def forward(self, memory: Memory) -> Detections:
        """Decode all levels of ``memory``."""
        batch = memory.tokens.shape[0]
        query = self.query_content.weight.expand(batch, -1, -1)
        pos = self.query_pos.weight.expand(batch, -1, -1)
        reference = self.reference_points(pos).float().sigmoid()
        ratios = memory.valid_ratios[:, None]
        all_logits, all_boxes = [], []
        for layer, class_head, box_head in zip(
            self.layers, self.class_heads, self.box_heads, strict=True
        ):
            scale = torch.cat([ratios, ratios], -1)[..., : reference.shape[-1]]
            query = layer(query, pos, reference[:, :, None] * scale, memory)
            delta = box_head(query).float()
            known = inverse_sigmoid(reference)
            if reference.shape[-1] == 2:
                known = torch.cat([known, torch.zeros_like(known)], -1)
            boxes = (delta + known).sigmoid()
            all_logits.append(class_head(query).float())
            all_boxes.append(boxes)
            reference = boxes.detach()
        return Detections(torch.stack(all_logits), torch.stack(all_boxes), query)

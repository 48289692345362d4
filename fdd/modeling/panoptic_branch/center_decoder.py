"""Centre decoder: things are found as the peaks of a dense map of their centres. Ours, not the
paper's.

Detection queries that are learned from nothing need many thousand steps until each of them looks
somewhere of its own; before that, none is surer than the background, and no thing is found. Here
every stride-8 cell says how likely the centre of a thing of each class lies in it, and how the box
around that would be (the dense form of CenterNet, Zhou et al., 2019, and FCOS, Tian et al., 2019).
All cells learn from all things at once, which a few hundred steps are enough for. The peaks of the
map become the queries of the mask decoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.encoder import finest_map
from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.layers import Memory, nearest_valid

# Probability of a centre that every cell starts with, as for Deformable DETR's queries.
_START = 0.01
# Side of a box at the start, in pixels of the input, and the limits of its logarithm: a box is
# never larger than any image, and never of no size.
_START_SIDE = 2.0 * POINT_STRIDE
_LOG_SIDES = (-3.0, 6.0)


@dataclass(frozen=True)
class CenterMaps:
    """What the centre decoder says about each stride-8 cell of B images.

    Attributes:
        logits: (B, Cth, h, w) float32, class logits of "the centre of a thing is here"; sigmoid.
        boxes: (B, 4, h, w) float32 (x0, y0, x1, y1) in pixels of the padded input: the box of the
            thing whose centre would be here.
        features: (B, D, h, w), what queries are made of.
        valid: (B, h, w) bool, cells inside the image.
    """

    logits: Tensor
    boxes: Tensor
    features: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Peaks:
    """The K surest centres of each of B images, best first.

    Attributes:
        scores: (B, K) float32 probabilities; 0 where an image has fewer peaks.
        classes: (B, K) int64 contiguous thing classes.
        cells: (B, K) int64 index of the cell, row * w + column.
    """

    scores: Tensor
    classes: Tensor
    cells: Tensor


class CenterDecoder(nn.Module):
    """Two convolutions over the encoder's finest tokens; heads of classes, boxes and queries."""

    def __init__(self, *, dim: int, num_things: int, num_levels: int = 3):
        """
        Args:
            dim: width of tokens and queries.
            num_things: thing classes, at least 1.
            num_levels: levels of tokens that are summed at stride 8.
        """
        super().__init__()
        self.num_levels = num_levels
        self.convs = nn.ModuleList(nn.Conv2d(dim, dim, 3) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.class_head = nn.Conv2d(dim, num_things, 1)
        self.box_head = nn.Conv2d(dim, 4, 1)
        self.query_head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        with torch.no_grad():
            for parameter in (*self.class_head.parameters(), *self.box_head.parameters()):
                parameter.zero_()
            assert self.class_head.bias is not None
            self.class_head.bias.fill_(math.log(_START / (1 - _START)))

    def forward(self, memory: Memory) -> CenterMaps:
        """Dense maps of all cells."""
        valid = memory.split(memory.valid)[0]
        x = finest_map(memory, memory.tokens + memory.pos, self.num_levels)
        edge = nearest_valid([valid])[:, None] if memory.padded else None
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # Padding continues the image's edge, before and after: it changes no cell inside.
            x = conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))
            x = norm(x.permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2)
            if edge is not None:
                x = x.flatten(2).gather(2, edge.expand(-1, x.shape[1], -1)).view_as(x)
        boxes = self._boxes(self.box_head(x).float())
        return CenterMaps(self.class_head(x).float(), boxes, x, valid)

    @staticmethod
    def _boxes(raw: Tensor) -> Tensor:
        """(B, 4, h, w) offset of the centre in cells and log sides -> corners in pixels."""
        height, width = raw.shape[2:]
        x = torch.arange(width, device=raw.device) + 0.5
        y = (torch.arange(height, device=raw.device) + 0.5)[:, None]
        cx, cy = POINT_STRIDE * (x + raw[:, 0]), POINT_STRIDE * (y + raw[:, 1])
        half = 0.5 * _START_SIDE * raw[:, 2:].clamp(*_LOG_SIDES).exp()
        return torch.stack(
            (cx - half[:, 0], cy - half[:, 1], cx + half[:, 0], cy + half[:, 1]), dim=1
        )

    def queries(self, maps: CenterMaps, cells: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            maps: of this decoder.
            cells: (B, K) int64, row * w + column.

        Returns:
            Queries (B, K, D) of the mask decoder and boxes (B, K, 4) in pixels, of these cells.
        """

        def pick(dense: Tensor) -> Tensor:
            flat = dense.flatten(2)
            return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)

        return self.query_head(pick(maps.features)), pick(maps.boxes)

    @staticmethod
    @torch.no_grad()
    def peaks(maps: CenterMaps, most: int) -> Peaks:
        """The cells that are surer than their eight neighbours, of each class by itself: a balcony
        before a window has about the same center.

        Args:
            maps: of this decoder.
            most: K; images with fewer peaks are filled up with a score of 0.
        """
        probability = maps.logits.sigmoid() * maps.valid[:, None]
        around = F.max_pool2d(probability, 3, stride=1, padding=1)
        flat = (probability * (probability == around)).flatten(1)
        scores, index = F.pad(flat, (0, most)).topk(most)
        index = index.clamp(max=flat.shape[1] - 1)  # filled up: any cell, with a score of 0
        cells = maps.logits.shape[2] * maps.logits.shape[3]
        return Peaks(scores, index // cells, index % cells)

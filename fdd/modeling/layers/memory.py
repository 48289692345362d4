"""The multi-level feature tokens that every head reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Feature tokens of all levels, fine to coarse, flattened and concatenated.

    Attributes:
        tokens: (B, L, D) features, L = sum of h*w over the levels.
        pos: (B, L, D) position encoding plus level embedding.
        valid: (B, L) bool, False on padding.
        shapes: (h, w) of each level.
        valid_ratios: (B, levels, 2), share of valid cells in x and y.
    """

    tokens: Tensor
    pos: Tensor
    valid: Tensor
    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor

    def finest(self, num_levels: int) -> Memory:
        """The first ``num_levels`` levels only."""
        length = sum(h * w for h, w in self.shapes[:num_levels])
        return Memory(
            self.tokens[:, :length],
            self.pos[:, :length],
            self.valid[:, :length],
            self.shapes[:num_levels],
            self.valid_ratios[:, :num_levels],
        )

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut a (..., L) tensor into one (..., h, w) tensor a level."""
        parts = flat.split([h * w for h, w in self.shapes], dim=-1)
        return [p.unflatten(-1, s) for p, s in zip(parts, self.shapes, strict=True)]


def valid_ratios(masks: list[Tensor]) -> Tensor:
    """Share of valid columns and rows of each level.

    Args:
        masks: one bool (B, h, w) a level, True inside the image (a top-left rectangle).

    Returns:
        (B, levels, 2) float, (x, y).
    """
    ratios = [torch.stack([m[:, 0].float().mean(1), m[:, :, 0].float().mean(1)], -1) for m in masks]
    return torch.stack(ratios, 1)

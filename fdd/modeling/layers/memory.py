"""The multi-level feature tokens that every head reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Feature tokens of all levels, fine to coarse, flattened and concatenated.

    Padding continues the image's edge, so that interpolation near the edge neither sees padding nor
    changes with it.

    Attributes:
        tokens: (B, L, D) features, L = sum of h*w over the levels. A token on padding equals the
            nearest valid one of its level.
        pos: (B, L, D) position encoding plus level embedding; on padding as for tokens.
        valid: (B, L) bool, False on padding.
        shapes: (h, w) of each level.
        valid_ratios: (B, levels, 2), share of valid cells in x and y.
        padded: whether any token may be padding; known on the host, so that nobody asks ``valid``.
        features: the backbone's maps that the tokens come from, (B, C_i, h_i, w_i) each, detached;
            empty unless a label maker looks at them.
    """

    tokens: Tensor
    pos: Tensor
    valid: Tensor
    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor
    padded: bool = True
    features: tuple[Tensor, ...] = ()

    @property
    def padding_mask(self) -> Tensor | None:
        """``valid``, or None where nothing is padding."""
        return self.valid if self.padded else None

    def finest(self, num_levels: int) -> Memory:
        """The first ``num_levels`` levels only, without :attr:`features`."""
        length = sum(h * w for h, w in self.shapes[:num_levels])
        return Memory(
            self.tokens[:, :length],
            self.pos[:, :length],
            self.valid[:, :length],
            self.shapes[:num_levels],
            self.valid_ratios[:, :num_levels],
            self.padded,
        )

    def repeat(self, image: int, times: int) -> Memory:
        """One image of the batch, ``times`` times, as views."""

        def one(x: Tensor) -> Tensor:
            return x[image : image + 1].expand(times, *x.shape[1:])

        return Memory(
            one(self.tokens),
            one(self.pos),
            one(self.valid),
            self.shapes,
            one(self.valid_ratios),
            self.padded,
            tuple(map(one, self.features)),
        )

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut a (..., L) tensor into one (..., h, w) tensor a level."""
        parts = flat.split([h * w for h, w in self.shapes], dim=-1)
        return [p.unflatten(-1, s) for p, s in zip(parts, self.shapes, strict=True)]


def nearest_valid(masks: list[Tensor]) -> Tensor:
    """For every token the nearest valid token of its level: itself, unless it is padding.

    Args:
        masks: one bool (B, h, w) a level, True inside the image (a top-left rectangle, not empty).

    Returns:
        (B, L) int64 index into the concatenated tokens.
    """
    parts, start = [], 0
    for mask in masks:
        height, width = mask.shape[1:]
        rows, columns = mask[:, :, 0].sum(1), mask[:, 0].sum(1)
        v = torch.minimum(torch.arange(height, device=mask.device), rows[:, None] - 1)
        u = torch.minimum(torch.arange(width, device=mask.device), columns[:, None] - 1)
        parts.append((start + v[:, :, None] * width + u[:, None]).flatten(1))
        start += height * width
    return torch.cat(parts, 1)


def valid_ratios(masks: list[Tensor]) -> Tensor:
    """Share of valid columns and rows of each level.

    Args:
        masks: one bool (B, h, w) a level, True inside the image (a top-left rectangle).

    Returns:
        (B, levels, 2) float, (x, y).
    """
    ratios = [torch.stack([m[:, 0].float().mean(1), m[:, :, 0].float().mean(1)], -1) for m in masks]
    return torch.stack(ratios, 1)

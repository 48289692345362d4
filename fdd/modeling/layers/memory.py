"""The multi-level feature tokens that every head reads, and their positions."""

from __future__ import annotations

import math
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
        padded: some token may be padding; known on the host, so that the device is not waited for.
        features: the backbone's maps that the tokens come from, (B, C_i, h_i, w_i) each, detached;
            empty unless a label maker uses them.
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


def sine_position_encoding(valid: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """DETR's sine encoding with Deformable DETR's half-cell offset.

    Coordinates run over the *valid* cells only and are normalised to 2 pi, so that padding a batch
    does not move an image's positions. The valid part is a rectangle, so y depends on the row alone
    and x on the column: sines are taken of h + w numbers, not of h * w.

    Args:
        valid: (B, h, w) bool, True inside the image (a top-left rectangle).
        dim: channels of the result; half of them for y, then half for x.
        temperature: base of the geometric progression of wavelengths.

    Returns:
        (B, h, w, dim) float32.
    """
    eps, scale, half = 1e-6, 2 * math.pi, dim // 2
    frequency = torch.arange(half, device=valid.device, dtype=torch.float32)
    frequency = temperature ** (2 * torch.div(frequency, 2, rounding_mode="floor") / half)

    def encode(side: Tensor) -> Tensor:
        """(B, n) valid cells of a side -> (B, n, half)."""
        count = side.cumsum(1, dtype=torch.float32)
        angle = ((count - 0.5) / (count[:, -1:] + eps) * scale)[..., None] / frequency
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)

    batch, height, width = valid.shape
    rows, columns = encode(valid[:, :, 0]), encode(valid[:, 0])
    shape = (batch, height, width, half)
    return torch.cat([rows[:, :, None].expand(shape), columns[:, None].expand(shape)], -1)

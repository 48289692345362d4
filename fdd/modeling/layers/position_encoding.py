"""Sine position encoding over the valid part of a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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

"""Sine position encoding over the valid part of a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position_encoding(valid: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """DETR's sine encoding with Deformable DETR's half-cell offset.

    Coordinates run over the *valid* cells only and are normalised to 2 pi, so that padding a batch
    does not move an image's positions.

    Args:
        valid: (B, h, w) bool, True inside the image.
        dim: channels of the result; half of them for y, then half for x.
        temperature: base of the geometric progression of wavelengths.

    Returns:
        (B, h, w, dim) float32.
    """
    eps, scale, half = 1e-6, 2 * math.pi, dim // 2
    frequency = torch.arange(half, device=valid.device, dtype=torch.float32)
    frequency = temperature ** (2 * torch.div(frequency, 2, rounding_mode="floor") / half)

    def encode(axis: int) -> Tensor:
        count = valid.cumsum(axis, dtype=torch.float32)
        last = count[:, -1:] if axis == 1 else count[:, :, -1:]
        angle = ((count - 0.5) / (last + eps) * scale)[..., None] / frequency
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)

    return torch.cat([encode(1), encode(2)], -1)

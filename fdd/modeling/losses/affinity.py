"""Which neighbouring cells are of the same colour (paper Eq. 5), and how pairs are enumerated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fdd.modeling.losses.common import full_precision

# Linear sRGB -> XYZ (D65), and the white point that goes with it.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)

Window = tuple[slice, slice]


@torch.no_grad()
def rgb_to_lab(image: Tensor) -> Tensor:
    """CIE LAB (D65) of sRGB images, on the usual scale (L in 0..100).

    Args:
        image: (B, 3, H, W) float in [0, 1], channels R, G, B; values outside are clipped.

    Returns:
        (B, 3, H, W) float32 (float64 for float64 input), without gradient.
    """
    rgb = full_precision(image).clamp(0, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.empty_like(linear)
    for row, white, out in zip(_XYZ_FROM_RGB, _WHITE, xyz.unbind(1), strict=True):
        # Sums of planes, not a matrix product: autocast and TF32 would flip borderline affinities.
        torch.mul(linear[:, 0], row[0] / white, out=out)
        out.add_(linear[:, 1], alpha=row[1] / white).add_(linear[:, 2], alpha=row[2] / white)
    curved = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = curved.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def half_plane_offsets(kernel: int, dilation: int) -> list[tuple[int, int]]:
    """The (dy, dx) of half of a kernel's neighbours: each unordered pair occurs once.

    Raises:
        ValueError: even or non-positive ``kernel``, non-positive ``dilation``.
    """
    if kernel < 1 or kernel % 2 == 0 or dilation < 1:
        raise ValueError(f"kernel {kernel} must be odd and >= 1, dilation {dilation} must be >= 1")
    r = kernel // 2
    steps = range(-r, r + 1)
    half = [(dy, dx) for dy in steps for dx in steps if dy > 0 or (dy == 0 and dx > 0)]
    return [(dy * dilation, dx * dilation) for dy, dx in half]


def pair_windows(height: int, width: int, dy: int, dx: int) -> tuple[Window, Window]:
    """Rows and columns of all cells i whose neighbour j = i + (dy, dx) is in the map, and of those
    j."""
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    x_i, x_j = max(-dx, 0), max(dx, 0)
    first = (slice(0, rows), slice(x_i, x_i + columns))
    second = (slice(dy, dy + rows), slice(x_j, x_j + columns))
    return first, second


@torch.no_grad()
def color_affinity(
    lab: Tensor, valid: Tensor, kernel: int = 5, dilation: int = 2, threshold: float = 0.3
) -> Tensor:
    """Which neighbours are alike: exp(-0.5 |LAB_i - LAB_j|) > threshold (paper Eq. 5).

    Made once per image and shared by all decoder layers and both branches. exp(-d / 2) > t is
    d^2 < (2 ln t)^2, which needs neither the exponential nor the root; an infinite colour in
    invalid cells is far from (or NaN against) every other, so that validity costs no mask per pair.

    Args:
        lab: (B, 3, h, w) float, the images in LAB at the logits' stride.
        valid: (B, h, w) bool, cells inside the un-padded image; a pair needs both.
        kernel: odd side of the neighbourhood, in steps of ``dilation`` cells.
        dilation: cells between neighbours.
        threshold: the affinity above which (strictly) a pair counts.

    Returns:
        (B, (kernel * kernel - 1) / 2, h, w) bool: entry (o, v, u) is the pair of cell (v, u) with
        its neighbour at the o-th half-plane offset; False where that neighbour is outside.

    Raises:
        ValueError: even or non-positive ``kernel``, or shapes that do not fit.
    """
    if lab.dim() != 4 or lab.shape[1] != 3 or valid.shape != lab[:, 0].shape:
        raise ValueError(
            f"lab has shape {tuple(lab.shape)} and valid {tuple(valid.shape)}; "
            "expected (B, 3, h, w) and (B, h, w)"
        )
    offsets = half_plane_offsets(kernel, dilation)
    limit = max(-2 * math.log(threshold), 0.0) if threshold > 0 else math.inf
    lab = full_precision(lab).masked_fill(~valid.unsqueeze(1), math.inf)
    batch, _, height, width = lab.shape
    distance2 = lab.new_full((batch, len(offsets), height, width), math.inf)
    for o, (dy, dx) in enumerate(offsets):
        (ri, ci), (rj, cj) = pair_windows(height, width, dy, dx)
        step = lab[:, :, ri, ci] - lab[:, :, rj, cj]
        torch.sum(step.square_(), 1, out=distance2[:, o, ri, ci])
    return distance2 < limit * limit

"""The colour prior: neighbours of similar colour should have the same label (paper Eq. 4, 5 and
8)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common import at_least_one, attached_zero, full_precision

# Linear sRGB -> XYZ (D65), and the white point that goes with it.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
# Floor of the pair probability. 1e-12 would already be wrong for logit gaps above 28; this holds to
# 69.
_FLOOR = 1e-30

_Pair = tuple[tuple[slice, slice], tuple[slice, slice]]


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
    curved = []
    for row, white in zip(_XYZ_FROM_RGB, _WHITE, strict=True):
        # Sums of planes, not a matrix product: autocast and TF32 would flip borderline affinities.
        t = (row[0] * linear[:, 0] + row[1] * linear[:, 1] + row[2] * linear[:, 2]) / white
        curved.append(torch.where(t > 0.008856, t ** (1 / 3), 7.787 * t + 16 / 116))
    x, y, z = curved
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def _half_plane_offsets(kernel: int, dilation: int) -> list[tuple[int, int]]:
    """The (dy, dx) of half of a kernel's neighbours: each unordered pair occurs once."""
    if kernel < 1 or kernel % 2 == 0 or dilation < 1:
        raise ValueError(f"kernel {kernel} must be odd and >= 1, dilation {dilation} must be >= 1")
    r = kernel // 2
    steps = range(-r, r + 1)
    half = [(dy, dx) for dy in steps for dx in steps if dy > 0 or (dy == 0 and dx > 0)]
    return [(dy * dilation, dx * dilation) for dy, dx in half]


def _pair_slices(height: int, width: int, dy: int, dx: int) -> _Pair:
    """Row and column slices of all cells i whose neighbour j = i + (dy, dx) is in the map, and of
    those j."""
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

    Made once per image and shared by all decoder layers and both branches.

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
    offsets = _half_plane_offsets(kernel, dilation)
    # exp(-d / 2) > t is d < -2 ln t: no exponential and no square root needed.
    limit = -2 * math.log(threshold) if threshold > 0 else math.inf
    lab = full_precision(lab)
    height, width = lab.shape[2:]
    affinity = valid.new_zeros((lab.shape[0], len(offsets), height, width), dtype=torch.bool)
    if limit <= 0:
        return affinity
    for o, (dy, dx) in enumerate(offsets):
        (ri, ci), (rj, cj) = _pair_slices(height, width, dy, dx)
        distance2 = sum((lab[:, c, ri, ci] - lab[:, c, rj, cj]).square() for c in range(3))
        affinity[:, o, ri, ci] = (distance2 < limit * limit) & valid[:, ri, ci] & valid[:, rj, cj]
    return affinity


class _ColorPrior(torch.autograd.Function):
    """Per-image -sum A log(sum_k p_ik p_jk) / max(sum A, 1) with its gradient in closed form.

    With s_ij = sum_k p_ik p_jk and z the logits, dL/dz_ik = p_ik (deg_i - sum_j A_ij p_jk / s_ij) /
    Z, where deg_i counts the affine neighbours of i. Only p and A / s are kept, where the unfolded
    form keeps five maps per neighbour. Below the floor of s the cell's own confident channel still
    gets its push down: such pairs do not go dead.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, affinity: Tensor, offsets: list[tuple[int, int]]
    ) -> Tensor:
        height, width = logits.shape[2:]
        p = logits.softmax(1)
        # An image without a real channel: its softmax is NaN; it has no loss.
        dead = logits.amax(1) == -math.inf
        p.masked_fill_(dead.unsqueeze(1), 0)
        ratio = p.new_zeros(affinity.shape)
        total = p.new_zeros(len(p))
        for o, (dy, dx) in enumerate(offsets):
            (ri, ci), (rj, cj) = _pair_slices(height, width, dy, dx)
            pairs = affinity[:, o, ri, ci] & ~(dead[:, ri, ci] | dead[:, rj, cj])
            same = (p[..., ri, ci] * p[..., rj, cj]).sum(1).clamp_(min=_FLOOR)
            ratio[:, o, ri, ci] = pairs / same
            total -= same.log_().masked_fill_(~pairs, 0).sum((1, 2))
        count = affinity.sum((1, 2, 3)).to(p.dtype).clamp_(min=1)
        ctx.save_for_backward(p, ratio, count)
        ctx.offsets = offsets
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        p, ratio, count = ctx.saved_tensors
        height, width = p.shape[2:]
        pull = torch.zeros_like(p)
        degree = p.new_zeros((len(p), 1, height, width))
        for o, (dy, dx) in enumerate(ctx.offsets):
            (ri, ci), (rj, cj) = _pair_slices(height, width, dy, dx)
            weight = ratio[:, o : o + 1, ri, ci]
            pull[..., ri, ci].addcmul_(weight, p[..., rj, cj])
            pull[..., rj, cj].addcmul_(weight, p[..., ri, ci])
            pairs = weight > 0
            degree[..., ri, ci] += pairs
            degree[..., rj, cj] += pairs
        scale = (grad / count).view(-1, 1, 1, 1)
        return torch.sub(degree, pull, out=pull).mul_(p).mul_(scale), None, None


def color_prior_loss(
    logits: Tensor,
    affinity: Tensor,
    num_images: Tensor | float,
    *,
    kernel: int = 5,
    dilation: int = 2,
) -> Tensor:
    """Negative log probability that affine neighbours have the same label (paper Eq. 4 and 8).

    Args:
        logits: (B, K, h, w) float; softmax over K. Padded channels are ``-inf``; an image of padded
            channels only has loss 0.
        affinity: (B, (kernel * kernel - 1) / 2, h, w) bool of :func:`color_affinity`.
        num_images: images of the whole step (all processes and accumulated batches); values below 1
            count as 1.
        kernel, dilation: as given to :func:`color_affinity`.

    Returns:
        0-d tensor: the mean over an image's affine pairs, summed over images / max(num_images, 1).

    Raises:
        ValueError: ``affinity`` does not fit the logits or ``kernel``.
    """
    offsets = _half_plane_offsets(kernel, dilation)
    if logits.dim() != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (B, K, h, w)")
    expected = (logits.shape[0], len(offsets), *logits.shape[2:])
    if tuple(affinity.shape) != expected or affinity.dtype != torch.bool:
        raise ValueError(
            f"affinity is {affinity.dtype} of shape {tuple(affinity.shape)}; "
            f"expected torch.bool of shape {expected} for kernel {kernel}"
        )
    logits = full_precision(logits)
    if logits.shape[1] == 0:
        return attached_zero(logits)
    per_image = _ColorPrior.apply(logits, affinity, offsets)
    return per_image.sum() / at_least_one(num_images, per_image)

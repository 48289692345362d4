"""Inputs and comparisons that several rows share; everything follows from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def deviation(ours: Tensor, peer: Tensor) -> float:
    """Largest difference, relative to the largest value of ``peer``; infinite if shapes differ."""
    if ours.shape != peer.shape:
        return float("inf")
    if peer.numel() == 0:
        return 0.0
    scale = max(float(peer.double().abs().max()), 1e-30)
    return float((ours.double() - peer.double()).abs().max()) / scale


def norm_deviation(ours: Tensor, peer: Tensor) -> float:
    """L2 norm of the difference, relative to that of ``peer``; infinite if shapes differ.

    For gradients through a ReLU: where one of millions of values is within rounding of 0, the two
    forms may stand on different sides of it, and that element says nothing.
    """
    if ours.shape != peer.shape:
        return float("inf")
    scale = max(float(peer.double().norm()), 1e-30)
    return float((ours.double() - peer.double()).norm()) / scale


def with_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``loss`` at ``x`` and its gradient there: one forward and one backward pass."""
    x = x.detach().requires_grad_()
    value = loss(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def gradient_deviation(
    ours: Callable[[], tuple[Tensor, Tensor]], peer: Callable[[], tuple[Tensor, Tensor]]
) -> float:
    """The larger of the deviations of value and gradient."""
    return max(deviation(a, b) for a, b in zip(ours(), peer(), strict=True))


def smooth_logits(channels: int, height: int, width: int, scale: float = 4.0) -> Tensor:
    """(1, channels, height, width) float32 noise, smooth over about eight cells, as masks are."""
    generator = torch.Generator().manual_seed(channels + height + width)
    coarse = torch.randn(1, channels, max(2, height // 8), max(2, width // 8), generator=generator)
    fine = torch.nn.functional.interpolate(
        coarse, size=(height, width), mode="bicubic", align_corners=False
    )
    return scale * fine


def blob_labels(count: int, height: int, width: int) -> Tensor:
    """(height, width) int64 label map of ``count`` smooth regions, some 5 % ignored (-1)."""
    labels = smooth_logits(count, height, width)[0].argmax(0)
    holes = smooth_logits(1, height, width)[0, 0]
    return labels.masked_fill(holes > torch.quantile(holes.flatten()[:100_000], 0.95), -1)


def spread_points(count: int, height: int, width: int, apart: int, rng: np.random.Generator):
    """(count, 2) integer x and y, at least ``apart`` px from each other in x or in y."""
    cells = [
        (x, y) for y in range(0, height - apart, apart) for x in range(0, width - apart, apart)
    ]
    if count > len(cells):
        raise ValueError(f"{count} points do not fit {height} x {width} px, {apart} px apart")
    picked = rng.permutation(len(cells))[:count]
    return np.array(cells)[picked] + apart // 2

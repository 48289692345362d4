"""Dropout that is cheap on the CPU, and that keeps nothing where it follows a ReLU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Draws are compared as 16-bit integers, so rates are multiples of 2^-16.
_STEPS = 1 << 16


def keep_mask(like: Tensor, rate: float) -> Tensor:
    """Bool mask of the shape of ``like``, each entry True with probability 1 - ``rate``.

    The CPU's Bernoulli sampler makes a double an entry; a 64-bit draw is four entries here, four
    times as fast. The probability is exact to 2^-17.
    """
    count = like.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    limit = round(rate * _STEPS) - _STEPS // 2
    return (draws.view(torch.int16)[:count] >= limit).view(like.shape)


class _Dropout(torch.autograd.Function):
    """x m / (1 - p); keeps the mask, one byte an entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask = keep_mask(x, rate)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - rate)
        return x.mul(mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad.mul(mask).mul_(ctx.scale), None


class _DroppedReLU(torch.autograd.Function):
    """y = relu(x) m / (1 - p). An entry's gradient is 1 / (1 - p) where y > 0 and else 0, whether
    it was dropped or negative: y alone is kept, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        y = x.relu()
        if y.device.type == "cpu":
            y.mul_(keep_mask(y, rate)).mul_(1 / (1 - rate))
        else:
            y = F.dropout(y, rate)
        ctx.save_for_backward(y)
        ctx.scale = 1 / (1 - rate)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0).mul_(ctx.scale), None


class Dropout(nn.Module):
    """Like ``nn.Dropout``; other draws from the same generator on the CPU."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout p is {p}; expected 0 <= p < 1")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type == "cpu":
            return _Dropout.apply(x, self.p)
        return F.dropout(x, self.p)

    def after_relu(self, x: Tensor) -> Tensor:
        """Dropout of ``relu(x)``."""
        if not self.training or self.p == 0:
            return F.relu(x)
        return _DroppedReLU.apply(x, self.p)

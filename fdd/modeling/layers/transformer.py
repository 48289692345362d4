"""Parts of transformer layers and heads: dropout, self-attention and perceptrons.

The dropout is cheap on the CPU, and keeps no mask where it follows a ReLU.
"""

from __future__ import annotations

from itertools import pairwise
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


class SelfAttention(nn.Module):
    """Residual multi-head self-attention with post-norm: LN(x + MHA(x + pos))."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout_rate = num_heads, dropout
        self.qk_proj = nn.Linear(dim, 2 * dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        for linear in (self.qk_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    @property
    def residual_output(self) -> nn.Linear:
        """The layer whose result is added to the input."""
        return self.out_proj

    def forward(
        self, x: Tensor, pos: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            x: (B, Q, D).
            pos: (B, Q, D), added to queries and keys only.
            allowed: bool (B, Q, Q), True where row may look at column; every row needs one True.

        Returns:
            (B, Q, D).
        """
        q, k = self.qk_proj(x if pos is None else x + pos).chunk(2, -1)
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, self.v_proj(x))
        )
        mask = None if allowed is None else allowed[:, None]
        rate = self.dropout_rate if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        return self.norm(x + self.dropout(self.out_proj(out.transpose(1, 2).flatten(2))))


class FeedForward(nn.Module):
    """Residual two-layer perceptron with post-norm: LN(x + f(x))."""

    def __init__(self, *, dim: int, hidden: int, dropout: float = 0.0, gelu: bool = False):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout, self.gelu = Dropout(dropout), gelu
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    @property
    def residual_output(self) -> nn.Linear:
        """The layer whose result is added to the input."""
        return self.linear2

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        hidden = self.dropout(F.gelu(hidden)) if self.gelu else self.dropout.after_relu(hidden)
        return self.norm(x + self.dropout(self.linear2(hidden)))


class MLP(nn.Module):
    """A perceptron with ReLU between its layers and none after the last."""

    def __init__(self, *, dim: int, hidden: int, out: int, num_layers: int):
        super().__init__()
        sizes = [dim] + [hidden] * (num_layers - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)

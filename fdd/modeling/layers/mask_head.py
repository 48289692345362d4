"""From cross-attention logits to masks, without ever holding the logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fdd.modeling.device import no_autocast

# Logits that exist at once. On the CPU a tile stays in the cache, where the passes over it are
# several times faster; a GPU wants large kernels.
_TILE = {"cpu": 1 << 19}
_LARGE_TILE = 1 << 25
# Queries of a tile where the number of keys is not known.
_QUERIES = 16


def _tiles(lengths: list[int], values: int, device: torch.device) -> Iterator[tuple[int, int, int]]:
    """(level, start, end) of runs of keys of one level with at most a tile of logits each."""
    step = max(32, _TILE.get(device.type, _LARGE_TILE) // max(1, values))
    start = 0
    for level, length in enumerate(lengths):
        for first in range(start, start + length, step):
            yield level, first, min(first + step, start + length)
        start += length


class _MixHeads(torch.autograd.Function):
    """f_l . relu(M_l a + b_l), with a the heads' logits q k^T of a key of level l.

    The logits, and their mixture, are (heads x queries x keys); of both only a tile exists at a
    time, and the backward pass makes them again from q and k. With g the gradient of the result and
    D = g where the mixture is positive, else 0 (heads x pairs of query and key):

        da = (M^T diag f) D,    E = D a^T,    dM = diag(f) E,
        db = f * sum D,         df = rows' sums of M * E, plus b * sum D.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        mix_weight: Tensor,
        mix_bias: Tensor,
        fuse_weight: Tensor,
        lengths: list[int],
    ) -> Tensor:
        batch, heads, queries, _ = q.shape
        ctx.save_for_backward(q, k, mix_weight, mix_bias, fuse_weight)
        ctx.lengths = lengths
        out = q.new_empty((batch, queries, k.shape[2]), dtype=torch.promote_types(q.dtype, _FLOAT))
        weight, bias, fuse = (x.to(q.dtype) for x in (mix_weight, mix_bias, fuse_weight))
        for level, a, b in _tiles(lengths, batch * heads * queries, q.device):
            mixed = _mixture(q, k[:, :, a:b], weight[level], bias[level])[1].relu_()
            out[:, :, a:b] = (fuse[level] @ mixed).view(batch, queries, b - a)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, mix_weight, mix_bias, fuse_weight = ctx.saved_tensors
        batch, heads, queries, _ = q.shape
        dq, dk = torch.zeros_like(q), torch.empty_like(k)
        products = torch.zeros_like(mix_weight)
        sums = torch.zeros_like(mix_bias)
        weight, bias = mix_weight.to(q.dtype), mix_bias.to(q.dtype)
        back = (mix_weight * fuse_weight[..., None]).transpose(1, 2).to(q.dtype)
        for level, a, b in _tiles(ctx.lengths, batch * heads * queries, q.device):
            logits, mixed = _mixture(q, k[:, :, a:b], weight[level], bias[level])
            toward = grad[:, :, a:b].to(q.dtype).reshape(batch, 1, -1)
            torch.ops.aten.threshold_backward.grad_input(toward, mixed, 0, grad_input=mixed)
            products[level] += (mixed @ logits.transpose(1, 2)).sum(0)
            sums[level] += mixed.sum((0, 2))
            torch.matmul(back[level], mixed, out=logits)
            pairs = logits.view(batch, heads, queries, b - a)
            dq += pairs @ k[:, :, a:b]
            dk[:, :, a:b] = pairs.transpose(2, 3) @ q
        d_fuse = (mix_weight * products).sum(2) + mix_bias * sums
        scale = fuse_weight[..., None]
        return dq, dk, scale * products, fuse_weight * sums, d_fuse, None


_FLOAT = torch.float32


def _mixture(q: Tensor, k: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and their mixture before the ReLU, both (B, heads, queries * keys)."""
    batch, heads = q.shape[:2]
    logits = (q @ k.transpose(2, 3)).view(batch, heads, -1)
    mixed = torch.baddbmm(bias.view(1, -1, 1), weight.expand(batch, -1, -1), logits)
    return logits, mixed


def mix_heads(
    q: Tensor,
    k: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor,
    fuse_weight: Tensor,
    lengths: list[int],
) -> Tensor:
    """:class:`_MixHeads` without a custom gradient, and with tiles of queries, whose number does
    not depend on the image's size."""
    parts = []
    for chunk in q.split(_QUERIES, 2):
        levels = []
        for level, keys in enumerate(k.split(lengths, 2)):
            mixed = _mixture(chunk, keys, mix_weight[level], mix_bias[level])[1].relu()
            levels.append((fuse_weight[level] @ mixed).unflatten(-1, (chunk.shape[2], -1)))
        parts.append(torch.cat(levels, -1))
    return torch.cat(parts, 1)


def use_plain_operators(module: nn.Module) -> None:
    """Let every :class:`MaskHead` below ``module`` run in a form that ``torch.export`` can take."""
    for part in module.modules():
        if isinstance(part, MaskHead):
            part.plain = True


class MaskHead(nn.Module):
    """Turn attention logits of several levels into one mask a query.

    Published form: mix the heads of each level (1x1 convolution, ReLU), up-sample every level to
    the finest, concatenate, mix to one channel. A 1x1 convolution and bilinear up-sampling commute,
    so here each level is mixed to one channel *before* it is up-sampled: equal, with a 1/heads of
    the memory.
    """

    def __init__(self, *, num_heads: int, num_levels: int, init: str = "xavier"):
        """
        Args:
            init: "xavier", or "abs_scaled": non-negative last weights, scaled by 0.3, so that a
                mask that ends in a ReLU never starts as all zero.
        """
        super().__init__()
        self.plain = False  # True: pure operators of any sizes, for torch.export
        self.mix_weight = nn.Parameter(torch.empty(num_levels, num_heads, num_heads))
        self.mix_bias = nn.Parameter(torch.zeros(num_levels, num_heads))
        self.fuse_weight = nn.Parameter(torch.empty(num_levels, num_heads))
        self.fuse_bias = nn.Parameter(torch.zeros(()))
        for level in self.mix_weight:
            nn.init.xavier_uniform_(level)
        fuse = nn.init.xavier_uniform_(torch.empty(1, num_levels * num_heads))
        if init == "abs_scaled":
            fuse = 0.3 * fuse.abs()
        with torch.no_grad():
            self.fuse_weight.copy_(fuse.view(num_levels, num_heads))

    def forward(self, q: Tensor, k: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
        """
        Args:
            q: (B, heads, Q, d), scaled queries. k: (B, heads, L, d).
            shapes: (h, w) of the levels, L cells together. Keys on padding continue the image's
                edge.

        Returns:
            (B, Q, h, w) float32 on the finest level's grid, unbounded (no final ReLU).
        """
        lengths = [h * w for h, w in shapes]
        mix = mix_heads if self.plain else _MixHeads.apply
        with no_autocast(q.device):
            flat = mix(q, k.to(q.dtype), self.mix_weight, self.mix_bias, self.fuse_weight, lengths)
        out, *coarse = (
            part.unflatten(-1, shape)
            for part, shape in zip(flat.split(lengths, -1), shapes, strict=True)
        )
        for level in coarse:
            out = out + F.interpolate(level, size=shapes[0], mode="bilinear", align_corners=False)
        return out + self.fuse_bias

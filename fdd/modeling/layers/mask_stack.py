"""Transformer layers whose cross-attention logits become masks (Panoptic SegFormer's decoder).

The logits, (heads x queries x keys), never exist all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from fdd.modeling.device import no_autocast
from fdd.modeling.layers.memory import Memory
from fdd.modeling.layers.transformer import FeedForward, SelfAttention

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

    Of the logits and their mixture only a tile exists at a time, and the backward pass makes them
    again from q and k. With g the gradient of the result and D = g where the mixture is positive,
    else 0 (heads x pairs of query and key):

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
        dtype = torch.promote_types(q.dtype, torch.float32)
        out = q.new_empty((batch, queries, k.shape[2]), dtype=dtype)
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


class MaskLayer(nn.Module):
    """One decoder layer: [self-attention], cross-attention that also yields a mask, perceptron.

    The position embedding is added to the query on entry and stays in the residual, so it adds up
    over the layers, as published. Keys carry no position.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        num_levels: int,
        self_attention: bool,
        update: bool = True,
        predict: bool = True,
        init: str = "xavier",
        residual_init: str = "xavier",
    ):
        """
        Args:
            self_attention: queries attend to each other.
            update: the layer refines the query. Without it the layer lacks these weights.
            predict: the layer yields a mask.
            init: of the mask head, see :class:`MaskHead`.
            residual_init: of the layers whose result is added to the query: "xavier", or "zero",
                with which the layer starts as a normalised copy of its query.
        """
        super().__init__()
        self.num_heads = num_heads
        self.self_attn = SelfAttention(dim=dim, num_heads=num_heads) if self_attention else None
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.mask_head = (
            MaskHead(num_heads=num_heads, num_levels=num_levels, init=init) if predict else None
        )
        linears = [self.q_proj, self.k_proj]
        self.update = update
        if update:
            self.v_proj = nn.Linear(dim, dim)
            self.out_proj = nn.Linear(dim, dim)
            self.norm = nn.LayerNorm(dim)
            self.ffn = FeedForward(dim=dim, hidden=ffn_dim, gelu=True)
            linears += [self.v_proj, self.out_proj]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        if residual_init == "zero":
            for linear in self.residual_outputs:
                nn.init.zeros_(linear.weight)

    @property
    def residual_outputs(self) -> list[nn.Linear]:
        """The layers whose results are added to the query."""
        outputs = [self.out_proj, self.ffn.residual_output] if self.update else []
        return outputs if self.self_attn is None else [self.self_attn.residual_output, *outputs]

    @property
    def projections(self) -> list[nn.Linear]:
        """Of the memory's tokens: to keys, and to values if the layer refines the query."""
        return [self.k_proj, self.v_proj] if self.update else [self.k_proj]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: Tensor,
        pos: Tensor | None,
        projected: list[Tensor],
        memory: Memory,
        allowed: Tensor | None,
        rows: Tensor | None,
        predict: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the refined query (B, Q, D) and the mask (B, M, h, w), None if not asked for.

        Args:
            projected: the memory's tokens after :attr:`projections`, each (B, L, D).
            rows: (B, M) int64, queries that get a mask; None for all.
        """
        if pos is not None:
            query = query + pos
        if self.self_attn is not None:
            query = self.self_attn(query, allowed=allowed)
        q, k = self._heads(self.q_proj(query)), self._heads(projected[0])
        mask = None
        if predict and self.mask_head is not None:
            chosen = (
                q
                if rows is None
                else q.gather(2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
            )
            mask = self.mask_head(chosen * q.shape[-1] ** -0.5, k, memory.shapes)
        if self.update:
            # Logits are computed twice, for masks and for the softmax: the fused attention never
            # writes its own, and a second set costs less than keeping one.
            valid = memory.padding_mask
            attend = None if valid is None else valid[:, None, None]
            out = F.scaled_dot_product_attention(q, k, self._heads(projected[1]), attn_mask=attend)
            query = self.norm(query + self.out_proj(out.transpose(1, 2).flatten(2)))
            query = self.ffn(query)
        return query, mask


class MaskStack(nn.Module):
    """A stack of :class:`MaskLayer`, each initialised on its own."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        num_levels: int = 3,
        self_attention: bool,
        tail: bool = False,
        update_last: bool = False,
        predict_all: bool = True,
        init: str = "xavier",
        residual_init: str = "xavier",
        use_checkpoint: bool = False,
    ):
        """
        Args:
            num_layers: layers that update the query (the last only if ``update_last`` or ``tail``).
            tail: add Panoptic SegFormer's last attention, which only yields a mask.
            update_last: the last refined query is used.
            predict_all: False leaves out every mask but the last (no deep supervision).
            init, residual_init: see :class:`MaskLayer`.
            use_checkpoint: recompute each layer in the backward pass.
        """
        super().__init__()
        total = num_layers + int(tail)
        self.use_checkpoint = use_checkpoint
        self.layers = nn.ModuleList(
            MaskLayer(
                dim=dim,
                num_heads=num_heads,
                ffn_dim=ffn_dim,
                num_levels=num_levels,
                self_attention=self_attention and i < num_layers,
                update=i < num_layers - 1 or (i == num_layers - 1 and (update_last or tail)),
                predict=predict_all or i == total - 1,
                init=init,
                residual_init=residual_init,
            )
            for i in range(total)
        )

    def project(self, tokens: Tensor) -> list[list[Tensor]]:
        """Keys and values of all layers, in one product: the tokens, by far the largest operand,
        are read once, and their gradient is one product too instead of a sum of a dozen.

        Returns:
            For each layer the (B, L, D) results of its :attr:`MaskLayer.projections`.
        """
        layers = [layer for layer in self.layers if isinstance(layer, MaskLayer)]
        linears = [layer.projections for layer in layers]
        weight = torch.cat([linear.weight for layer in linears for linear in layer])
        bias = torch.cat([linear.bias for layer in linears for linear in layer])
        parts = iter(F.linear(tokens, weight, bias).split(tokens.shape[-1], -1))
        return [[next(parts) for _ in layer] for layer in linears]

    def forward(
        self,
        query: Tensor,
        pos: Tensor | None,
        memory: Memory,
        allowed: Tensor | None = None,
        last_only: bool = False,
        rows: Tensor | None = None,
        projected: list[list[Tensor]] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            query: (B, Q, D). pos: (B, Q, D) or None.
            memory: keys and values; already cut to the levels that the masks are made of.
            allowed: bool (B, Q, Q) for self-attention, None for all.
            last_only: make the last layer's mask only (inference).
            rows: (B, M) int64, queries that get a mask; None for all.
            projected: of :meth:`project`, where it is known already.

        Returns:
            Masks, a list of (B, M, h, w) float32 without final ReLU, first to last layer; and the
            refined queries (B, Q, D) of every layer.
        """
        masks, queries = [], []
        projected = self.project(memory.tokens) if projected is None else projected
        for i, (layer, own) in enumerate(zip(self.layers, projected, strict=True)):
            predict = not last_only or i == len(self.layers) - 1
            arguments = (query, pos, own, memory, allowed, rows, predict)
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                query, mask = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                query, mask = layer(*arguments)
            if mask is not None:
                masks.append(mask)
            queries.append(query)
        return masks, queries

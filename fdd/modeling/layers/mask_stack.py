"""Transformer layers whose cross-attention logits become masks (Panoptic SegFormer's decoder)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fdd.modeling.layers.memory import Memory
from fdd.modeling.layers.mlp import FeedForward
from fdd.modeling.layers.self_attention import SelfAttention


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

    def forward(self, logits: Tensor, memory: Memory) -> Tensor:
        """
        Args:
            logits: (B, heads, Q, L) scaled attention logits before the softmax.
            memory: gives the shapes of the levels. Logits on padding continue the image's edge.

        Returns:
            (B, Q, h, w) float32 on the finest level's grid, unbounded (no final ReLU).
        """
        batch, heads, queries, _ = logits.shape
        out: Tensor | None = None
        lengths = [h * w for h, w in memory.shapes]
        for i, (part, shape) in enumerate(
            zip(logits.split(lengths, -1), memory.shapes, strict=True)
        ):
            flat = part.reshape(batch, heads, -1)
            mixed = torch.baddbmm(
                self.mix_bias[i].view(1, -1, 1).to(flat.dtype),
                self.mix_weight[i].to(flat.dtype).expand(batch, -1, -1),
                flat,
            ).relu()
            level = torch.matmul(self.fuse_weight[i].to(flat.dtype), mixed)
            level = level.float().view(batch, queries, *shape)
            if shape != memory.shapes[0]:
                level = F.interpolate(
                    level, size=memory.shapes[0], mode="bilinear", align_corners=False
                )
            out = level if out is None else out + level
        assert out is not None
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
    ):
        """
        Args:
            self_attention: whether queries look at each other.
            update: whether the layer refines the query. A layer whose refined query nobody reads is
                built without these weights.
            predict: whether the layer yields a mask.
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

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: Tensor,
        pos: Tensor | None,
        memory: Memory,
        allowed: Tensor | None,
        predict: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the refined query (B, Q, D) and the mask (B, Q, h, w), None if not asked for."""
        if pos is not None:
            query = query + pos
        if self.self_attn is not None:
            query = self.self_attn(query, allowed=allowed)
        q, k = self._heads(self.q_proj(query)), self._heads(self.k_proj(memory.tokens))
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        mask = None
        if predict and self.mask_head is not None:
            mask = self.mask_head(logits, memory)
        if self.update:
            hidden = logits.masked_fill(~memory.valid[:, None, None], -torch.inf).softmax(-1)
            out = hidden.to(q.dtype) @ self._heads(self.v_proj(memory.tokens))
            query = self.norm(query + self.out_proj(out.transpose(1, 2).flatten(2)))
            query = self.ffn(query)
        return query, mask


class MaskStack(nn.Module):
    """A stack of :class:`MaskLayer`, each of which is initialised on its own."""

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
        use_checkpoint: bool = False,
    ):
        """
        Args:
            num_layers: layers that update the query (the last only if ``update_last`` or ``tail``).
            tail: add Panoptic SegFormer's last attention, which only yields a mask.
            update_last: whether somebody reads the last refined query.
            predict_all: False leaves every mask but the last away (no deep supervision).
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
            )
            for i in range(total)
        )

    def forward(
        self,
        query: Tensor,
        pos: Tensor | None,
        memory: Memory,
        allowed: Tensor | None = None,
        last_only: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            query: (B, Q, D). pos: (B, Q, D) or None.
            memory: keys and values; already cut to the levels that the masks are made of.
            allowed: bool (B, Q, Q) for self-attention, None for all.
            last_only: make the last layer's mask only (inference).

        Returns:
            Masks, a list of (B, Q, h, w) float32 without final ReLU, first to last layer; and the
            refined queries (B, Q, D) of every layer.
        """
        masks, queries = [], []
        for i, layer in enumerate(self.layers):
            predict = not last_only or i == len(self.layers) - 1
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                query, mask = checkpoint(
                    layer, query, pos, memory, allowed, predict, use_reentrant=False
                )
            else:
                query, mask = layer(query, pos, memory, allowed, predict)
            if mask is not None:
                masks.append(mask)
            queries.append(query)
        return masks, queries

"""Transformer layers whose cross-attention logits become masks (Panoptic SegFormer's decoder)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fdd.modeling.layers.mask_head import MaskHead
from fdd.modeling.layers.memory import Memory
from fdd.modeling.layers.mlp import FeedForward
from fdd.modeling.layers.self_attention import SelfAttention


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
            self_attention: whether queries look at each other.
            update: whether the layer refines the query. A layer whose refined query nobody reads is
                built without these weights.
            predict: whether the layer yields a mask.
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
        """What the layer wants of the memory: keys, and values if it refines the query."""
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
            rows: (B, M) int64, queries that want a mask; None for all.
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
            # The logits that make masks are not those of the softmax: the fused attention never
            # writes its own, and making a second set costs less than to keep one.
            valid = memory.padding_mask
            attend = None if valid is None else valid[:, None, None]
            out = F.scaled_dot_product_attention(q, k, self._heads(projected[1]), attn_mask=attend)
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
        residual_init: str = "xavier",
        use_checkpoint: bool = False,
    ):
        """
        Args:
            num_layers: layers that update the query (the last only if ``update_last`` or ``tail``).
            tail: add Panoptic SegFormer's last attention, which only yields a mask.
            update_last: whether somebody reads the last refined query.
            predict_all: False leaves every mask but the last away (no deep supervision).
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
    ) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            query: (B, Q, D). pos: (B, Q, D) or None.
            memory: keys and values; already cut to the levels that the masks are made of.
            allowed: bool (B, Q, Q) for self-attention, None for all.
            last_only: make the last layer's mask only (inference).
            rows: (B, M) int64, queries whose masks somebody reads; None for all of them.

        Returns:
            Masks, a list of (B, M, h, w) float32 without final ReLU, first to last layer; and the
            refined queries (B, Q, D) of every layer.
        """
        masks, queries = [], []
        for i, (layer, projected) in enumerate(
            zip(self.layers, self.project(memory.tokens), strict=True)
        ):
            predict = not last_only or i == len(self.layers) - 1
            arguments = (query, pos, projected, memory, allowed, rows, predict)
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                query, mask = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                query, mask = layer(*arguments)
            if mask is not None:
                masks.append(mask)
            queries.append(query)
        return masks, queries

"""Multi-head self-attention among queries."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.layers.dropout import Dropout


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

"""Feed-forward parts of the transformer layers and heads."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.layers.dropout import Dropout


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

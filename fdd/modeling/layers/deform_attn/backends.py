"""Which implementation serves a call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn import bags

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "reference", "torch")


class Backend(NamedTuple):
    """Forward and backward pass with the arguments of :func:`bags.forward` and ``backward``."""

    name: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


_TORCH = Backend("torch", bags.forward, bags.backward)


def is_reference(name: str, device: torch.device) -> bool:
    """Whether the call is left to plain autograd: on request, and on devices nobody wrote for."""
    return name == "reference"


def choose(name: str, value: Tensor, weights: Tensor, backward: bool = False) -> Backend:
    return _TORCH

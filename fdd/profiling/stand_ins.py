"""Operators of the meta device as a GPU runs them: one fused kernel, not their pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.profiling.autocast import autocast_low

_ATTENTION = "scaled_dot_product_attention"


@contextmanager
def fused_kernels(kernels: str = "gpu") -> Iterator[None]:
    """On meta tensors, run attention and dropout as the fused operators that a device has.

    The meta device would take them to pieces: attention would write its (queries x keys) matrix,
    dropout a float mask. The two functions are exchanged for as long as the context lasts; a
    :class:`torch.overrides.TorchFunctionMode` would lose sight of what they are called by (the
    backward pass that recomputes a checkpoint, for one).

    Args:
        kernels: "gpu", or "cpu", which has no fused attention with dropout.
    """
    if kernels not in ("gpu", "cpu"):
        raise ValueError(f"kernels is {kernels!r}; expected 'gpu' or 'cpu'")

    def attention(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        in_pieces = kernels == "cpu" and dropout_p > 0
        call: Callable[..., Tensor] = originals[_ATTENTION] if in_pieces else _attention
        return call(*args, dropout_p=dropout_p, **kwargs)

    stand_ins: dict[str, Callable[..., Tensor]] = {_ATTENTION: attention, "dropout": _dropout}
    originals = {name: getattr(F, name) for name in stand_ins}
    for name, stand_in in stand_ins.items():
        setattr(F, name, _on_meta(stand_in, originals[name]))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(F, name, original)


def _on_meta(stand_in: Callable[..., Tensor], original: Callable[..., Tensor]) -> Any:
    def call(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (stand_in if input.is_meta else original)(input, *args, **kwargs)

    return call


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if query.dim() != 4 or enable_gqa:
        raise NotImplementedError(
            f"the cost of attention is known for (B, heads, L, d) queries without grouping; got "
            f"{tuple(query.shape)}, enable_gqa={enable_gqa}"
        )
    query, key, value = autocast_low(query, key, value)
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
                ~attn_mask, -torch.inf
            )
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]

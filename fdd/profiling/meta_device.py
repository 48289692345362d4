"""Operators on the meta device as a GPU runs them: mixed precision, and fused kernels.

PyTorch's autocast does not know the meta device, which would also take attention and dropout to
pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Of PyTorch's lists, what a model of this kind calls.
_LOW = {
    *(F.linear, F.conv2d, torch.matmul, torch.mm, torch.bmm, torch.baddbmm, torch.addmm),
    *(torch.einsum, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__),
}
_FULL = {
    *(F.layer_norm, F.group_norm, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax),
    *(Tensor.softmax, Tensor.log_softmax, torch.exp, Tensor.exp, torch.log, Tensor.log),
    *(torch.sum, Tensor.sum, torch.pow, Tensor.pow, Tensor.__pow__, torch.cdist),
}
_ATTENTION = "scaled_dot_product_attention"


class MetaAutocast(TorchFunctionMode):
    """Cast what goes into operators as autocast would; use :func:`meta_autocast`."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype, self.enabled = dtype, True
        self.weights: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Autocast is off in the backward pass, but on where a checkpoint is computed again.
        if self.enabled and (torch._C._current_autograd_node() is None or torch.is_grad_enabled()):
            if func in _LOW:
                args, kwargs = self.cast(args, self.dtype), self.cast(kwargs, self.dtype)
            elif func in _FULL:
                args, kwargs = self.cast(args, torch.float32), self.cast(kwargs, torch.float32)
        return func(*args, **kwargs)

    def cast(self, item: Any, dtype: torch.dtype) -> Any:
        """The same nested tuples, lists and dicts with meta tensors of another float type."""
        if isinstance(item, (tuple, list)):
            return type(item)(self.cast(x, dtype) for x in item)
        if isinstance(item, dict):
            return {key: self.cast(x, dtype) for key, x in item.items()}
        floats = (torch.float32, torch.bfloat16, torch.float16)
        if not isinstance(item, Tensor) or not item.is_meta or item.dtype not in floats:
            return item
        if item.dtype == dtype:
            return item
        if not (item.is_leaf and item.requires_grad):
            return item.to(dtype)
        # Weights are cast once a forward pass, however often they are used.
        weight = self.weights.get(id(item))
        if weight is None:
            weight = item.to(dtype)
            if torch._C._current_autograd_node() is None:
                self.weights[id(item)] = weight
        return weight

    @contextmanager
    def region(self, enabled: bool) -> Iterator[None]:
        """What ``torch.autocast("meta", enabled=...)`` does meanwhile."""
        before, self.enabled = self.enabled, enabled
        # A backward pass is itself a function that modes see, and are off within. A checkpoint
        # enters a region to be computed again.
        again = torch._C._current_autograd_node() is not None
        try:
            with self if again else nullcontext():
                yield
        finally:
            self.enabled = before


_active: list[MetaAutocast] = []


def autocast_low(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors as an operator gets them that autocast runs in the lower precision."""
    if not _active or not _active[-1].enabled:
        return tensors
    return _active[-1].cast(tensors, _active[-1].dtype)


def end_forward() -> None:
    """Drop the weights that were cast, as autocast does on leaving its context."""
    if _active:
        _active[-1].weights.clear()


@contextmanager
def meta_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast for tensors on the meta device; None does nothing.

    For as long as it lasts, PyTorch's functions about autocast have answers for "meta", and
    ``torch.autocast("meta", enabled=False)`` makes a region in full precision. Leave it after the
    backward pass, which may compute checkpoints again.
    """
    if dtype is None:
        yield
        return
    mode = MetaAutocast(dtype)
    answers: dict[tuple[Any, str], Callable[..., Any]] = {
        (torch, "autocast"): lambda enabled=True, **_: mode.region(enabled),
        (torch.amp, "autocast"): lambda enabled=True, **_: mode.region(enabled),
        (torch.amp, "is_autocast_available"): lambda: True,
        # What a checkpoint asks, to be computed again under the same settings.
        (torch, "is_autocast_enabled"): lambda: mode.enabled,
        (torch, "get_autocast_dtype"): lambda: mode.dtype,
    }
    originals = {place: getattr(*place) for place in answers}
    for (module, name), answer in answers.items():
        setattr(module, name, _for_meta(answer, originals[module, name]))
    _active.append(mode)
    try:
        with mode:
            yield
    finally:
        _active.pop()
        for (module, name), original in originals.items():
            setattr(module, name, original)


def _for_meta(answer: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        device = args[0] if args else kwargs.get("device_type")
        if device != "meta":
            return original(*args, **kwargs)
        return answer(**{key: x for key, x in kwargs.items() if key != "device_type"})

    return call


@contextmanager
def fused_kernels(kernels: str = "gpu") -> Iterator[None]:
    """On meta tensors, run attention and dropout as the fused operators that a device has.

    In pieces, attention would write its (queries x keys) matrix, dropout a float mask. The two
    functions are exchanged for as long as the context lasts; a
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

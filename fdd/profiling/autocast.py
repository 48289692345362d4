"""Mixed precision for the meta device, which PyTorch's autocast does not know."""

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

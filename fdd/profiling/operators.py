"""What one operator costs: bytes, FLOPs, a kernel or nothing, a wait of the host or none.

The rules, for eager kernels that are not fused with each other:

- *Free*: views (the schema says that the result aliases an input), allocations without a fill
  (``empty*``), ``detach`` and the like. No kernel, no bytes.
- *Bytes moved*: every tensor that goes in is read once, every one that comes out is written once;
  a tensor changed in place is both. An expanded tensor counts its distinct elements. An in-place
  fill or copy only writes its target. A look-up (``gather``, ``index``, ``embedding``, ...) reads
  as much of its source as it returns; an in-place scatter touches as much as it adds.
- *FLOPs*: matrix products, convolutions and attention, two a multiply-add
  (:mod:`torch.utils.flop_counter`, and matrix times vector, which is missing there). Element-wise
  arithmetic is not counted: bytes tell its cost.
- *Kernel*: each operator that is not free and touches the model's device. A custom operator
  (``fdd::...``) is one kernel, with the bytes of its arguments and results.
- *Wait*: an operator whose result, or its shape, the host must know (``item``, ``nonzero``, a
  boolean mask as index, ``unique``, ...), and a copy between host and device that is not
  ``non_blocking``. ``torch.tensor(..., device=...)`` is such a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

_VIEWS = frozenset(
    {
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "detach",
        "detach_",
        "is_same_size",
        "lift",
        "lift_fresh",
        "record_stream",
        "set_",
        "squeeze_",
        "t_",
        "transpose_",
        "unsqueeze_",
    }
)
_ALLOCATIONS = frozenset(
    {
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "resize_",
    }
)
# In-place operators that do not read what they overwrite.
_OVERWRITES = frozenset(
    {
        "bernoulli_",
        "copy_",
        "exponential_",
        "fill_",
        "log_normal_",
        "normal_",
        "random_",
        "uniform_",
        "zero_",
    }
)
_LOOKUPS = frozenset({"embedding", "gather", "index", "index_select", "take"})
_SCATTERS = frozenset(
    {
        "index_add_",
        "index_copy_",
        "index_fill_",
        "index_put_",
        "_index_put_impl_",
        "put_",
        "scatter_",
        "scatter_add_",
        "scatter_reduce_",
    }
)
_DATA_DEPENDENT = frozenset(
    {
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "nonzero_numpy",
        "unique_consecutive",
        "unique_dim",
        "unique_dim_consecutive",
    }
)
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
_UPLOADS = frozenset({"lift_fresh", "lift_fresh_copy"})
_MAY_WAIT = _DATA_DEPENDENT | _INDEXING | _UPLOADS | {"_to_copy", "copy_", "repeat_interleave"}


@cache
def name_of(func: OpOverload) -> str:
    """Name of an operator without its namespace (for ``aten``) and overload: ``add``."""
    name = func._schema.name
    return name.removeprefix("aten::")


def tensors_in(*trees: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, each object once."""
    seen: set[int] = set()
    stack = list(reversed(trees))
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            if id(item) not in seen:
                seen.add(id(item))
                yield item
        elif isinstance(item, (tuple, list)):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(list(item.values())))


@cache
def is_view(func: OpOverload) -> bool:
    """Whether an operator makes no new storage and changes none: a view, or nothing at all."""
    if name_of(func) in _VIEWS or func.namespace == "prim":
        return True
    returns = func._schema.returns
    return bool(returns) and all(
        r.alias_info is not None and not r.alias_info.is_write for r in returns
    )


def is_free(func: OpOverload) -> bool:
    """Whether an operator launches nothing: a view or an allocation."""
    return is_view(func) or name_of(func) in _ALLOCATIONS


def size_of(tensor: Tensor) -> int:
    """Bytes of the distinct elements of a tensor (an expanded dimension counts once)."""
    if tensor.layout is not torch.strided:
        return tensor._nnz() * tensor.element_size()
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or not size else 1
    return min(count * tensor.element_size(), tensor.untyped_storage().nbytes())


def bytes_moved(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, device: str
) -> int:
    """Bytes that an operator reads and writes on ``device`` (a device type)."""
    name = name_of(func)
    written = {id(t): t for t in tensors_in(out)}
    read: dict[int, Tensor] = {}
    for argument, value in _bind(func, args, kwargs):
        for tensor in tensors_in(value):
            mutated = argument.alias_info is not None and argument.alias_info.is_write
            if mutated:
                written[id(tensor)] = tensor
            if not (mutated and (name in _OVERWRITES or argument.is_out)):
                read[id(tensor)] = tensor
    reads = {key: size_of(t) for key, t in read.items() if t.device.type == device}
    writes = {key: size_of(t) for key, t in written.items() if t.device.type == device}
    if args and isinstance(args[0], Tensor):
        first = id(args[0])
        if name in _LOOKUPS:
            reads[first] = min(reads.get(first, 0), sum(writes.values()))
        elif name in _SCATTERS:
            touched = max((n for key, n in reads.items() if key != first), default=0)
            reads[first] = min(reads.get(first, 0), touched)
            writes[first] = min(writes.get(first, 0), touched)
    return sum(reads.values()) + sum(writes.values())


def _bind(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    arguments = func._schema.arguments
    yield from zip(arguments, args, strict=False)
    for argument in arguments[len(args) :]:
        if argument.name in kwargs:
            yield argument, kwargs[argument.name]


def flops(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """FLOPs of a matrix product, convolution or attention; 0 of anything else."""
    packet = func._overloadpacket
    if packet in (aten.mv, aten.dot, aten.vdot):
        return 2 * args[0].numel()
    if packet is aten.addmv:
        return 2 * args[1].numel()
    count = flop_registry.get(packet)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))


def wait_of(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], device: str
) -> str | None:
    """Why the host waits for ``device``: "data-dependent", "to host", "to device", or None.

    A ``non_blocking`` copy gives None.
    """
    name = name_of(func)
    if name not in _MAY_WAIT:
        return None
    if name == "_to_copy":
        target = torch.device(kwargs.get("device") or args[0].device).type
        return _copy_of(args[0].device.type, target, device, kwargs.get("non_blocking", False))
    if name == "copy_":
        asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        return _copy_of(args[1].device.type, args[0].device.type, device, asynchronous)
    if all(t.device.type != device for t in tensors_in(args, kwargs)):
        return None
    if name in _UPLOADS:
        return "to device" if device != "cpu" else None
    if name in _DATA_DEPENDENT:
        return "data-dependent"
    if name == "repeat_interleave":
        return "data-dependent" if kwargs.get("output_size") is None else None
    indices = [t for t in args[1] if t is not None]
    if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
        return "data-dependent"
    return "to device" if any(t.device.type != args[0].device.type for t in indices) else None


def _copy_of(source: str, target: str, device: str, asynchronous: bool) -> str | None:
    if source == target or asynchronous or device not in (source, target):
        return None
    return "to device" if target == device else "to host"

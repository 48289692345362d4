"""Count the cost of a training step, part by part, on any device; the meta device runs nothing.

How an operator finds its part. Forward hooks keep a stack of the parts that are running. Every
autograd node carries a sequence number, and a node is numbered just before its operator is
dispatched; so an operator that sees the counter at c created the nodes numbered since the operator
before. In the backward pass the running node's number gives the forward operator, and with it the
part and the line. ``AccumulateGrad``, which has no number, belongs to the part of its parameter.
"""

from __future__ import annotations

import sys
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from fdd.profiling import operators
from fdd.profiling.cost import Cost, Origin, Output, StepCost, Wait
from fdd.profiling.meta_device import end_forward, fused_kernels, meta_autocast

#: Name of whatever runs outside the named parts.
OUTSIDE = "losses"
#: Parts of :class:`fdd.modeling.meta_arch.FDD`: name and prefix of its modules.
PARTS = {
    "backbone": "backbone",
    "encoder": "encoder",
    "query_generator": "query_generator",
    "label_branch": "label_branch",
    "location": "panoptic_branch.location",
    "thing_stack": "panoptic_branch.thing_stack",
    "stuff_stack": "panoptic_branch.stuff_stack",
}
_NUM_LARGEST = 40
_SKIPPED = ("torch", "fdd.profiling", "contextlib", "functools")


def count_step(
    model: nn.Module,
    forward: Callable[[], Tensor],
    *,
    parts: Mapping[str, str] = PARTS,
    kernels: str = "gpu",
    amp_dtype: torch.dtype | None = None,
    keep_grads: bool = False,
) -> StepCost:
    """Run a forward and a backward pass and count what they cost.

    What an operator costs is said in :mod:`fdd.profiling.operators`.

    On the meta device nothing is computed and nothing allocated; a copy to the host, which has no
    values there, gives ones (and is listed as a wait), and so does ``item()``.

    Args:
        model: its modules are the parts; gradients are dropped before and after.
        forward: runs the model and returns the total loss, a scalar.
        parts: name of a part -> prefix of its modules' names; the longest match wins.
        kernels: on the meta device, count attention and dropout as the kernels of a "gpu" or a
            "cpu"; see :func:`fdd.profiling.meta_device.fused_kernels`.
        amp_dtype: run the forward pass under autocast; None for full precision.
        keep_grads: leave the gradients that are there, as in the second accumulated batch.
    """
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError("the model has no parameters: nothing to train")
    if not keep_grads:
        model.zero_grad(set_to_none=True)
    counter = StepCounter(model, parts, parameters[0].device.type)
    with ExitStack() as stack:
        stack.enter_context(fused_kernels(kernels))
        stack.enter_context(counter.part_hooks())
        if counter.device == "meta":
            stack.enter_context(meta_autocast(amp_dtype))
        stack.enter_context(counter)
        with (
            saved_tensors_hooks(counter.pack, counter.unpack),
            _autocast(counter.device, amp_dtype),
        ):
            total = forward()
        end_forward()
        counter.end_forward()
        total.backward()
    if not keep_grads:
        model.zero_grad(set_to_none=True)
    return counter.result


def _autocast(device: str, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    if dtype is None or device == "meta":
        return nullcontext()
    return torch.autocast(device, dtype=dtype)


class _Saved:
    """A tensor that autograd saved, in a shell that can be referred to weakly."""

    __slots__ = ("__weakref__", "line", "part", "tensor")

    def __init__(self, tensor: Tensor, part: str, line: str):
        self.tensor, self.part, self.line = tensor, part, line


class StepCounter(TorchDispatchMode):
    """The dispatch mode behind :func:`count_step`."""

    def __init__(self, model: nn.Module, parts: Mapping[str, str], device: str):
        super().__init__()
        self.device = device
        self.result = StepCost((*parts, OUTSIDE))
        self._model, self._prefixes = model, dict(parts)
        self._running = [OUTSIDE]
        self._backward = False
        self._numbers: list[int] = []
        self._sources: list[tuple[str, str]] = []
        self._owners = {id(p): self._part_of(name) for name, p in model.named_parameters()}
        self._live: dict[int, int] = {}
        self._watch: dict[int, weakref.ref[Any]] = {}
        self._alive = 0
        self._packed: list[weakref.ref[_Saved]] = []
        self._smallest = 0

    def _part_of(self, name: str) -> str:
        best = ""
        for part, prefix in self._prefixes.items():
            inside = name == prefix or name.startswith(prefix + ".")
            if inside and len(prefix) > len(self._prefixes.get(best, "")):
                best = part
        return best or OUTSIDE

    @contextmanager
    def part_hooks(self) -> Iterator[None]:
        """Keep the stack of running parts while the model's modules run."""
        handles = []
        for name, module in self._model.named_modules():
            part = self._part_of(name)
            if part != OUTSIDE:
                handles += [
                    module.register_forward_pre_hook(lambda *_, part=part: self._enter(part)),
                    module.register_forward_hook(lambda *_: self._leave(), always_call=True),
                ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, part: str) -> None:
        self._running.append(part)

    def _leave(self) -> None:
        self._running.pop()

    def pack(self, tensor: Tensor) -> _Saved:
        """Saved-tensor hook: remember who saved what, as long as it is alive."""
        saved = _Saved(tensor, self._running[-1], _line())
        self._packed.append(weakref.ref(saved))
        return saved

    def unpack(self, saved: _Saved) -> Tensor:
        """Saved-tensor hook: the tensor itself."""
        return saved.tensor

    def end_forward(self) -> None:
        """Sum up what the backward pass waits for: distinct storages that this step has made."""
        seen: set[int] = set()
        for reference in self._packed:
            saved = reference()
            if saved is None:
                continue
            key = saved.tensor.untyped_storage()._cdata
            if key in self._live and key not in seen:
                seen.add(key)
                owner = saved.part, saved.line
                self.result.saved[owner] = self.result.saved.get(owner, 0) + self._live[key]
        self._packed.clear()
        self._backward = True
        self.result.kept = self._alive

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        part, backward, line = self._source()
        why = operators.wait_of(func, args, kwargs, self.device)
        if why is not None:
            self.result.waits.append(Wait(why, operators.name_of(func), part, line))
        out = self._made_up(func, args, kwargs) if why is not None else None
        begin = time.perf_counter()
        if out is None:
            out = func(*args, **kwargs)
        seconds = time.perf_counter() - begin if self.device == "cpu" else 0.0
        results = [t for t in operators.tensors_in(out) if t.device.type == self.device]
        if not operators.is_view(func):
            given = {t.untyped_storage()._cdata for t in operators.tensors_in(args, kwargs)}
            for tensor in results:
                self._track(tensor, given)
        if not operators.is_free(func) and (results or self._touches(args, kwargs)):
            cost = Cost(
                operators.flops(func, args, kwargs, out),
                operators.bytes_moved(func, args, kwargs, out, self.device),
                1,
                seconds,
            )
            origin = Origin(part, backward, operators.name_of(func), line)
            self.result.costs.setdefault(origin, Cost()).__iadd__(cost)
            self._note_largest(results, origin)
        return out

    def _touches(self, args: Any, kwargs: Any) -> bool:
        return any(t.device.type == self.device for t in operators.tensors_in(args, kwargs))

    def _made_up(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An answer for the host where the meta device has none; None to run the operator."""
        name = operators.name_of(func)
        if self.device != "meta":
            return None
        if name == "_local_scalar_dense":
            return (
                True if args[0].dtype is torch.bool else args[0].new_ones((), device="cpu").item()
            )
        if name == "_to_copy" and torch.device(kwargs.get("device") or "meta").type != "meta":
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.ones(args[0].shape, dtype=dtype, device=kwargs["device"])
        if name == "copy_" and args[1].device.type == "meta":
            return args[0].fill_(1)
        return None

    def _source(self) -> tuple[str, bool, str]:
        """Part, pass and line of the operator that is being dispatched."""
        node = torch._C._current_autograd_node()
        if node is None:
            part, line = self._running[-1], _line()
            number = torch._C._autograd._get_sequence_nr()
            if not self._numbers or number > self._numbers[-1]:
                self._numbers.append(number)
                self._sources.append((part, line))
            return part, self._backward, line
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self._owners.get(id(variable), OUTSIDE), True, node.name()
        index = bisect_right(self._numbers, node._sequence_nr())
        if index == len(self._sources):
            return OUTSIDE, True, node.name()
        return self._sources[index][0], True, self._sources[index][1]

    def _track(self, tensor: Tensor, given: set[int]) -> None:
        """Add a storage that an operator made to those alive, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live or key in given:
            return
        self._live[key] = size
        self._alive += size
        self.result.peak = max(self.result.peak, self._alive)

        def forget(_: object) -> None:
            self._alive -= self._live.pop(key)
            self._watch.pop(key, None)

        self._watch[key] = weakref.ref(storage, forget)

    def _note_largest(self, results: list[Tensor], origin: Origin) -> None:
        largest = self.result.largest
        for tensor in results:
            size = tensor.numel()
            if len(largest) == _NUM_LARGEST and size <= self._smallest:
                continue
            largest.append(Output(size, tuple(tensor.shape), *origin[2:3], origin[0], origin[3]))
            largest.sort(key=lambda o: -o.numel)
            del largest[_NUM_LARGEST:]
            self._smallest = largest[-1].numel


def _line() -> str:
    """Innermost line outside torch and this package: ``module:line function``."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not any(name == skip or name.startswith(skip + ".") for skip in _SKIPPED):
            break
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno} {frame.f_code.co_name}"

"""The registry of the attention's implementations, and which of them serves a call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from subprocess import SubprocessError
from typing import NamedTuple

import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn import sparse
from fdd.modeling.layers.deform_attn.reference import Shapes, grid_sample_attention

logger = logging.getLogger(__name__)


class BackendError(RuntimeError):
    """An attention backend is unknown or cannot run here; the message says why."""


class Call(NamedTuple):
    """What a backend is asked to serve: the values' dtype, device and channels, and the samples."""

    dtype: torch.dtype
    device: torch.device
    dim: int
    levels: int
    points: int


class Backend(NamedTuple):
    """An implementation, and what the log says of it.

    Attributes:
        forward, backward: with the arguments of :func:`.sparse.forward` and ``backward``. None for
            "reference" alone, which autograd differentiates.
        why: this one serves the call.
        level: of the log line.
    """

    name: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    why: str = "as asked for"
    level: int = logging.INFO


#: The backend for a call, or for its backward pass (True). Raises :class:`BackendError`.
Factory = Callable[[Call, bool], Backend]
_BACKENDS: dict[str, Factory] = {}
_TORCH = Backend("torch", sparse.forward, sparse.backward)


def register_attention_backend(name: str) -> Callable[[Factory], Factory]:
    """Register a :data:`Factory` as the attention backend ``name`` of the configs."""

    def register(factory: Factory) -> Factory:
        if name in _BACKENDS:
            raise ValueError(f"attention backend {name!r} is already registered")
        _BACKENDS[name] = factory
        return factory

    return register


def attention_backend_names() -> list[str]:
    """Names of all registered backends; "auto" takes one of the others."""
    return list(_BACKENDS)


def get_attention_backend(name: str) -> Factory:
    """The factory of the backend ``name``.

    Raises:
        BackendError: no such backend; the message lists the known ones.
    """
    if name not in _BACKENDS:
        raise BackendError(
            f"the attention backend is {name!r}; allowed: "
            f"{', '.join(map(repr, attention_backend_names()))}"
        )
    return _BACKENDS[name]


def choose(name: str, value: Tensor, weights: Tensor, backward: bool = False) -> Backend:
    """The implementation that serves a call; the log names it once a process.

    Args:
        name: of :func:`attention_backend_names`.
        value, weights: of the call.
        backward: the choice is for the backward pass.

    Raises:
        BackendError: ``name`` is unknown, or is not "auto" and cannot serve the call.
    """
    call = Call(value.dtype, value.device, value.shape[-1], weights.shape[3], weights.shape[4])
    backend = get_attention_backend(name)(call, backward)
    _announce(backend.name, backend.why, backend.level)
    return backend


def check_backend(name: str, device: torch.device | str) -> None:
    """Raise :class:`BackendError` now, not after an epoch, if ``name`` cannot run on ``device``."""
    factory, device = get_attention_backend(name), torch.device(device)
    if device.type != "meta" and name != "auto":
        factory(Call(torch.float32, device, 32, 4, 4), False)


@lru_cache(maxsize=64)
def _announce(name: str, why: str, level: int) -> None:
    logger.log(level, "Deformable attention runs as %r: %s", name, why)


@register_attention_backend("auto")
def _auto(call: Call, backward: bool) -> Backend:
    """Triton on a GPU where its kernels compile and agree with the reference, else "torch"."""
    if call.device.type != "cuda":
        return _TORCH._replace(why=f"the default on {call.device.type}")
    trouble = _trouble_with_triton(call)
    if trouble is not None:
        return _TORCH._replace(why=f"Triton cannot run: {trouble}", level=logging.WARNING)
    backend = _triton(call, backward)
    return backend._replace(why="the default on cuda") if backend.name == "triton" else backend


@register_attention_backend("reference")
def _reference(call: Call, backward: bool) -> Backend:
    """The textbook form, plain autograd; any device."""
    return Backend("reference", grid_sample_attention)


@register_attention_backend("torch")
def _torch(call: Call, backward: bool) -> Backend:
    """Sparse products with PyTorch and SciPy; the deterministic form on every device."""
    return _TORCH


@register_attention_backend("compiled")
def _compiled(call: Call, backward: bool) -> Backend:
    """The same on the CPU, its arithmetic fused by ``torch.compile``: needs a C++ compiler at run
    time and half a minute on first use, so it is taken on request only."""
    from fdd.modeling.layers.deform_attn.compiled import CompilerError, compiled_arithmetic

    if call.device.type != "cpu":
        raise BackendError(
            f"the attention backend 'compiled' is for the CPU, not {call.device.type}"
        )
    try:
        how = compiled_arithmetic()
    except CompilerError as error:
        raise BackendError(f"the attention backend 'compiled' cannot run: {error}") from error
    return Backend("compiled", partial(sparse.forward, how=how), partial(sparse.backward, how=how))


@register_attention_backend("triton")
def _triton(call: Call, backward: bool) -> Backend:
    """Fused kernels. Their backward pass has atomic sums: where PyTorch is told to be
    deterministic, "torch" makes it."""
    if backward and torch.are_deterministic_algorithms_enabled():
        return _TORCH._replace(why="deterministic algorithms are asked for")
    trouble = _trouble_with_triton(call)
    if trouble is not None:
        raise BackendError(
            f"the attention backend 'triton' cannot run: {trouble}. Set "
            "MODEL.FDD.ATTENTION_BACKEND to 'auto'"
        )
    from fdd.modeling.layers.deform_attn import triton_kernels

    return Backend("triton", triton_kernels.forward, triton_kernels.backward)


@lru_cache(maxsize=256)
def _trouble_with_triton(call: Call) -> str | None:
    """Why the kernels cannot serve a call; None if they compile and are right.

    Self-test once per device, dtype and size: GPUs differ.
    """
    if call.device.type != "cuda":
        return f"it needs an NVIDIA GPU, and the tensors are on {call.device.type}"
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it has no kernel for {call.dtype}"
    try:
        from triton.errors import TritonError

        from fdd.modeling.layers.deform_attn import triton_kernels
    except ImportError as error:
        return f"Triton is not installed ({error})"
    try:
        return compare_with_reference(triton_kernels.forward, triton_kernels.backward, call)
    # The last: Triton builds its launcher with a C compiler, which may lack Python's headers.
    except (TritonError, RuntimeError, OSError, AttributeError, SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def compare_with_reference(
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    call: Call,
) -> str | None:
    """Run an implementation on a few samples; how far off it is, or None if it is right."""
    generator = torch.Generator().manual_seed(0)
    levels, points = call.levels, call.points
    shapes: Shapes = tuple((4 - i % 3, 3 + i % 2) for i in range(levels))
    cells = sum(h * w for h, w in shapes)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(call.device)

    value = draw(2, cells, 2, call.dim).to(call.dtype)
    locations, weights = draw(2, 5, 2, levels, points, 2) * 1.4 - 0.2, draw(2, 5, 2, levels, points)
    grad = draw(2, 5, 2 * call.dim).to(call.dtype)
    inputs = [x.detach().requires_grad_() for x in (value.float(), locations, weights)]
    with torch.enable_grad():
        plain = grid_sample_attention(inputs[0], shapes, inputs[1], inputs[2])
    want = [plain.detach(), *torch.autograd.grad(plain, inputs, grad.float())]
    with torch.no_grad():
        got = [
            forward(value, shapes, locations, weights),
            *backward(grad, value, shapes, locations, weights),
        ]
    tolerance = 1e-3 if call.dtype == torch.float32 else 2e-2
    for name, a, b in zip(
        ("output", "d value", "d locations", "d weights"), got, want, strict=True
    ):
        error = ((a.float() - b).norm() / b.norm().clamp(min=1e-6)).item()
        if not error <= tolerance:
            return f"its {name} is {error:.1e} off the reference"
    return None

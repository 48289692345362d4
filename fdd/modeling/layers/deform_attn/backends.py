"""Which implementation serves a call.

- ``reference``: the textbook form, plain autograd; any device. The oracle.
- ``torch``: sparse products with PyTorch and SciPy; the CPU's default, and the deterministic form
  on other devices.
- ``compiled``: the same on the CPU, its arithmetic fused by ``torch.compile``: needs a C++ compiler
  at run time and half a minute on first use, so it is taken on request only.
- ``triton``: fused kernels; a GPU's default where they compile and agree with the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from subprocess import SubprocessError
from typing import NamedTuple

import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn import bags
from fdd.modeling.layers.deform_attn.arithmetic import Shapes
from fdd.modeling.layers.deform_attn.reference import reference

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "reference", "torch", "compiled", "triton")


class Backend(NamedTuple):
    """Forward and backward pass with the arguments of :func:`bags.forward` and ``backward``."""

    name: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


_TORCH = Backend("torch", bags.forward, bags.backward)


class BackendError(RuntimeError):
    """A backend that was asked for cannot run here; the message says why."""


def is_reference(name: str) -> bool:
    """Whether the call is left to plain autograd."""
    if name == "reference":
        _announce("reference", "as asked for")
    return name == "reference"


def choose(name: str, value: Tensor, weights: Tensor, backward: bool = False) -> Backend:
    """The implementation of a call.

    Args:
        name: one of :data:`BACKENDS` except "reference".
        value, weights: of the call.
        backward: the choice is for the backward pass. Where PyTorch has been told to use
            deterministic algorithms, the Triton kernel, whose sums are atomic, does not make it.

    Raises:
        BackendError: ``name`` is not "auto" and cannot serve the call.
    """
    if name == "torch":
        _announce("torch", "as asked for")
        return _TORCH
    if name == "compiled":
        return _compiled(value.device.type)
    if name == "auto" and value.device.type != "cuda":
        _announce("torch", f"the default on {value.device.type}")
        return _TORCH
    if torch.are_deterministic_algorithms_enabled() and backward:
        _announce("torch", "deterministic algorithms are asked for")
        return _TORCH
    trouble = _trouble_with_triton(
        value.dtype, value.device, value.shape[-1], weights.shape[3], weights.shape[4]
    )
    if trouble is None:
        from fdd.modeling.layers.deform_attn import triton_kernels

        _announce("triton", "as asked for" if name == "triton" else "the default on cuda")
        return Backend("triton", triton_kernels.forward, triton_kernels.backward)
    if name == "triton":
        raise BackendError(f"the attention backend 'triton' cannot run: {trouble}")
    _announce("torch", f"Triton cannot run: {trouble}", logging.WARNING)
    return _TORCH


def check_backend(name: str, device: torch.device | str) -> None:
    """Raise :class:`BackendError` now, not after an epoch, if ``name`` cannot run on ``device``."""
    if name not in BACKENDS:
        raise BackendError(
            f"the attention backend is {name!r}; allowed: {', '.join(map(repr, BACKENDS))}"
        )
    device = torch.device(device)
    if device.type == "meta":
        return
    if name == "compiled":
        _compiled(device.type)
    if name == "triton":
        trouble = _trouble_with_triton(torch.float32, device, 32, 4, 4)
        if trouble is not None:
            raise BackendError(
                f"the attention backend 'triton' cannot run: {trouble}. Set "
                "MODEL.FDD.ATTENTION_BACKEND to 'auto'"
            )


def _compiled(device_type: str) -> Backend:
    from fdd.modeling.layers.deform_attn.compiled import CompilerError, compiled_arithmetic

    if device_type != "cpu":
        raise BackendError(f"the attention backend 'compiled' is for the CPU, not {device_type}")
    try:
        how = compiled_arithmetic()
    except CompilerError as error:
        raise BackendError(f"the attention backend 'compiled' cannot run: {error}") from error
    _announce("compiled", "as asked for")
    return Backend("compiled", partial(bags.forward, how=how), partial(bags.backward, how=how))


@lru_cache(maxsize=256)
def _trouble_with_triton(
    dtype: torch.dtype, device: torch.device, dim: int, levels: int, points: int
) -> str | None:
    """Why the kernels cannot serve such tensors; None if they compile and are right.

    No GPU is like another, so they are tried once on a few samples before anything relies on them.
    """
    if device.type != "cuda":
        return f"it needs an NVIDIA GPU, and the tensors are on {device.type}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it has no kernel for {dtype}"
    try:
        from triton.errors import TritonError

        from fdd.modeling.layers.deform_attn import triton_kernels
    except ImportError as error:
        return f"Triton is not installed ({error})"
    try:
        return compare_with_reference(
            triton_kernels.forward, triton_kernels.backward, dtype, device, dim, levels, points
        )
    # The last: Triton builds its launcher with a C compiler, which may lack Python's headers.
    except (TritonError, RuntimeError, OSError, AttributeError, SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def compare_with_reference(
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    dtype: torch.dtype,
    device: torch.device,
    dim: int,
    levels: int,
    points: int,
) -> str | None:
    """Run an implementation on a few samples; how far off it is, or None if it is right."""
    generator = torch.Generator().manual_seed(0)
    shapes: Shapes = tuple((4 - i % 3, 3 + i % 2) for i in range(levels))
    cells = sum(h * w for h, w in shapes)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    value = draw(2, cells, 2, dim).to(dtype)
    locations, weights = draw(2, 5, 2, levels, points, 2) * 1.4 - 0.2, draw(2, 5, 2, levels, points)
    grad = draw(2, 5, 2 * dim).to(dtype)
    inputs = [x.detach().requires_grad_() for x in (value.float(), locations, weights)]
    with torch.enable_grad():
        plain = reference(inputs[0], shapes, inputs[1], inputs[2])
    want = [plain.detach(), *torch.autograd.grad(plain, inputs, grad.float())]
    with torch.no_grad():
        got = [
            forward(value, locations, weights, shapes),
            *backward(grad, value, locations, weights, shapes),
        ]
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    for name, a, b in zip(
        ("output", "d value", "d locations", "d weights"), got, want, strict=True
    ):
        error = ((a.float() - b).norm() / b.norm().clamp(min=1e-6)).item()
        if not error <= tolerance:
            return f"its {name} is {error:.1e} off the reference"
    return None


@lru_cache(maxsize=64)
def _announce(name: str, why: str, level: int = logging.INFO) -> None:
    """Say once a process which backend runs, and why."""
    logger.log(level, "Deformable attention runs as %r: %s", name, why)

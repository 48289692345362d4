"""Deformable attention: every backend against the textbook form (grid-sample, Deformable DETR)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Case, Row, Skip
from benchmarks.inputs import deviation
from fdd.modeling.layers import check_backend, ms_deform_attn
from fdd.modeling.layers.deform_attn import BackendError

_HEADS, _POINTS, _DIM = 8, 4, 32


class Inputs(NamedTuple):
    """Tensors of one call; ``grad`` is the gradient of its output."""

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    locations: Tensor
    weights: Tensor
    grad: Tensor


def make_inputs(
    size: tuple[int, int],
    queries: int | None = None,
    *,
    batch: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    points: int = _POINTS,
    heads: int = _HEADS,
) -> Inputs:
    """What a layer gives the operator for an image of (H, W) pixels.

    Args:
        queries: None for an encoder layer, whose queries are the cells themselves and whose samples
            lie around them; a number for a decoder layer, whose samples lie anywhere.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = tuple((-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32, 64))
    if queries is None:
        centres = torch.cat([_centres(*shape) for shape in shapes])
    else:
        centres = torch.rand(queries, 2, generator=generator)
    shape = (batch, len(centres), heads, len(shapes), points)
    sides = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)[:, None]
    spread = 4 * torch.randn((*shape, 2), generator=generator) / sides
    locations = centres[:, None, None, None] + spread
    weights = torch.rand(shape, generator=generator).flatten(3).softmax(-1).view(shape)
    cells = sum(h * w for h, w in shapes)
    value = torch.randn(batch, cells, heads, _DIM, generator=generator)
    grad = torch.randn(batch, shape[1], heads * _DIM, generator=generator)
    return Inputs(
        value.to(device, dtype).requires_grad_(),
        shapes,
        locations.to(device).requires_grad_(),
        weights.to(device).requires_grad_(),
        grad.to(device, dtype),
    )


def _centres(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x, y], -1).view(-1, 2)


def run(backend: str, inputs: Inputs) -> list[Tensor]:
    """Forward and backward pass: the output and the gradients of value, locations and weights."""
    tensors = [inputs.value, inputs.locations, inputs.weights]
    out = ms_deform_attn(inputs.value, inputs.shapes, inputs.locations, inputs.weights, backend)
    return [out.detach(), *torch.autograd.grad(out, tensors, inputs.grad)]


def difference(inputs: Inputs, backend: str, peer: str = "reference") -> float:
    """Largest relative deviation of output and gradients.

    The gradient of a location jumps where its sample crosses the border of a cell: as many samples
    as rounding may carry across (1e-4 of them) are left out there.
    """
    ours, theirs = run(backend, inputs), run(peer, inputs)
    worst = max(deviation(ours[i], theirs[i]) for i in (0, 1, 3))
    apart = (ours[2] - theirs[2]).abs().flatten()
    within = apart.kthvalue(int(len(apart) * (1 - 1e-4)) or 1).values / theirs[2].abs().max()
    return max(worst, within.item())


def rows() -> list[Row]:
    """The encoder's layer with and without a compiler, and a decoder's."""

    def setup(backend: str, size: tuple[int, int], queries: int | None) -> Case:
        if backend == "compiled":
            try:
                check_backend("compiled", "cpu")
            except BackendError as error:
                raise Skip(str(error)) from error
        inputs = make_inputs(size, queries)
        return Case(
            lambda: run(backend, inputs),
            lambda: run("reference", inputs),
            lambda: difference(inputs, backend),
        )

    def row(
        backend: str,
        size: tuple[int, int],
        queries: int | None,
        target: float | None,
        memory_target: float | None,
    ) -> Row:
        kind = "encoder layer" if queries is None else f"{queries} queries"
        return Row(
            name=f"deform_attn/{backend}/{queries or 'encoder'}/{size[0]}x{size[1]}",
            what=f"deformable attention, {kind}, backend {backend}; one grid-sample a level "
            "(Deformable DETR)",
            setup=lambda: setup(backend, size, queries),
            target=target,
            memory_target=memory_target,
            tolerance=1e-4,
            seconds=8,
        )

    return [
        row("torch", (512, 512), None, 2.5, 2.5),
        row("compiled", (512, 512), None, 3.5, 2.5),
        row("torch", (800, 1333), None, 2.5, 2.5),
        row("torch", (800, 1333), 300, None, None),
    ]

"""Multi-scale deformable attention, forward and backward, at the sizes of encoder and decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import norm_deviation
from benchmarks.isolation import Skip
from benchmarks.textbook.attention import stacked_samples, summed_by_level
from fdd.modeling.layers import ms_deform_attn
from fdd.modeling.layers.deform_attn import BACKENDS

_HEADS, _POINTS, _DIM = 8, 4, 256
_STRIDES = (8, 16, 32, 64)
# Samples that may stand within rounding of a cell's border.
_ON_BORDERS = 1e-4

Shapes = tuple[tuple[int, int], ...]


def _inputs(shapes: Shapes, queries: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, locations, weights and a gradient of the result.

    Args:
        queries: at random places, or ``None`` for one at every token, as in the encoder. They look
            at some cells around themselves, as a network does after its first steps.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    length = sum(h * w for h, w in shapes)
    if queries is None:
        grids = [torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij") for h, w in shapes]
        centres = [
            torch.stack(((x + 0.5) / w, (y + 0.5) / h), -1).view(-1, 2)
            for (y, x), (h, w) in zip(grids, shapes, strict=True)
        ]
        centre = torch.cat(centres)
    else:
        centre = torch.rand(queries, 2, generator=generator)
    count = len(centre)
    sizes = torch.tensor([(w, h) for h, w in shapes]).view(-1, 1, 2)
    spread = 3 * random(1, count, _HEADS, len(shapes), _POINTS, 2) / sizes
    weights = random(1, count, _HEADS, len(shapes) * _POINTS).softmax(-1)
    value = random(1, length, _HEADS, _DIM // _HEADS)
    locations = (centre.view(1, count, 1, 1, 1, 2) + spread).requires_grad_()
    weights = weights.view(1, count, _HEADS, len(shapes), _POINTS).requires_grad_()
    return value.requires_grad_(), locations, weights, random(1, count, _DIM)


def _share_deviation(ours: Tensor, peer: Tensor) -> float:
    """Largest difference, without the few largest, relative to the largest value of ``peer``.

    The gradient for a location jumps where a sample stands on the border of two cells, and there
    the last digit decides on which side it is.
    """
    differences = (ours - peer).abs().flatten()
    kept = differences.kthvalue(max(1, int((1 - _ON_BORDERS) * differences.numel()))).values
    return float(kept / peer.abs().max())


def _case(size: tuple[int, int], queries: int | None, backend: str) -> Case:
    shapes = tuple((-(-size[0] // s), -(-size[1] // s)) for s in _STRIDES)
    value, locations, weights, grad = _inputs(shapes, queries)

    def run(core):
        def both_passes() -> list[Tensor]:
            out = core(value, shapes, locations, weights)
            return [out.detach(), *torch.autograd.grad(out, (value, locations, weights), grad)]

        return both_passes

    ours = run(lambda *inputs: ms_deform_attn(*inputs, backend=backend))
    peer, by_level = run(stacked_samples), run(summed_by_level)
    try:
        ours()
    except (ValueError, RuntimeError) as error:
        if backend != "compiled":
            raise
        raise Skip(f"the backend 'compiled' does not work here: {error}") from error

    def check() -> float:
        found, wanted = ours(), peer()
        away = _share_deviation(found.pop(2), wanted.pop(2))
        return max(away, *map(norm_deviation, found, wanted))

    return Case(ours, peer, check, {"by_level": by_level})


def rows() -> list[Row]:
    targets = {"torch": (2.5, 2.5), "compiled": (3.5, 2.5)}
    backends = [name for name in targets if name in BACKENDS]
    what = "deformable attention, {}, 4 levels, 4 points, 8 heads, d 256, backend {}; grid_sample, "
    what += "samples of all levels stacked (Deformable DETR), and summed level by level"
    encoder = [
        Row(
            name=f"attention/encoder/512x512/{backend}",
            what=what.format("every cell of 512x512 px", backend),
            setup=lambda backend=backend: _case((512, 512), None, backend),
            target=targets[backend][0],
            memory_target=targets[backend][1],
            tolerance=1e-4,
            seconds=8,
        )
        for backend in backends
    ]
    more = {"encoder/800x1333/torch": (None, "torch"), "decoder/800x1333/auto": (300, "auto")}
    return encoder + [
        Row(
            name=f"attention/{name}",
            what=what.format(
                f"{'every cell' if queries is None else f'{queries} queries'} of 800x1333 px",
                backend,
            ),
            setup=lambda queries=queries, backend=backend: _case((800, 1333), queries, backend),
            tolerance=1e-4,
            seconds=6,
        )
        for name, (queries, backend) in more.items()
    ]

"""The arithmetic of :mod:`.sparse` between its products, fused by ``torch.compile``.

The written form goes over its samples once an operation. Here each result is one expression of the
inputs: work is repeated for each corner, but nothing in between goes through memory.
"""

from __future__ import annotations

from functools import lru_cache
from subprocess import SubprocessError

import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn.sparse import (
    Arithmetic,
    Corners,
    Levels,
    level_table,
    sample_corners,
    sample_gradients,
)


class CompilerError(RuntimeError):
    """``torch.compile`` cannot make a CPU kernel here; the message says why."""


def _axis(
    coordinate: Tensor, size: Tensor, last: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells, taps and derivatives of the taps along one axis: each (..., C, S) for C corners.

    Args:
        coordinate: (..., S) in [0, 1].
        size, last: (1, S), cells of the level, and that less 1.
        upper: (C, 1), 1 for corners at the sample's upper cell, else 0.
    """
    place = coordinate * size - 0.5
    low = place.floor()
    part = (place - low).unsqueeze(-2)
    cell = low.unsqueeze(-2) + upper
    nearest = torch.minimum(cell.clamp(min=0), last)
    inside = (cell == nearest).to(part.dtype)
    slope = 2 * upper - 1
    tap = (1 - upper + slope * part) * inside
    return nearest.to(torch.int32).clamp(min=0), tap, slope * inside


def _corners(
    locations: Tensor, weights: Tensor, levels: Levels, step: int, first: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows and scale of :func:`sample_corners`, (..., 4, S) each."""
    x, tap_x, _ = _axis(locations[..., 0], levels.size[0], levels.last[0], upper[0])
    y, tap_y, _ = _axis(locations[..., 1], levels.size[1], levels.last[1], upper[1])
    row = y * (levels.width * step) + (levels.start * step + first).unsqueeze(-2)
    rows, scale = row + x * step, weights.unsqueeze(-2) * tap_y * tap_x
    return rows.contiguous(), scale.contiguous()


def _gradients(
    entries: Tensor, locations: Tensor, weights: Tensor, levels: Levels, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`sample_gradients`, from the locations instead of kept taps."""
    _, tap_x, slope_x = _axis(locations[..., 0], levels.size[0], levels.last[0], upper[0])
    _, tap_y, slope_y = _axis(locations[..., 1], levels.size[1], levels.last[1], upper[1])
    along_x = (entries * slope_x * tap_y).sum(-2) * weights * levels.size[0]
    along_y = (entries * tap_x * slope_y).sum(-2) * weights * levels.size[1]
    return torch.stack((along_x, along_y), -1), (entries * tap_x * tap_y).sum(-2)


@lru_cache(maxsize=1)
def compiled_arithmetic() -> Arithmetic:
    """Compiled on first use (half a minute), tried on a few samples, kept.

    Raises:
        CompilerError: no working compiler, or one whose results are not those of the plain form.
    """
    uppers = {
        dtype: torch.tensor([[[0], [1], [0], [1]], [[0], [0], [1], [1]]], dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    }
    # Without `fullgraph`: once sizes of 1, equal sizes and strides have used up PyTorch's limit of
    # kernels for one function, further ones are computed in plain form instead of raising.
    make_corners = torch.compile(_corners, dynamic=True)
    make_gradients = torch.compile(_gradients, dynamic=True)

    @torch.no_grad()  # one kernel for training and evaluation
    def corners(
        locations: Tensor, weights: Tensor, levels: Levels, step: int, first: Tensor
    ) -> Corners:
        upper = uppers[weights.dtype]
        return Corners(*make_corners(locations, weights, levels, step, first, upper), (), ())

    @torch.no_grad()
    def gradients(
        entries: Tensor, locations: Tensor, weights: Tensor, corners: Corners, levels: Levels
    ) -> tuple[Tensor, Tensor]:
        return make_gradients(entries, locations, weights, levels, uppers[weights.dtype])

    found = Arithmetic(corners, gradients)
    try:
        _try(found)
    # Inductor wraps what a missing or broken compiler says in errors of several modules, whose
    # names change between versions; RuntimeError is the base of all of them.
    except (RuntimeError, OSError, ImportError, SubprocessError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CompilerError(f"torch.compile does not work here: {reason[0]}") from error
    return found


def _try(how: Arithmetic) -> None:
    """Compare with the plain form on two levels of a few cells."""
    generator = torch.Generator().manual_seed(0)
    locations = torch.rand(2, 5, 4, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, 5, 4, generator=generator)
    levels = level_table(((3, 4), (2, 1)), 2, weights.dtype, weights.device)
    first = torch.zeros(2, 1, 1, dtype=torch.int32)
    want = sample_corners(locations, weights, levels, 1, first)
    got = how.corners(locations, weights, levels, 1, first)
    entries = torch.rand(want.scale.shape, generator=generator)
    pairs = [
        (got.rows.double(), want.rows.double()),
        (got.scale, want.scale),
        *zip(
            how.gradients(entries, locations, weights, got, levels),
            sample_gradients(entries, locations, weights, want, levels),
            strict=True,
        ),
    ]
    if not all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in pairs):
        raise CompilerError("torch.compile gives other results than the plain form")

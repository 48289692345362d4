"""Which cells a sample reads, with which weights, and what their gradients are: pure arithmetic.

Bilinear sampling is a sparse matrix: out = M value, where a query's row of M has four entries a
sample. This file computes M's entries and turns gradients of entries into gradients of locations
and attention weights; it neither reads values nor sums them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


class Levels(NamedTuple):
    """What each of a query's S = levels * points samples needs to know of its level.

    Attributes:
        size: (2, 1, S) float, w and h.
        last: (2, 1, S) float, w - 1 and h - 1.
        width: (S,) int32, w.
        start: (S,) int32, the level's first cell among the cells of all levels.
    """

    size: Tensor
    last: Tensor
    width: Tensor
    start: Tensor


class Corners(NamedTuple):
    """The entries of the sparse matrix, and what its gradient needs.

    A sample at cell coordinate t reads cells floor(t) and floor(t) + 1 along each axis, with the
    weights ("taps") 1 - frac(t) and frac(t), or 0 off the map.

    Attributes:
        rows: (..., 4, S) int32 rows of the value table, never out of range. Corners in the order
            (y, x) = (0, 0), (0, 1), (1, 0), (1, 1).
        scale: (..., 4, S) attention weight times both taps.
        taps: of the lower and the upper cell, each (2, ..., S) for x and y.
        inside: as taps, 1 where the cell is on the map, else 0.
    """

    rows: Tensor
    scale: Tensor
    taps: tuple[Tensor, ...]
    inside: tuple[Tensor, ...]


@lru_cache(maxsize=1024)
def level_table(
    shapes: Shapes, points: int, dtype: torch.dtype, device: torch.device | str
) -> Levels:
    """Constants of the levels, uploaded once for each set of shapes."""
    columns, start = [], 0
    for h, w in shapes:
        columns += [(w, h, start)] * points
        start += h * w
    # Kept for later calls, which may run outside of inference mode.
    with torch.inference_mode(False):
        table = torch.tensor(columns, dtype=torch.int32).t().contiguous().to(device)
        size = table[:2, None]
        return Levels(size.to(dtype), (size - 1).to(dtype), table[0], table[2])


def sample_corners(
    locations: Tensor, weights: Tensor, levels: Levels, step: int, offset: Tensor
) -> Corners:
    """The four table rows of every sample, and their weights.

    Off-map cells keep a legal row and get the weight 0, so the table needs no padding. The row of a
    cell is ``cell * step + offset``.

    Args:
        locations: (..., S, 2) in [0, 1] of each level, (x, y); any stride, any finite value.
        weights: (..., S), any stride.
        levels: of :func:`level_table`.
        step: table rows between neighbouring cells.
        offset: int32, broadcastable to (..., S).
    """
    shape = weights.shape
    size, last = (t.view(2, *[1] * (len(shape) - 1), -1) for t in (levels.size, levels.last))
    part = weights.new_empty((2, *shape)).copy_(locations.movedim(-1, 0))
    part.mul_(size).sub_(0.5)
    low = part.floor()
    part.sub_(low)
    cells, inside = [], []
    for place in (low, low + 1):
        nearest = place.clamp(min=0)
        torch.minimum(nearest, last, out=nearest)
        # NaN is no cell: it reads any, with the weight NaN.
        cells.append(nearest.to(torch.int32).clamp_(min=0))
        inside.append(place.eq_(nearest))
    taps = torch.addcmul(inside[0], inside[0], part, value=-1), part.mul_(inside[1])
    first = levels.start * step + offset
    columns = [cell[0] * step if step > 1 else cell[0] for cell in cells]
    rows = torch.empty((*shape[:-1], 4, shape[-1]), dtype=torch.int32, device=part.device)
    scale = weights.new_empty(rows.shape)
    for v in (0, 1):
        row = (cells[v][1] * (levels.width * step)).add_(first)
        by_y = taps[v][1] * weights
        for u in (0, 1):
            rows[..., 2 * v + u, :] = row + columns[u]
            scale[..., 2 * v + u, :] = by_y * taps[u][0]
    return Corners(rows, scale, taps, (inside[0], inside[1]))


def sample_gradients(
    entries: Tensor, locations: Tensor, weights: Tensor, corners: Corners, levels: Levels
) -> tuple[Tensor, Tensor]:
    """Gradients of locations and attention weights from those of the matrix's entries.

    With e_vu the gradient of corner (v, u)'s entry and a the attention weight,
    da = sum_vu tap_v tap_u e_vu and dx = a * w * sum_v tap_v (e_v1 - e_v0), where an e_vu off the
    map is left out (its tap is 0 for good); dy likewise.

    Args:
        entries: (..., 4, S).
        locations, weights: of the forward pass, (..., S, 2) and (..., S).
        corners, levels: of the forward pass; all that this form reads of the locations.

    Returns:
        (..., S, 2) for the locations, (..., S) for the weights.
    """
    e00, e01, e10, e11 = entries.unbind(-2)
    (x0, y0), (x1, y1) = (tap.unbind(0) for tap in corners.taps)
    (in_x0, in_y0), (in_x1, in_y1) = (tap.unbind(0) for tap in corners.inside)
    left, right = (y0 * e00).addcmul_(y1, e10), (y0 * e01).addcmul_(y1, e11)
    top, bottom = (x0 * e00).addcmul_(x1, e01), (x0 * e10).addcmul_(x1, e11)
    grad_weights = (x0 * left).addcmul_(x1, right)
    width, height = levels.size[:, 0]
    slope_x = (right.mul_(in_x1)).addcmul_(in_x0, left, value=-1).mul_(weights)
    slope_y = (bottom.mul_(in_y1)).addcmul_(in_y0, top, value=-1).mul_(weights)
    grad_locations = weights.new_empty((*weights.shape, 2))
    grad_locations[..., 0] = slope_x.mul_(width)
    grad_locations[..., 1] = slope_y.mul_(height)
    return grad_locations, grad_weights

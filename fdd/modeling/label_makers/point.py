"""Points alone: every point labels its own square and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import Evidence
from fdd.modeling.label_makers.registry import register_label_maker

# Distances that differ by less count as equal, in px: float32 coordinates of a point and of its
# mirror image do, and a flip must not turn a tie into a win.
_TOLERANCE = 1e-3

_Cover = tuple[slice, slice, np.ndarray]


def square_owner(
    coords: Tensor, owner: Tensor, grid: tuple[int, int], stride: tuple[float, float], side: float
) -> Tensor:
    """Whose point's square each cell lies in.

    A cell is in a point's square if its centre is at most ``side / 2`` away in x and in y, or if it
    is the point's own cell. Of several points the nearest in Chebyshev distance wins; where equally
    near ones have different owners, nobody does.

    Args:
        coords: (P, 2) float (x, y) in px.
        owner: (P,) integer, >= 0, such as the point's instance or class.
        grid: (h, w); stride: px of a cell, (along y, along x).
        side: px.

    Returns:
        (h, w) int32 on the device of ``coords``, -1 for nobody.
    """
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(grid, stride, strict=True))
    nearest = np.full(grid, np.inf)
    covers: list[tuple[int, _Cover]] = []
    for point, value in zip(
        coords.detach().cpu().double().numpy(), owner.cpu().tolist(), strict=True
    ):
        for cover in _covers(point, x, y, stride, side / 2):
            rows, columns, distance = cover
            nearest[rows, columns] = np.minimum(nearest[rows, columns], distance)
            covers.append((value, cover))
    low, high = np.full(grid, np.iinfo(np.int32).max, np.int32), np.full(grid, -1, np.int32)
    for value, (rows, columns, distance) in covers:
        wins = distance <= nearest[rows, columns] + _TOLERANCE
        low[rows, columns][wins] = np.minimum(low[rows, columns][wins], value)
        high[rows, columns][wins] = np.maximum(high[rows, columns][wins], value)
    return torch.from_numpy(np.where(low == high, low, -1)).to(coords.device)


def _covers(
    point: np.ndarray, x: np.ndarray, y: np.ndarray, stride: tuple[float, float], half: float
) -> list[_Cover]:
    """The square of a point and, where it is not part of it, the point's own cell, with the
    Chebyshev distances of the cells' centres."""
    across, down = np.abs(x - point[0]), np.abs(y - point[1])
    v = min(max(int(point[1] // stride[0]), 0), len(y) - 1)
    u = min(max(int(point[0] // stride[1]), 0), len(x) - 1)
    found = [(slice(v, v + 1), slice(u, u + 1), np.maximum(down[v], across[u])[None, None])]
    rows = np.flatnonzero(down <= half + _TOLERANCE)
    columns = np.flatnonzero(across <= half + _TOLERANCE)
    if len(rows) and len(columns):
        square = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        distance = np.maximum(down[square[0], None], across[square[1]])
        own_inside = rows[0] <= v <= rows[-1] and columns[0] <= u <= columns[-1]
        found = [(*square, distance)] if own_inside else [*found, (*square, distance)]
    return found


@register_label_maker()
@torch.no_grad()
def point_labels(evidence: Evidence) -> Tensor:
    """Instance of the point in whose square a cell lies, -1 elsewhere: S^ins on any grid."""
    return evidence.on_canvas(
        square_owner(
            evidence.coords,
            evidence.index,
            evidence.valid_grid,
            evidence.stride,
            evidence.square_side,
        )
    )

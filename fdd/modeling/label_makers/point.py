"""Points alone: every point labels its own square and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import Evidence
from fdd.modeling.label_makers.registry import register_label_maker
from fdd.points.raster import nearest_owner


def square_owner(
    coords: Tensor, owner: Tensor, grid: tuple[int, int], stride: tuple[float, float], side: float
) -> Tensor:
    """Whose point's square each cell lies in, see :func:`fdd.points.raster.nearest_owner`.

    Args:
        coords: (P, 2) float (x, y) in px.
        owner: (P,) integer, >= 0, such as the point's instance or class.
        grid: (h, w); stride: px of a cell, (along y, along x).
        side: px.

    Returns:
        (h, w) int32 on the device of ``coords``, -1 for nobody.
    """
    at, values = coords.detach().cpu().double().numpy(), owner.cpu().numpy()
    return torch.from_numpy(nearest_owner(at, values, grid, stride, side)).to(coords.device)


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

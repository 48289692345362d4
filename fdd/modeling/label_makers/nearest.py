"""Every cell belongs to the instance of the nearest point."""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import LABEL_MAKERS, Stride, cell_centres, check_points


@LABEL_MAKERS.register()
@torch.no_grad()
def nearest_labels(
    coords: Tensor,
    index: Tensor,
    grid: tuple[int, int],
    stride: Stride,
    square_side: float = 17.0,
) -> Tensor:
    """Instance of the point nearest (Euclidean) to each cell's centre.

    Arguments and result as in :class:`~fdd.modeling.label_makers.LabelMaker`. Between points at the
    same distance the first in the list wins. Without points the map is -1. ``square_side`` plays no
    part.

    Raises:
        ValueError: points of wrong shape, not finite, or of a negative instance.
    """
    check_points(coords, index)
    # float32 is exact for what decides ties: squared distances of (half-)integer coordinates.
    coords = coords.float()
    y, x = cell_centres(grid, stride, coords)
    best = coords.new_full(grid, torch.inf)
    labels = torch.full(grid, -1, dtype=torch.int32, device=coords.device)
    owner = index.to(torch.int32)
    for point, instance in zip(coords, owner, strict=True):
        distance = (y - point[1]).square()[:, None] + (x - point[0]).square()
        labels = torch.where(distance < best, instance, labels)
        best = torch.minimum(best, distance)
    return labels

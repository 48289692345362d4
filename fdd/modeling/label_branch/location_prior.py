"""Location prior: a thing is near its own points. Ours, not the paper's.

The paper hopes that the queries carry the place of their instance; no term says so. Here every
layer's logits of a thing fall with the distance to its nearest point, by a slope that is learned
for each thing class:

    z_n(i) <- z_n(i) - softplus(s_class(n)) * d_n(i) / (0.1 L),

d_n(i) the distance from the centre of cell i to the nearest of n's own points, L the diagonal of
the whole image, both in pixels of the network's input. Stuff has no place, and no prior.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.device import upload
from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.structures import PointBatch

#: The distance, as a share of the image's diagonal, that costs one slope.
UNIT = 0.1


class LocationPrior(nn.Module):
    """What the distance to a thing's points adds to its logits; one learned slope a thing class."""

    def __init__(self, *, num_things: int, start: float = 1.0):
        """
        Args:
            num_things: thing classes, at least 1.
            start: s of every class; the slope is softplus(s), 1.31 for s = 1.
        """
        super().__init__()
        self.slope = nn.Parameter(torch.full((num_things,), float(start)))

    def forward(self, distance: Tensor, classes: Tensor) -> Tensor:
        """
        Args:
            distance: (B, N, h, w) of :func:`point_distance`.
            classes: (B, N) int64 contiguous classes, things first, -1 where padded.

        Returns:
            (B, N, h, w) float32, at most 0; 0 for stuff and padded instances. The slopes are in its
            graph whatever the batch holds.
        """
        is_thing = (classes >= 0) & (classes < len(self.slope))
        slope = F.softplus(self.slope)[classes.clamp(0, len(self.slope) - 1)]
        return distance * -(slope * is_thing)[..., None, None]


@torch.no_grad()
def point_distance(points: PointBatch, num_things: int, valid: Tensor) -> Tensor:
    """Distance from each cell's centre to the nearest own point of each thing.

    Args:
        points: those that the queries are made of; a hidden point is hidden here too.
        num_things: classes below it are things.
        valid: (B, h, w) bool, stride-8 cells inside the image, a top-left rectangle.

    Returns:
        (B, N, h, w) float32 in tenths of the image's diagonal; 0 for what is not a thing. Padding
        continues the image's edge, as the tokens do. Nothing larger than this is ever made.
    """
    batch, most = points.classes.shape
    height, width = valid.shape[1:]
    device = valid.device
    table = upload(torch.from_numpy(_own_points(points, num_things)), device)
    rows, columns = valid[:, :, 0].sum(1), valid[:, 0].sum(1)
    y = torch.minimum(torch.arange(height, device=device), rows[:, None] - 1)
    x = torch.minimum(torch.arange(width, device=device), columns[:, None] - 1)
    y, x = ((n[:, None] + 0.5) * POINT_STRIDE for n in (y, x))
    nearest: Tensor | None = None
    for k in range(table.shape[2]):
        down = (y - table[:, :, k, 1:]).square()
        across = (x - table[:, :, k, :1]).square()
        square = down[..., None] + across[..., None, :]
        nearest = square if nearest is None else torch.minimum(nearest, square, out=nearest)
    if nearest is None:
        return torch.zeros(batch, most, height, width, device=device)
    thing = (points.classes >= 0) & (points.classes < num_things)
    unit = UNIT * points.diagonals.view(-1, 1, 1, 1)
    return nearest.sqrt_().div_(unit).masked_fill_(~thing[..., None, None], 0)


def _own_points(points: PointBatch, num_things: int) -> np.ndarray:
    """(B, N, K, 2) float32 (x, y) of the points of each thing, the last one repeated; K = 0 where
    no thing has a point."""
    most = points.host_classes.shape[1]
    ranked = []
    for classes, (coords, index) in zip(points.host_classes, points.host_points, strict=True):
        chosen = np.flatnonzero(classes[index] < num_things)
        chosen = chosen[np.argsort(index[chosen], kind="stable")]
        owner = index[chosen]
        first = np.searchsorted(owner, owner)
        ranked.append((owner, np.arange(len(owner)) - first, coords[chosen]))
    deepest = max((int(rank.max(initial=-1)) + 1 for _, rank, _ in ranked), default=0)
    table = np.full((len(ranked), most, deepest, 2), np.nan, np.float32)
    for image, (owner, rank, coords) in zip(table, ranked, strict=True):
        image[owner, rank] = coords
    for k in range(1, deepest):
        missing = np.isnan(table[:, :, k])
        table[:, :, k][missing] = table[:, :, k - 1][missing]
    return np.nan_to_num(table, nan=0.0)

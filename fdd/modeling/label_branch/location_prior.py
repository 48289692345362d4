"""Location prior: a thing is where its own points are. Ours, not the paper's.

The paper hopes that the queries carry the place of their instance; no term says so. Here every
layer's logits of a thing fall with the distance to its nearest point, by a slope that is learned
for each thing class:

    z_n(i) <- z_n(i) - softplus(s_class(n)) * d_n(i) / (0.1 L),

d_n(i) the distance from the centre of cell i to the nearest of n's own points, L the diagonal of
the whole image, both in pixels of the network's input.

Three or more points also tell how large their thing is (:mod:`fdd.modeling.extents`). Where that is
to be used, its logits are

    z_n(i) <- z_n(i) + softplus(e_class(n)) * u_n * min(1 - r_n(i), 0.3)

instead, r_n the distance from the thing's extent, 1 on its outline, and u_n how sure that is. The
odds of real masks fall in this way with r, by about 6, for things of any size and kind.

Things with fewer points have an extent, too, where sizes by class are used
(:mod:`fdd.modeling.thing_sizes`).

Stuff has no place, and no prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.device import upload
from fdd.modeling.extents import ClassedImage, Extents, fit_extents
from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.structures import PointBatch
from fdd.modeling.thing_sizes import ThingSizes

#: The distance, as a share of the image's diagonal, that costs one slope.
UNIT = 0.1
# Nearer to its middle than 0.7 of the way to its outline a thing is as likely as it gets: many a
# thing has holes, or others before it.
_MOST_INSIDE = 0.3


@dataclass(frozen=True)
class Places:
    """What the points say of where the instances are.

    Attributes:
        distance: (B, N, h, w) float32 of :func:`point_distance`.
        extents: of the B images; None where they are not to be used.
    """

    distance: Tensor
    extents: Extents | None = None


@dataclass(frozen=True)
class ExtentPrior:
    """The part of the prior that is known at any place, not only at the cells: that of the extents.

    Attributes:
        extents: of B images, or of one.
        slope: (B, N) float32, or (N,); 0 where the prior is not by an extent.
    """

    extents: Extents
    slope: Tensor

    def __getitem__(self, index: int | slice | tuple[slice, slice] | Tensor | None) -> ExtentPrior:
        """That of an image of a batch; of some instances of an image, or of each; of an image as a
        batch (None)."""
        return ExtentPrior(self.extents[index], self.slope[index])

    def scaled(self, scale: tuple[float, float]) -> ExtentPrior:
        """The same in other pixels, ``scale`` (y, x) a pixel of before."""
        return replace(self, extents=self.extents.scaled(scale))

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """What is added to the logits at some places, see :meth:`Extents.distance`."""
        return self.at_distance(self.extents.distance(x, y))

    def own_logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The same at each instance's own places, see :meth:`Extents.own_distance`."""
        return self.at_distance(self.extents.own_distance(x, y))

    def at_distance(self, distance: Tensor) -> Tensor:
        """The same at places by their distances, (N, *places); changes them."""
        inside = distance.neg_().add_(1).clamp_(max=_MOST_INSIDE)
        slope = self.slope
        return inside * slope.reshape(*slope.shape, *[1] * (distance.dim() - slope.dim()))

    def on_grid(self, grid: Sequence[int], stride: tuple[float, float]) -> Tensor:
        """The same at the centres of cells, (N, h, w) or (B, N, h, w).

        Args:
            grid: (h, w). stride: pixels of a cell, (along y, along x).
        """
        y, x = (
            (torch.arange(n, device=self.slope.device, dtype=self.slope.dtype) + 0.5) * step
            for n, step in zip(grid, stride, strict=True)
        )
        return self.logits(x[None], y[:, None])

    def without(self, maps: Tensor) -> Tensor:
        """(N, h8, w8) or (B, N, h8, w8) stride-8 logits of the instances without this part."""
        return maps - self.on_grid(maps.shape[-2:], (POINT_STRIDE, POINT_STRIDE))

    def to_add(
        self, grid: tuple[int, int], stride: tuple[float, float]
    ) -> Callable[[slice], Tensor]:
        """Of a batch, what ``upsampled_argmax`` adds to some of the up-sampled rest; arguments of
        :meth:`on_grid`."""
        return lambda part: self[:, part].on_grid(grid, stride)


class LocationPrior(nn.Module):
    """What a thing's points add to its logits; slopes are learned for each class."""

    thing_sizes: Tensor

    def __init__(
        self,
        *,
        num_things: int,
        start: float = 1.0,
        extent_start: float | None = None,
        use_sizes: bool = False,
    ):
        """
        Args:
            num_things: thing classes, at least 1.
            start: s of every class; the slope is softplus(s), 1.31 for s = 1.
            extent_start: e of every class; None: extents are not used.
            use_sizes: a thing's extent is by others of its class, too.
        """
        super().__init__()
        self.slope = nn.Parameter(torch.full((num_things,), float(start)))
        self.extent_slope = None
        self.use_sizes = use_sizes
        self._sizes: tuple[object, ThingSizes] | None = None
        if extent_start is not None:
            self.extent_slope = nn.Parameter(torch.full((num_things,), float(extent_start)))
            # Measured once for a training, whether used or not: a trained model has them.
            unknown = torch.from_numpy(ThingSizes.unknown(num_things).as_table())
            self.register_buffer("thing_sizes", unknown)

    @property
    def sizes(self) -> ThingSizes:
        """Sizes of things in the training set, on the host."""
        table = self.thing_sizes
        if table.is_meta:
            return ThingSizes.unknown(len(table))
        state = (table.data_ptr(), table._version)
        if self._sizes is None or self._sizes[0] != state:
            # A device is waited for, once.
            self._sizes = state, ThingSizes.from_table(table.cpu().numpy())
        return self._sizes[1]

    def set_sizes(self, sizes: ThingSizes) -> None:
        """Take over sizes that were measured."""
        if self.extent_slope is not None:
            self.thing_sizes.copy_(torch.from_numpy(sizes.as_table()))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights from before sizes were measured know none.
        if self.extent_slope is not None:
            unknown = ThingSizes.unknown(len(self.slope)).as_table()
            state_dict.setdefault(f"{prefix}thing_sizes", torch.from_numpy(unknown))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def places(self, points: PointBatch, num_things: int, valid: Tensor) -> Places:
        """What this prior needs to know of the points; see :func:`point_distance`."""
        distance = point_distance(points, num_things, valid)
        if self.extent_slope is None:
            return Places(distance)
        return Places(distance, self.extents(points, valid.device))

    def extents(self, points: PointBatch, device: torch.device) -> Extents:
        """Of the batch's instances, as the config has them."""
        most = points.host_classes.shape[1]
        if not self.use_sizes:
            return fit_extents(points.host_points, most, device)
        images = [
            ClassedImage(classes, diagonal)
            for classes, diagonal in zip(points.host_classes, points.host_diagonals, strict=True)
        ]
        return fit_extents(points.host_points, most, device, images=images, sizes=self.sizes)

    def forward(self, places: Places, classes: Tensor) -> tuple[Tensor, ExtentPrior | None]:
        """
        Args:
            places: of the instances.
            classes: (B, N) int64 contiguous classes, things first, -1 where padded.

        Returns:
            (B, N, h, w) float32; 0 for stuff and padded instances. The slopes are in its graph
            whatever the batch holds. And the part of it that is by extents, without a graph; None
            where these are not used.
        """
        is_thing = (classes >= 0) & (classes < len(self.slope))
        index = classes.clamp(0, len(self.slope) - 1)
        slope = F.softplus(self.slope)[index] * is_thing
        extents = places.extents
        if self.extent_slope is None or extents is None:
            return places.distance * -slope[..., None, None], None
        by_extent = F.softplus(self.extent_slope)[index] * extents.sureness
        by_extent = by_extent * (is_thing & extents.known)
        near = places.distance * -(slope * ~extents.known)[..., None, None]
        stride = (POINT_STRIDE, POINT_STRIDE)
        inside = ExtentPrior(extents, by_extent).on_grid(places.distance.shape[2:], stride)
        return near + inside, ExtentPrior(extents, by_extent.detach())


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

"""Extents: how far a thing reaches, as several of its points say. Ours, not the paper's.

Points that are spread over a thing tell its place and its size. Two outlines follow from three or
more of them: a box, as much larger than that of the points as it is expected to be for points that
are drawn uniformly; and an ellipse, over which evenly drawn points have the same covariance. Real
things lie between the two: the distance from a thing is the mean of the distances from both, each 1
on its outline, 0 in the middle and growing in proportion from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.label_maps import POINT_STRIDE

__all__ = ["LEAST_POINTS", "Extents", "drop_outside", "fit_extents"]

#: Fewer places than this tell no extent.
LEAST_POINTS = 3
# Nor do points on a line: of their covariance, the determinant over the square of the trace. Boxes
# up to thirty times as long as wide have more.
_LEAST_AREA = 1e-3
# Pixels of the network's input: no thing is narrower to either side of its middle.
_LEAST_REACH = 1.0
# Beyond its outline by this share of its size, an instance of ten points is not expected.
_MARGIN = 0.15
# How far real outlines are from the mean of box and ellipse; a share of the thing's size.
_MISFIT = 0.2
# Points of a full label (the paper's ten): extents by so many are of sureness 1.
_USUAL_POINTS = 10


@dataclass(frozen=True)
class Extents:
    """Extents of the N instances of an image, or of B images; fields (N, ...) or (B, N, ...).

    Attributes:
        known: (N,) bool, of instances with points at :data:`LEAST_POINTS` places that are not on
            one line; what follows says nothing of others.
        center, reach: (N, 2) float32 (x, y) in input pixels, middle of the box and its half sides.
        mean: (N, 2) float32 (x, y) in input pixels, middle of the ellipse.
        inverse: (N, 3) float32: the ellipse is a dx^2 + 2 b dx dy + c dy^2 = 1.
        sureness: (N,) float32: how much less than by ten points an outline is to be trusted.
    """

    known: Tensor
    center: Tensor
    reach: Tensor
    mean: Tensor
    inverse: Tensor
    sureness: Tensor

    def __getitem__(self, index: int | slice | tuple[slice, slice] | Tensor | None) -> Extents:
        """Those of an image of a batch; of some instances of an image, or of each; of an image as a
        batch (None)."""
        return Extents(*(getattr(self, field.name)[index] for field in fields(self)))

    def scaled(self, scale: tuple[float, float]) -> Extents:
        """The same in other pixels, ``scale`` (y, x) a pixel of before."""
        down, across = scale

        def longer(lengths: Tensor) -> Tensor:
            return torch.stack([lengths[..., 0] * across, lengths[..., 1] * down], -1)

        a, b, c = self.inverse.unbind(-1)
        inverse = torch.stack([a / across**2, b / (across * down), c / down**2], -1)
        return replace(
            self,
            center=longer(self.center),
            reach=longer(self.reach),
            mean=longer(self.mean),
            inverse=inverse,
        )

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of places from each instance: 0 in its middle, about 1 on its outline.

        Args:
            x, y: float, input pixels; of the same rank, to be broadcast: (1, w) and (h, 1) for a
                grid, (P,) each for single places.

        Returns:
            (N, *places) float32, or (B, N, *places).
        """
        lead = [1] * x.dim()
        return self._distance(x, y, lambda values: values.reshape(*values.shape, *lead))

    def outside(self, x: Tensor, y: Tensor) -> Tensor:
        """Bool, places beyond an outline, by a margin that grows with how unsure it is; as
        :meth:`distance`. Nothing is known of the outside of an instance without an extent."""
        lead = [1] * x.dim()
        reach, known = (
            values.reshape(*values.shape, *lead)
            for values in (1 + _MARGIN / self.sureness, self.known)
        )
        return (self.distance(x, y) > reach) & known

    def own_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each instance's own places: (N, ...) of x and y, (N, ...) each, to be
        broadcast."""
        lead = [1] * (x.dim() - 1)
        return self._distance(x, y, lambda values: values.reshape(*values.shape, *lead))

    def _distance(self, x: Tensor, y: Tensor, shaped: Callable[[Tensor], Tensor]) -> Tensor:
        across, down = (
            (place - shaped(self.center[..., axis])) / shaped(self.reach[..., axis])
            for axis, place in enumerate((x, y))
        )
        box = torch.maximum(across.abs_(), down.abs_())
        dx, dy = (place - shaped(self.mean[..., axis]) for axis, place in enumerate((x, y)))
        a, b, c = (shaped(values) for values in self.inverse.unbind(-1))
        square = (2 * b * dx) * dy
        square += a * dx * dx
        square += c * dy * dy
        return square.clamp_(min=0).sqrt_().add_(box).mul_(0.5)


def drop_outside(x: dict[str, Any], num_things: int) -> dict[str, Any]:
    """A mapper output whose things own no stride-8 cell with its centre outside their extent. A
    thing all of whose cells are outside keeps the nearest.

    A point's square, and even its own cell, reach beyond a thing that is no wider than them; a
    branch that learns from such cells makes small things too large.

    Args:
        x: mapper output; not changed.
        num_things: classes below it are things.
    """
    owner = x["point_instance_map"]
    coords, index = x["point_coords"].numpy(), x["point_index"].numpy()
    extents = fit_extents([(coords, index)], max(1, len(x["classes"])), "cpu")[0]
    row, column = (owner >= 0).nonzero(as_tuple=True)
    instance = owner[row, column].long()
    chosen = extents.known[instance] & (x["classes"][instance] < num_things)
    row, column, instance = row[chosen], column[chosen], instance[chosen]
    place = ((n + 0.5) * POINT_STRIDE for n in (column, row))
    distance = extents[instance].own_distance(*place)
    least = torch.full((len(extents.known),), torch.inf)
    least = least.scatter_reduce(0, instance, distance, "amin")
    reach = 1 + _MARGIN * (1 / extents.sureness[instance] - 1).clamp(min=0)
    outside = (distance > reach) & (distance > least[instance])
    maps = {k: x[k].clone() for k in ("point_instance_map", "point_semantic_map")}
    for labels in maps.values():
        labels[row[outside], column[outside]] = -1
    return x | maps


def fit_extents(
    points: Sequence[tuple[np.ndarray, np.ndarray]], most: int, device: torch.device | str
) -> Extents:
    """Extents of the instances of B images.

    Args:
        points: of each image (P, 2) (x, y) in input pixels, and (P,) integer instance.
        most: N.
        device: of the result.
    """
    tables = [_fit(np.asarray(c, np.float64), np.asarray(i), most) for c, i in points]
    columns = (np.stack(column) for column in zip(*tables, strict=True))
    return Extents(*(upload(torch.from_numpy(column), device) for column in columns))


def _fit(coords: np.ndarray, index: np.ndarray, most: int) -> tuple[np.ndarray, ...]:
    # Two clicks on one place say what one says.
    table = np.unique(np.column_stack([index, coords]), axis=0)
    index, coords = table[:, 0].astype(np.int64), table[:, 1:]
    count = np.bincount(index, minlength=most)[:most]
    known, number = count >= LEAST_POINTS, np.maximum(count, LEAST_POINTS)[:, None]
    low, high = np.full((most, 2), np.inf), np.full((most, 2), -np.inf)
    np.minimum.at(low, index, coords)
    np.maximum.at(high, index, coords)
    low, high = (np.where(known[:, None], ends, 0.0) for ends in (low, high))
    # Of k points drawn uniformly from an interval the range is (k - 1) / (k + 1) of it.
    reach = np.maximum((high - low) / 2 * (number + 1) / (number - 1), _LEAST_REACH)
    mean = np.zeros((most, 2))
    np.add.at(mean, index, coords)
    mean /= number
    away = coords - mean[index]
    covariance = np.zeros((most, 3))
    np.add.at(covariance, index, away[:, [0, 0, 1]] * away[:, [0, 1, 1]])
    covariance /= number - 1
    xx, xy, yy = covariance.T
    known &= xx * yy - xy * xy > _LEAST_AREA * (xx + yy) ** 2
    # An evenly filled ellipse has half the length of each semi-axis as standard deviation along it.
    covariance[:, [0, 2]] += (_LEAST_REACH / 2) ** 2
    xx, xy, yy = covariance.T
    determinant = xx * yy - xy * xy
    inverse = np.stack([yy, -xy, xx], 1) / (4 * determinant[:, None])
    sureness = _spread(_USUAL_POINTS) / _spread(number[:, 0])
    values = ((low + high) / 2, reach, np.where(known[:, None], mean, 0.0), inverse, sureness)
    return known, *(v.astype(np.float32) for v in values)


def _spread(k: np.ndarray | int) -> np.ndarray:
    """Standard deviation of the place of an outline by k points, as a share of the thing's size:
    that of the range of k uniform points, and the misfit."""
    k = np.asarray(k, np.float64)
    return np.sqrt(2 / ((k - 1) * (k + 2)) + _MISFIT**2)

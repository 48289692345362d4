"""Extents: how far a thing reaches, as several of its points say. Ours, not the paper's.

Points that are spread over a thing tell its place and its size. Two outlines follow from three or
more of them: a box, as much larger than that of the points as it is expected to be for points that
are drawn uniformly; and an ellipse, over which evenly drawn points have the same covariance. Real
things lie between the two: the distance from a thing is the mean of the distances from both, each 1
on its outline, 0 in the middle and growing in proportion from there.

Where sizes of things are known by class (:mod:`fdd.modeling.thing_sizes`), they count beside a
thing's own points, the less the more of these there are; then one point is enough.
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
from fdd.modeling.thing_sizes import (
    ThingSizes,
    expected_sizes,
    log_range_bias,
    log_range_variance,
)

__all__ = [
    "LEAST_POINTS",
    "ClassedImage",
    "Extents",
    "drop_outside",
    "fit_extents",
    "measure_record",
]

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
# A class's ellipse counts as this many points, over the variance of the logarithm of its sizes and
# the number of own points: things of a class lie in all directions.
_SHAPE_POINTS = 0.6
# Sureness falls with this power of the variance of an outline's place.
_SURENESS = 0.75
# Its semi-axes in half sides of the box: between those of an ellipse and of a rectangle.
_ROUNDNESS = 1.1
# A thing of one or two points ends at this share of the way to the nearest point of another.
_ROOM = 0.8


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


@dataclass(frozen=True)
class ClassedImage:
    """What extents by class need to know of an image beside its points.

    Attributes:
        classes: (n,) integer contiguous class of its instances, things first.
        diagonal: of the whole image, in input pixels.
    """

    classes: np.ndarray
    diagonal: float


def fit_extents(
    points: Sequence[tuple[np.ndarray, np.ndarray]],
    most: int,
    device: torch.device | str,
    *,
    images: Sequence[ClassedImage] | None = None,
    sizes: ThingSizes | None = None,
) -> Extents:
    """Extents of the instances of B images.

    Args:
        points: of each image (P, 2) (x, y) in input pixels, and (P,) integer instance.
        most: N.
        device: of the result.
        images: of the B images; given with ``sizes``.
        sizes: of the classes of things; None: each instance is known by its own points alone.
    """
    tables = []
    for n, (coords, index) in enumerate(points):
        coords, index = np.asarray(coords, np.float64), np.asarray(index)
        spread = _measure(coords, index, most)
        if sizes is None:
            tables.append(_outline(spread))
        else:
            assert images is not None, "sizes are of classes"
            tables.append(_expected_outline(spread, coords, index, images[n], sizes))
    columns = (np.stack(column) for column in zip(*tables, strict=True))
    return Extents(*(upload(torch.from_numpy(column), device) for column in columns))


def measure_record(
    record: dict[str, Any], num_things: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :meth:`ThingSizes.of` takes of an image.

    Args:
        record: Detectron2 dataset dict with ``points``, see :mod:`fdd.data.loading`.
        num_things: contiguous classes below it are things.
    """
    things = [s for s in record.get("points", ()) if s["category_id"] < num_things and s["coords"]]
    if not things:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2))
    coords = np.concatenate([np.asarray(s["coords"], np.float64) for s in things])
    index = np.repeat(np.arange(len(things)), [len(s["coords"]) for s in things])
    classes = np.array([s["category_id"] for s in things])
    spread = _measure(coords, index, len(things))
    size = np.log(spread.reach()) - np.log(np.hypot(record["height"], record["width"]))
    return classes[spread.known], spread.count[spread.known], size[spread.known]


@dataclass(frozen=True)
class _Spread:
    """How N instances' points are spread.

    Attributes:
        count: (N,) different places. known: (N,) bool, enough of them, and not on one line.
        middle, half: (N, 2) of their box, middle and half sides.
        mean: (N, 2). scatter: (N, 3) sums of xx, xy, yy of what they are away from it.
    """

    count: np.ndarray
    known: np.ndarray
    middle: np.ndarray
    half: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray

    def reach(self) -> np.ndarray:
        """(N, 2) half sides whose logarithm is expected of a uniform draw; 2 points are needed."""
        number = np.maximum(self.count, 2)[:, None]
        return np.maximum(self.half * np.exp(log_range_bias(number)), _LEAST_REACH)


def _measure(coords: np.ndarray, index: np.ndarray, most: int) -> _Spread:
    # Two clicks on one place say what one says.
    table = np.unique(np.column_stack([index, coords]), axis=0)
    index, coords = table[:, 0].astype(np.int64), table[:, 1:]
    count = np.bincount(index, minlength=most)[:most]
    low, high = np.full((most, 2), np.inf), np.full((most, 2), -np.inf)
    np.minimum.at(low, index, coords)
    np.maximum.at(high, index, coords)
    low, high = (np.where(count[:, None] > 0, ends, 0.0) for ends in (low, high))
    mean = np.zeros((most, 2))
    np.add.at(mean, index, coords)
    mean /= np.maximum(count, 1)[:, None]
    away = coords - mean[index]
    scatter = np.zeros((most, 3))
    np.add.at(scatter, index, away[:, [0, 0, 1]] * away[:, [0, 1, 1]])
    xx, xy, yy = scatter.T
    known = (count >= LEAST_POINTS) & (xx * yy - xy * xy > _LEAST_AREA * (xx + yy) ** 2)
    return _Spread(count, known, (low + high) / 2, (high - low) / 2, mean, scatter)


def _outline(spread: _Spread) -> tuple[np.ndarray, ...]:
    """Fields of :class:`Extents`, by the points alone."""
    enough = spread.count >= LEAST_POINTS
    number = np.maximum(spread.count, LEAST_POINTS)[:, None]
    # Of k points drawn uniformly from an interval the range is (k - 1) / (k + 1) of it.
    half = np.where(enough[:, None], spread.half, 0.0)
    reach = np.maximum(half * (number + 1) / (number - 1), _LEAST_REACH)
    middle, mean, scatter = (
        np.where(enough[:, None], values, 0.0)
        for values in (spread.middle, spread.mean, spread.scatter)
    )
    inverse = _inverse(scatter / (number - 1))
    sureness = _deviation(_USUAL_POINTS) / _deviation(number[:, 0])
    return _single(spread.known, middle, reach, mean, inverse, sureness)


def _expected_outline(
    spread: _Spread, coords: np.ndarray, index: np.ndarray, image: ClassedImage, sizes: ThingSizes
) -> tuple[np.ndarray, ...]:
    """The same by the points and the sizes of the classes."""
    count = spread.count
    classes = np.full(len(count), -1)
    classes[: len(image.classes)] = image.classes
    own = np.log(spread.reach())
    expected, variance = expected_sizes(own, count, spread.known, classes, sizes, image.diagonal)
    taught = np.isfinite(variance)
    noise = np.where(count > 1, log_range_variance(np.maximum(count, 2)), np.inf)[:, None]
    by_own, by_class = 1 / noise, 1 / variance
    both = np.maximum(by_own + by_class, np.finfo(float).tiny)
    reach = np.exp((by_own * own + by_class * expected) / both)
    # What is clicked is inside.
    reach = np.maximum(reach, np.maximum(spread.half, _LEAST_REACH))
    varies = np.where(taught, variance, 1.0).mean(1)
    points = np.where(taught.all(1), _SHAPE_POINTS / (varies * np.maximum(count, 1)), 0.0)[:, None]
    axes = (_ROUNDNESS * np.exp(expected) / 2) ** 2
    shape = np.stack([axes[:, 0], np.zeros(len(axes)), axes[:, 1]], 1)
    freedom = np.maximum(count - 1, 0)[:, None] + points
    covariance = (spread.scatter + points * shape) / np.maximum(freedom, 1e-9)
    known = (count > 0) & (spread.known | taught.all(1))
    # Where another instance is clicked, a thing of which little is known has ended.
    few = known & ~spread.known
    shrunk = np.ones((len(count), 1))
    room = _foreign_distance(few, spread, coords, index, reach, _inverse(covariance))
    shrunk[few, 0] = np.minimum(1, _ROOM * room)
    reach = np.maximum(reach * shrunk, np.maximum(spread.half, _LEAST_REACH))
    covariance = covariance * shrunk**2
    usual = _uncertainty(np.array([_USUAL_POINTS]), np.full(1, np.inf))
    unsure = _uncertainty(count, np.where(taught.all(1), varies, np.inf))
    sureness = (usual / unsure) ** _SURENESS
    inverse = _inverse(np.where(known[:, None], covariance, 0.0))
    return _single(known, spread.middle, reach, spread.mean, inverse, sureness)


def _foreign_distance(
    chosen: np.ndarray,
    spread: _Spread,
    coords: np.ndarray,
    index: np.ndarray,
    reach: np.ndarray,
    inverse: np.ndarray,
) -> np.ndarray:
    """(K,) distance, as :meth:`Extents.distance`, of the nearest point of others from each of the K
    ``chosen`` ones of N instances, (N,) bool."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return np.zeros(0, np.float32)
    x, y = coords.T
    values = (spread.middle[rows], reach[rows], spread.mean[rows], inverse[rows])
    tensors = map(torch.from_numpy, _single(chosen[rows], *values, np.ones(len(rows))))
    distance = Extents(*tensors).distance(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    distance[index[None] == rows[:, None]] = np.inf
    return distance.min(1, initial=np.inf)


def _single(known: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    middle, reach, mean, inverse, sureness = (v.astype(np.float32) for v in values)
    mean = np.where(known[:, None], mean, np.float32(0))
    return known, middle, reach, mean, inverse, sureness


def _inverse(covariance: np.ndarray) -> np.ndarray:
    """(N, 3) of the ellipse with a covariance (N, 3)."""
    # An evenly filled ellipse has half the length of each semi-axis as standard deviation along it.
    covariance = covariance + np.array([1, 0, 1]) * (_LEAST_REACH / 2) ** 2
    xx, xy, yy = covariance.T
    determinant = xx * yy - xy * xy
    return np.stack([yy, -xy, xx], 1) / (4 * determinant[:, None])


def _deviation(k: np.ndarray | int) -> np.ndarray:
    """Standard deviation of the place of an outline by k points, as a share of the thing's size:
    that of the range of k uniform points, and the misfit."""
    k = np.asarray(k, np.float64)
    return np.sqrt(2 / ((k - 1) * (k + 2)) + _MISFIT**2)


def _uncertainty(k: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """Variance of the place of an outline, as a share of half the thing's size: of the size, by k
    points and by a class in which it ``varies``; of the middle of k uniform points; the misfit."""
    size = np.where(k > 1, 1 / log_range_variance(np.maximum(k, 2)), 0.0) + 1 / varies
    size = 1 / np.maximum(size, 1e-9)
    return size + 2 / ((k + 1) * (k + 2)) + _MISFIT**2

"""Labels by fixed rules: from the points alone, with the classes of a semantic branch, and full
masks (the upper bound of labels made from points at this resolution).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from fdd.modeling.extents import fit_extents
from fdd.modeling.label_makers.inputs import (
    BatchMakerInputs,
    MakerInputs,
    argmax_on_canvas,
    cell_centres,
)
from fdd.modeling.label_makers.registry import Rule, register_label_maker
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
        (h, w) int32 on the device of ``coords``, -1 without an owner.
    """
    at, values = coords.detach().cpu().double().numpy(), owner.cpu().numpy()
    return torch.from_numpy(nearest_owner(at, values, grid, stride, side)).to(coords.device)


@register_label_maker()
@torch.no_grad()
def point_labels(inputs: MakerInputs) -> Tensor:
    """Instance of the point in whose square a cell lies, -1 elsewhere: S^ins on any grid."""
    return inputs.on_canvas(
        square_owner(
            inputs.coords,
            inputs.index,
            inputs.valid_grid,
            inputs.stride,
            inputs.square_side,
        )
    )


@register_label_maker()
@torch.no_grad()
def nearest_labels(inputs: MakerInputs) -> Tensor:
    """Instance of the point nearest (Euclidean, in canvas px) to each cell's centre.

    Between points at the same distance the first in the list wins. Without points the map is -1.
    """
    # float32 is exact for what decides ties: squared distances of (half-)integer coordinates.
    coords = inputs.coords.float()
    y, x = cell_centres(inputs.grid, inputs.stride, coords)
    best = coords.new_full(inputs.grid, torch.inf)
    labels = torch.full(inputs.grid, -1, dtype=torch.int32, device=coords.device)
    owner = inputs.index.to(torch.int32)
    for point, instance in zip(coords, owner, strict=True):
        distance = (y - point[1]).square()[:, None] + (x - point[0]).square()
        labels = torch.where(distance < best, instance, labels)
        best = torch.minimum(best, distance)
    return labels


@register_label_maker()
@torch.no_grad()
def extent_labels(inputs: MakerInputs, nearest: Rule = nearest_labels) -> Tensor:
    """Things where their points say that they reach (:mod:`fdd.modeling.extents`), around them the
    nearest point of what has no extent: stuff, and things of one or two points.

    In several extents, the thing whose middle is nearest in units of its size. Where everything has
    an extent, the nearest point decides between them.

    Args:
        nearest: makes the label of the rest, for those who have a faster way.
    """
    count = len(inputs.classes)
    points = inputs.coords.detach().cpu().numpy(), inputs.index.detach().cpu().numpy()
    extents = fit_extents([points], count, inputs.coords.device)[0]
    within = extents.known & (inputs.classes < inputs.num_things)
    without = ~within[inputs.index]
    rest = inputs
    if bool(without.any()):
        rest = replace(inputs, coords=inputs.coords[without], index=inputs.index[without])
    labels = nearest(rest)
    y, x = cell_centres(inputs.grid, inputs.stride, extents.center)
    best = torch.ones(inputs.grid, device=labels.device)
    # A distance is at least half of that of the box: twice as far it is 1.
    low, high = extents.center - 2 * extents.reach, extents.center + 2 * extents.reach
    ends = torch.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], 1).tolist()
    for instance in within.nonzero().flatten().tolist():
        top, bottom, left, right = ends[instance]
        rows, columns = _between(y, top, bottom), _between(x, left, right)
        distance = extents[instance].distance(x[None, columns], y[rows, None])
        nearer = distance < best[rows, columns]
        labels[rows, columns].masked_fill_(nearer, instance)
        best[rows, columns].copy_(torch.minimum(best[rows, columns], distance))
    return labels


def _between(centres: Tensor, low: float, high: float) -> slice:
    """Of ascending places those between two bounds, and the next ones."""
    first, last = torch.searchsorted(centres, centres.new_tensor([low, high])).tolist()
    return slice(max(0, first - 1), last + 1)


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull, in order.

    Args:
        points: (P, 2) float64, P >= 1.

    Returns:
        (K, 2) float64; K = 1 where all points coincide, 2 (the ends) where they are collinear.
    """
    points = np.unique(points, axis=0)
    if len(points) < 3:
        return points
    # A sliver thinner than rounding is a line.
    tolerance = 1e-9 * float(np.square(np.ptp(points, axis=0)).sum())
    try:
        hull = ConvexHull(points)
    except QhullError:  # all points on a line
        return points[[0, -1]]
    return points[hull.vertices] if 2 * hull.volume > tolerance else points[[0, -1]]


def _inside_hull(hull: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cells whose centre is in the hull, border included."""
    inside = np.ones((len(y), len(x)), dtype=bool)
    for (ax, ay), (bx, by) in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        cross = (bx - ax) * (y[:, None] - ay) - (by - ay) * (x[None] - ax)
        inside &= cross >= -1e-9 * (abs(bx - ax) + abs(by - ay))
    return inside


def _near_segment(ends: np.ndarray, x: np.ndarray, y: np.ndarray, thickness: float) -> np.ndarray:
    """Cells whose centre is at most half the thickness from the segment."""
    start, along = ends[0], ends[1] - ends[0]
    dx, dy = x[None] - start[0], y[:, None] - start[1]
    t = np.clip((dx * along[0] + dy * along[1]) / (along @ along), 0, 1)
    return np.hypot(dx - t * along[0], dy - t * along[1]) <= thickness / 2


def _instance_mask(
    points: np.ndarray, x: np.ndarray, y: np.ndarray, steps: tuple[float, float], side: float
) -> np.ndarray:
    hull = convex_hull(points)
    if len(hull) >= 3:
        mask = _inside_hull(hull, x, y)
    elif len(hull) == 2:
        mask = _near_segment(hull, x, y, side)
    else:
        near_x, near_y = np.abs(x - hull[0, 0]) <= side / 2, np.abs(y - hull[0, 1]) <= side / 2
        mask = near_y[:, None] & near_x[None]
    # On a coarse grid a small polygon may miss every centre; its points' own cells are its least.
    if mask.size:
        own = np.floor(points / np.array(steps[::-1])).astype(np.int64)
        own = np.clip(own, 0, np.array(mask.shape[::-1]) - 1)
        mask[own[:, 1], own[:, 0]] = True
    return mask


@register_label_maker()
@torch.no_grad()
def polygon_labels(inputs: MakerInputs) -> Tensor:
    """Filled convex hull of each instance's points; -1 in no hull or in several.

    Three or more points that are not on a line give a hull; points on a line a line as thick as the
    square of a single point is wide. A point's own cell always belongs to its instance's shape. The
    -1 cells are *ignored* in training; scored as a panoptic map they are void predictions.
    """
    steps, grid = inputs.stride, inputs.grid
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(grid, steps, strict=True))
    points = inputs.coords.detach().cpu().numpy().astype(np.float64)
    owner = inputs.index.detach().cpu().numpy()
    labels = np.full(grid, -1, dtype=np.int32)
    claims = np.zeros(grid, dtype=np.int32)
    for instance in np.unique(owner):
        mask = _instance_mask(points[owner == instance], x, y, steps, inputs.square_side)
        labels[mask] = instance
        claims += mask
    labels[claims > 1] = -1
    return torch.from_numpy(labels).to(inputs.coords.device)


@register_label_maker(needs={"semantic"})
@torch.no_grad()
def semantic_nearest_labels(inputs: MakerInputs) -> Tensor:
    """Instance of the likeliest class whose point is nearest.

    The class of a cell is the argmax of the up-sampled logits over the classes that have a point.
    Among the things of this class the nearest point (Euclidean, in canvas px; the first in the list
    of equally near ones) decides; of stuff it is the first instance. Every cell of the image has a
    label; without points the map is -1.
    """
    assert inputs.semantic is not None
    point_class = inputs.classes[inputs.index]
    present = point_class.unique()
    logits = inputs.valid_maps(inputs.semantic)[present.to(inputs.semantic.device)]
    grid = inputs.valid_grid
    likeliest, _ = argmax_on_canvas(inputs, logits, grid, len(present))
    labels = torch.full_like(likeliest, -1)
    for channel, label in enumerate(present.tolist()):
        if label >= inputs.num_things:
            owner = (inputs.classes == label).int().argmax().to(labels)
        else:
            mine = point_class == label
            owner = nearest_labels(
                replace(inputs, coords=inputs.coords[mine], index=inputs.index[mine], grid=grid)
            )
        labels = torch.where(likeliest == channel, owner, labels)
    return inputs.on_canvas(labels)


#: Of the masks that the mapper, or an evaluation, gives.
MASK_STRIDE = 4


def full_batch(inputs: BatchMakerInputs) -> Tensor:
    """Masks of a batch, (B, h4, w4) int64.

    Raises:
        ValueError: the batch holds no masks.
    """
    if inputs.points.dense_map is None:
        raise ValueError(
            "MODEL.FDD.PAN_SUPERVISION is 'full' but the batch holds no masks; train on a "
            "data set registered with panoptic masks"
        )
    if inputs.stride != MASK_STRIDE:
        raise ValueError(f"masks are at stride {MASK_STRIDE}, not {inputs.stride}")
    return inputs.points.dense_map


@register_label_maker(needs={"masks"}, batch_rule=full_batch, exact=True)
@torch.no_grad()
def full_labels(inputs: MakerInputs) -> Tensor:
    """The mask in the stride-4 cell of the input in which each canvas cell's centre lies."""
    masks = inputs.masks
    assert masks is not None
    rows, columns = (
        ((torch.arange(n) + 0.5) * step / (scale * MASK_STRIDE)).long().clamp(max=cells - 1)
        for n, step, scale, cells in zip(
            inputs.grid, inputs.stride, inputs.scale, masks.shape, strict=True
        )
    )
    picked = masks[rows.to(masks.device)][:, columns.to(masks.device)]
    return picked.to(inputs.coords.device, torch.int32)

"""Every instance is the polygon of its points (the PanopticFCN-style baseline)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import Evidence
from fdd.modeling.label_makers.registry import register_label_maker


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull, in order, without collinear ones (Andrew's monotone chain).

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

    def chain(ordered: np.ndarray) -> list[np.ndarray]:
        corners: list[np.ndarray] = []
        for point in ordered:
            while len(corners) >= 2:
                (ax, ay), (bx, by) = corners[-1] - corners[-2], point - corners[-2]
                if ax * by - ay * bx > tolerance:
                    break
                corners.pop()
            corners.append(point)
        return corners[:-1]

    return np.array(chain(points) + chain(points[::-1]))


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
def polygon_labels(evidence: Evidence) -> Tensor:
    """Filled convex hull of each instance's points; whatever no hull or several hulls claim is -1.

    Three or more points that are not on a line give a hull; points on a line a line as thick as the
    square of a single point is wide. A point's own cell always belongs to its instance's shape. The
    -1 cells are *ignored* in training; scored as a panoptic map they are void predictions.
    """
    steps, grid = evidence.stride, evidence.grid
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(grid, steps, strict=True))
    points = evidence.coords.detach().cpu().numpy().astype(np.float64)
    owner = evidence.index.detach().cpu().numpy()
    labels = np.full(grid, -1, dtype=np.int32)
    claims = np.zeros(grid, dtype=np.int32)
    for instance in np.unique(owner):
        mask = _instance_mask(points[owner == instance], x, y, steps, evidence.square_side)
        labels[mask] = instance
        claims += mask
    labels[claims > 1] = -1
    return torch.from_numpy(labels).to(evidence.coords.device)

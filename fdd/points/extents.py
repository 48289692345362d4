"""How large objects are, as far as their points say: no mask is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["ThingWidth", "estimate_thing_width", "expected_range", "width_of_points"]

# With fewer things of two or more points than this share, the spacing says more.
_ENOUGH = 0.1


@dataclass(frozen=True)
class ThingWidth:
    """The width of a typical thing: of all things, the median of the mean side of the box.

    Attributes:
        pixels: in its image.
        share: of the short side of its image.
        large_share: the same of a large thing, the upper quartile.
        things: number of things that it is estimated from.
        from_spacing: there is one point a thing, so that this is the distance to the nearest point
            of another thing. Where things touch each other it is rather too small (down to a half),
            where they are scattered it is too large.
    """

    pixels: float
    share: float
    large_share: float
    things: int
    from_spacing: bool


@cache
def expected_range(k: int) -> float:
    """Expected distance between the outermost of ``k`` points along an axis, as a share of the
    width, for points drawn uniformly from a disc.

    For points of an interval it is (k - 1) / (k + 1). Real objects are round rather than square,
    and the rarer points near the ends of an axis make the range of few points smaller: 0.29 of the
    width for two points, 0.73 for ten.
    """
    x = (np.arange(20_000) + 0.5) / 10_000 - 1
    below = 0.5 + (x * np.sqrt(1 - x * x) + np.arcsin(x)) / np.pi  # distribution of a coordinate
    # Of the points, at least one lies before a place and at least one behind it.
    return float((1 - below**k - (1 - below) ** k).mean())


def width_of_points(coords: np.ndarray) -> float:
    """Estimated width of an object, the mean of its box's sides, from two or more of its points.

    Args:
        coords: ``(k, 2)`` pixels, spread over the object.
    """
    points = np.asarray(coords, np.float64)
    return float(np.ptp(points, axis=0).mean() / expected_range(len(points)))


def estimate_thing_width(
    images: Iterable[tuple[float, Sequence[np.ndarray]]],
) -> ThingWidth | None:
    """Estimate the width of a typical thing.

    Args:
        images: for every image its short side in pixels, and the points of each of its things,
            ``(k, 2)`` pixels, k >= 1.

    Returns:
        None where nothing can be said: no thing has two points, and no image two things.
    """
    widths: list[tuple[float, float]] = []  # pixels, short side of the image
    spacings: list[tuple[float, float]] = []
    count = 0
    for short_side, things in images:
        count += len(things)
        widths += [(width_of_points(c), short_side) for c in things if len(c) > 1]
        spacings += [(distance, short_side) for distance in _spacings(things)]
    # Equal points have no extent.
    widths, spacings = ([row for row in rows if row[0] > 0] for rows in (widths, spacings))
    from_spacing = bool(spacings) and len(widths) < _ENOUGH * count
    found = np.array(spacings if from_spacing else widths).reshape(-1, 2)
    if not len(found):
        return None
    pixels = float(np.median(found[:, 0]))
    share, large = (float(q) for q in np.quantile(found[:, 0] / found[:, 1], (0.5, 0.75)))
    return ThingWidth(pixels, share, large, len(found), from_spacing)


def _spacings(things: Sequence[np.ndarray]) -> list[float]:
    """Distance from the middle of each thing's points to the nearest such middle."""
    if len(things) < 2:
        return []
    middles = np.stack([np.asarray(c, np.float64).mean(axis=0) for c in things])
    nearest = []
    for n, middle in enumerate(middles):  # row by row: an image may hold thousands
        distances = np.hypot(*(middles - middle).T)
        distances[n] = np.inf
        nearest.append(float(distances.min()))
    return nearest

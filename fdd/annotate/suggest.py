"""Where to click next: where a click can change most of a segment.

A place may belong to a segment that it is not labelled as. Each segment claims such places by the
probability that they are its own, over the root of its area and of that of the segment which would
lose them, so that a doubtful strip matters more to a small thing than to the ground, and yet a
large region more than a small one. And what is far
from all points may be something that nobody has clicked: by its distance, as the claim of a thing
of usual size. The best place is the middle of where one claim is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Evidence", "Suggestion", "image_gain", "suggest"]

# A place farther than this from all points, as a share of the image's diagonal, is as far as any.
_FAR = 0.15
# How much being far counts beside being unsure, at most.
_COVERAGE = 0.2
# Claims are averaged over this much of the diagonal around a place.
_AROUND = 0.01
# Two suggestions, or a suggestion and a point of the segment it is in, are farther apart than this.
_APART = 0.04
# A suggestion of less than this share of the best one is none.
_LEAST = 0.02
# No segment counts as smaller than this many cells.
_LEAST_CELLS = 4.0
# Below this probability a label is unsure in words.
_UNSURE = 0.75


@dataclass(frozen=True)
class Suggestion:
    """A place that is worth a click.

    Attributes:
        x, y: in pixels of the original image, as points are.
        reason: in plain words, such as "no point within 80 px and unsure".
        kind: "coverage", far from all points; "boundary", two things of a class share this; or
            "unsure", two segments of different classes do.
        segment: position, among the segments given, of the likeliest one there.
        gain: the claim: larger ones promise more, in other images, too.
    """

    x: float
    y: float
    reason: str
    kind: str
    segment: int
    gain: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What is known of an image.

    Attributes:
        likely: (N, h, w) float, probabilities of the segments on a coarse grid over the image,
            N >= 1.
        size: (height, width) in pixels of the original.
        points: (P, 2) float (x, y) in pixels of the original, of all segments.
        names: of the class of each segment. things: (N,) bool, which are things.
        void: (h, w) bool, where nothing is asked; None: nowhere.
    """

    likely: np.ndarray
    size: tuple[int, int]
    points: np.ndarray
    names: Sequence[str]
    things: np.ndarray
    void: np.ndarray | None = None


def suggest(evidence: Evidence, count: int = 3) -> list[Suggestion]:
    """At most ``count`` places, the best first.

    Pure: the same evidence has the same places.
    """
    likely = evidence.likely
    cells = likely.shape[1:]
    step = np.array([n / c for n, c in zip(evidence.size, cells, strict=True)])  # px, (y, x)
    diagonal = float(np.hypot(*evidence.size))
    first, second = _two_best(likely)
    top = np.take_along_axis(likely, first[None], 0)[0]
    # Areas to expect: a segment that has lost all its pixels is not without area.
    areas = likely.sum((1, 2)).clip(min=_LEAST_CELLS)
    sigma = max(0.7, _AROUND * diagonal / float(step.mean()))
    wrong, claimant = _largest_claim(likely, first, areas, sigma)
    usual = np.median(areas[evidence.things]) if evidence.things.any() else top.size / 20
    distance = _point_distance(evidence.points, cells, step)
    far = np.minimum(distance / (_FAR * diagonal), 1) ** 2
    hidden = _averaged(far * (1.25 - top), sigma) / np.sqrt(min(usual, top.size / 20))
    hidden *= _COVERAGE
    smooth = wrong + hidden
    apart = _APART * diagonal
    if evidence.void is not None:
        smooth[evidence.void] = 0
    smooth[distance < min(apart / 2, 2 * float(step.max()))] = 0  # a point is there already
    y, x = ((np.arange(n) + 0.5) * s for n, s in zip(cells, step, strict=True))
    found: list[Suggestion] = []
    best = float(smooth.max(initial=0))
    while len(found) < count and best > 0:
        row, column = (int(n) for n in np.unravel_index(int(smooth.argmax()), cells))
        if smooth[row, column] < max(_LEAST * best, 1e-12):
            break
        at = (row, column)
        kind, reason = _explain(
            evidence,
            (int(first[at]), int(claimant[at] if wrong[at] > 0 else second[at])),
            float(top[at]),
            float(distance[at]),
            bool(hidden[at] > wrong[at]),
        )
        px, py = float(x[column]), float(y[row])
        gain = float(smooth[row, column])
        found.append(Suggestion(px, py, reason, kind, int(first[at]), gain))
        smooth[np.hypot((y - py)[:, None], (x - px)[None]) < apart] = 0
    return found


def image_gain(suggestions: Sequence[Suggestion]) -> float:
    """What an image promises: its best place, however many are asked for; 0 without one."""
    return max((s.gain for s in suggestions), default=0.0)


def _largest_claim(
    likely: np.ndarray, first: np.ndarray, areas: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) the largest claim of a segment on what is labelled otherwise, averaged around each
    place, and (h, w) whose it is."""
    most, whose = np.zeros(first.shape), first.copy()
    lost = 0.5 / np.sqrt(areas)[first]
    for n, own in enumerate(likely):
        elsewhere = np.where(first == n, 0.0, own)
        if elsewhere.max(initial=0) < 1e-3:
            continue
        claim = _averaged(elsewhere * (0.5 / np.sqrt(areas[n]) + lost), sigma)
        larger = (claim > most) & (first != n)
        whose[larger] = n
        np.maximum(most, claim, out=most)
    return most, whose


def _averaged(claim: np.ndarray, sigma: float) -> np.ndarray:
    # Beyond the image there is nothing to win.
    return cv2.GaussianBlur(claim, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)


def _two_best(likely: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) index of the likeliest segment, and of the next; the same where there is one."""
    if len(likely) == 1:
        only = np.zeros(likely.shape[1:], np.int64)
        return only, only
    first = likely.argmax(0)
    rest = likely.copy()
    np.put_along_axis(rest, first[None], -1, 0)
    return first, rest.argmax(0)


def _point_distance(points: np.ndarray, cells: tuple[int, ...], step: np.ndarray) -> np.ndarray:
    """(h, w) px from the middle of each cell to the nearest point."""
    y, x = ((np.arange(n) + 0.5) * s for n, s in zip(cells, step, strict=True))
    nearest = np.full(cells, np.inf)
    for px, py in points:
        np.minimum(nearest, (y - py)[:, None] ** 2 + (x - px)[None] ** 2, out=nearest)
    return np.sqrt(nearest)


def _explain(
    evidence: Evidence, segments: tuple[int, int], top: float, distance: float, far: bool
) -> tuple[str, str]:
    first, second = segments
    near = int(distance // 10 * 10)
    if far and near:
        unsure = " and unsure" if top < _UNSURE else ""
        return "coverage", f"no point within {near} px{unsure}"
    one, other = evidence.names[first], evidence.names[second]
    if one != other:
        return "unsure", f"{one} or {other}?"
    if evidence.things[first] and first != second:
        return "boundary", f"two objects ({one}) share this region"
    return "unsure", f"unsure of {one}"

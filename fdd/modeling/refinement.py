"""Boundaries of labels drawn to the colours of the image: from logits at stride 8 to stride 2.

The network's logits come at stride 8, so a boundary that is merely up-sampled lies where the grid
allows it, and what is thinner than a cell melts into its surroundings. Two steps mend that, both of
them local, so that they work for things that share colours with others far away:

1. Colours. Around each pixel, each instance has a mean colour and a variance, weighted by where it
   is likely. The log-likelihood of the pixel's own colour is added to its logits, at most
   ``_CAP`` apart; three times, each with the probabilities of the time before.
2. Edges. A guided filter (He, Sun and Tang, "Guided image filtering", TPAMI 2013) fits each
   instance's probabilities, in windows, by a linear function of colour: single pixels go, edges
   stay.

What comes out may move boundaries, no more: pieces that have nothing in common with their instance
before are given back, and so is the surroundings of a point that would be lost.

Both are sums over square windows, so their cost does not depend on the windows' size. Each instance
is computed inside a rectangle around the pixels where it is likely. Nothing is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from fdd.modeling.label_branch.location_prior import ExtentPrior
from fdd.modeling.label_maps import POINT_STRIDE, resize_maps

__all__ = ["HeldPoints", "refine_maps", "refined_logits", "refined_size"]

# Of the refined maps, in pixels of the network's input.
_STRIDE = 2
# Windows, in pixels of the refined maps to either side. Colours: two passes, together one and a
# half cells to either side. Edges: the least that takes single pixels away; where there are none, a
# wider window blurs, and takes from small things.
_COLOR_RADIUS, _EDGE_RADIUS = 3, 1
_ROUNDS = 3
# Largest difference of two instances' log-likelihoods: colour may overrule odds of e^6, no more.
_CAP = 6.0
# Of each channel of CIELAB, squared units: noise of a camera and of JPEG, added to any variance.
_NOISE = 9.0
# The guided filter's own: edges of a lower contrast than its root are not kept.
_EDGE_NOISE = 10.0
# An instance is computed where it has this probability, or the largest; less weight than the latter
# in a window says nothing of its colours there.
_LIKELY, _WEIGHT = 0.02, 1e-3
# Spread, in refined pixels, of the surroundings of a lost point: half a cell.
_POINT_SPREAD = 2.0
_LEAST = 1e-6  # probability, so that logarithms can be interpolated

_Window = tuple[slice, slice]


def refined_size(image: Tensor) -> tuple[int, int]:
    """Rows and columns of the refined maps of a (3, H, W) image, which they cover exactly."""
    return -(-image.shape[1] // _STRIDE), -(-image.shape[2] // _STRIDE)


@dataclass(frozen=True)
class HeldPoints:
    """Points that a refined label has to hold where the label before did.

    Attributes:
        place: (P, 2) float (x, y) in pixels of the image, from the corner of the first one.
        instance: (P,) int64.
    """

    place: Tensor
    instance: Tensor


@torch.no_grad()
def refined_logits(
    logits: Tensor,
    image: Tensor,
    points: HeldPoints | None = None,
    extents: ExtentPrior | None = None,
) -> Tensor:
    """Logits at stride 8 as refined ones at stride 2.

    Args:
        logits: (N, h8, w8) float, of the padded input; any device.
        image: (3, H, W) RGB in [0, 255], the input without padding, H <= 8 h8 and W <= 8 w8.
        points: to be held, if any.
        extents: of the N instances: what of the logits need not be up-sampled.

    Returns:
        (N, ceil(H / 2), ceil(W / 2)) float32 on the CPU, logarithms of probabilities.
    """
    size = refined_size(image)
    if len(logits) < 2:
        return torch.zeros(len(logits), *size)
    down, across = (
        POINT_STRIDE * cells / side for cells, side in zip(size, image.shape[1:], strict=True)
    )
    if extents is not None:
        logits = extents.without(logits)
    maps = resize_maps(logits[None].float().cpu(), size, (down, across))[0]
    if extents is not None:
        maps += extents.on_grid(size, (POINT_STRIDE / down, POINT_STRIDE / across)).cpu()
    return refine_maps(maps, image, points)


@torch.no_grad()
def refine_maps(logits: Tensor, image: Tensor, points: HeldPoints | None = None) -> Tensor:
    """Refine logits that have the resolution already.

    With one instance, or none, there is nothing to decide. An image of one colour leaves straight
    boundaries where they are.

    Args:
        logits: (N, ceil(H / 2), ceil(W / 2)) float32 (or float64) on the CPU.
        image: (3, H, W) RGB in [0, 255].
        points: to be held, if any.

    Returns:
        The same shape and dtype: logarithms of probabilities, at least that of ``1e-6``.
    """
    if len(logits) < 2:
        return torch.zeros_like(logits)
    prior = logits.log_softmax(0).numpy()
    lab = _lab_at_half_size(image).astype(prior.dtype)
    prob = np.exp(prior)
    windows = _windows(prob)
    _add_colors(prior, prob, lab, windows)
    refined = _guided(prob, lab, windows)
    # In place: with hundreds of instances, these are the largest arrays there are.
    np.log(refined.clip(_LEAST, 1.0, out=refined), out=refined)
    prior.clip(np.log(_LEAST), None, out=prior)
    islands = _islands(refined.argmax(0), prior.argmax(0))
    refined[:, islands] = prior[:, islands]
    if points is not None:
        size = image.shape[1:]
        _give_back(refined, prior, points, (size[0] / lab.shape[0], size[1] / lab.shape[1]))
    return torch.from_numpy(refined)


def _lab_at_half_size(image: Tensor) -> np.ndarray:
    """(ceil(H / 2), ceil(W / 2), 3) float32 CIELAB, means of two by two pixels (or a little less,
    so that an odd number is covered exactly)."""
    rgb = np.ascontiguousarray(image.cpu().permute(1, 2, 0).float().numpy()) / 255
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    return cv2.resize(lab, refined_size(image)[::-1], interpolation=cv2.INTER_AREA)


def _windows(prob: np.ndarray) -> list[_Window | None]:
    """Rectangle around where each instance is likely, and what the filters look at beside it."""
    margin = 2 * max(_COLOR_RADIUS, _EDGE_RADIUS)
    found: list[_Window | None] = []
    best = prob.max(0)
    for p in prob:
        here = (p >= _LIKELY) | (p == best)
        rows, columns = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
        if not len(rows):
            found.append(None)
            continue
        found.append(
            (
                slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
                slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
            )
        )
    return found


def _mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over squares of ``2 * radius + 1`` pixels; beyond the border the values are mirrored."""
    side = (2 * radius + 1, 2 * radius + 1)
    return cv2.boxFilter(values, -1, side, borderType=cv2.BORDER_REFLECT)


def _local(values: np.ndarray) -> np.ndarray:
    return _mean(_mean(values, _COLOR_RADIUS), _COLOR_RADIUS)


def _add_colors(
    prior: np.ndarray, prob: np.ndarray, lab: np.ndarray, windows: list[_Window | None]
) -> None:
    """Make the (N, h, w) probabilities in-place those of the logits with the colours'
    log-likelihoods."""
    squared, score = lab * lab, prob
    for _ in range(_ROUNDS):
        for own, window in zip(score, windows, strict=True):
            likelihood = None
            if window is not None:
                likelihood = _log_likelihood(own[window], lab[window], squared[window])
            own[...] = -np.inf
            if likelihood is not None:
                own[window] = likelihood
        best = score.max(0)
        # Where no instance has colours, none has an advantage.
        best[np.isinf(best)] = 0.0
        score -= best
        np.maximum(score, -_CAP, out=score)
        score += prior
        score -= score.max(0)
        np.exp(score, out=score)
        score /= score.sum(0)


def _log_likelihood(prob: np.ndarray, lab: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Log-density of each pixel's colour among the colours of an instance around it; -inf where the
    instance has none."""
    sure = prob * prob
    total = _local(sure)
    known = total > _WEIGHT
    total = np.maximum(total, _WEIGHT)[..., None]
    mean = _local(lab * sure[..., None]) / total
    variance = _local(squared * sure[..., None]) / total - mean * mean
    variance = np.maximum(variance, 0) + _NOISE
    density = -0.5 * ((lab - mean) ** 2 / variance + np.log(variance)).sum(-1)
    return np.where(known, density, -np.inf)


def _guided(prob: np.ndarray, lab: np.ndarray, windows: list[_Window | None]) -> np.ndarray:
    """(N, h, w) probabilities as local linear functions of the colour. They still sum to 1."""
    center = _mean(lab, _EDGE_RADIUS)
    inverse = _inverse_covariance(lab, center)
    out = np.zeros_like(prob)
    for p, own, window in zip(prob, out, windows, strict=True):
        if window is not None:
            own[window] = _fitted(p[window], lab[window], center[window], inverse[window])
    return out


def _inverse_covariance(lab: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(h, w, 9) inverse of the covariance of the colours in each window, row by row."""

    def covariance(i: int, j: int) -> np.ndarray:
        product = _mean(lab[..., i] * lab[..., j], _EDGE_RADIUS)
        return product - center[..., i] * center[..., j] + _EDGE_NOISE * (i == j)

    (a, b, c), (d, e), f = (
        [covariance(0, j) for j in range(3)],
        [covariance(1, j) for j in (1, 2)],
        covariance(2, 2),
    )
    adjugate = [
        *(d * f - e * e, c * e - b * f, b * e - c * d),
        *(c * e - b * f, a * f - c * c, b * c - a * e),
        *(b * e - c * d, b * c - a * e, a * d - b * b),
    ]
    determinant = a * adjugate[0] + b * adjugate[1] + c * adjugate[2]
    return np.stack(adjugate, -1) / determinant[..., None]


def _fitted(
    prob: np.ndarray, lab: np.ndarray, center: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    mean = _mean(prob, _EDGE_RADIUS)
    covariance = _mean(lab * prob[..., None], _EDGE_RADIUS) - center * mean[..., None]
    slope = np.stack([(inverse[..., 3 * i : 3 * i + 3] * covariance).sum(-1) for i in range(3)], -1)
    offset = mean - (slope * center).sum(-1)
    return (_mean(slope, _EDGE_RADIUS) * lab).sum(-1) + _mean(offset, _EDGE_RADIUS)


def _islands(label: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(h, w) bool: pieces (4-connected) of a label without a pixel that had the label before."""
    out = np.zeros(label.shape, dtype=bool)
    changed = label != before
    for n in np.unique(label[changed]):
        rows, columns = (np.flatnonzero((label == n).any(axis)) for axis in (1, 0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        here = label[window] == n
        count, pieces = cv2.connectedComponents(here.astype(np.uint8), connectivity=4)
        kept = np.zeros(count, dtype=bool)
        kept[pieces[here & ~changed[window]]] = True
        out[window] |= here & ~kept[pieces]
    return out


def _give_back(
    refined: np.ndarray, prior: np.ndarray, points: HeldPoints, pixel: tuple[float, float]
) -> None:
    """Fade in-place to the logits before around points that only these hold. ``pixel``: pixels of
    the image a pixel of the maps, (y, x)."""
    height, width = refined.shape[1:]
    place = points.place.double().cpu().numpy() / (pixel[1], pixel[0])
    column, row = place.T.astype(int).clip(0, [[width - 1], [height - 1]])
    owner = points.instance.cpu().numpy()
    lost = refined[:, row, column].argmax(0) != owner
    lost &= prior[:, row, column].argmax(0) == owner
    if not lost.any():
        return
    fade = np.zeros((height, width), dtype=refined.dtype)
    reach = int(4 * _POINT_SPREAD)
    for y, x in zip(row[lost], column[lost], strict=True):
        rows, columns = (
            np.arange(max(0, at - reach), min(side, at + reach + 1))
            for at, side in ((y, height), (x, width))
        )
        away = (rows[:, None] - y) ** 2 + (columns - x) ** 2
        part = fade[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.maximum(part, np.exp(-away / (2 * _POINT_SPREAD**2)), out=part)
    near = fade > 0
    refined[:, near] += fade[near] * (prior[:, near] - refined[:, near])

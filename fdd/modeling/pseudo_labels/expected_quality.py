"""The quality that a label can be expected to have, estimated without masks. Ours, not the paper's.

Where every segment has points, the PQ of a class in an image is the mean over its segments of

    q_n = IoU_n if IoU_n > 0.5, else 0.

E[q_n] is estimated by a logistic model of two signs, neither of which looks at a mask:

- *steadiness*: the label is made again from as many points, moved to other places of the segment. A
  segment that shows an object stays; one that is drawn by the distance to its points follows them.
- *size*: points are a sample of the mask, and what they are spread over is about as large as it. A
  label that is larger takes in what is not its own.

And it is bounded by a third: the share of a mask that the label covers is about that of the points
that are found by the label made without them, and no IoU is above it. So a label that is steady,
but ignores its points, is not believed.

Everything is taken of the label that a user gets, which obeys its points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels
from fdd.modeling.pseudo_labels.leave_one_out import without_points
from fdd.modeling.structures import PointBatch, batch_points
from fdd.points.raster import num_valid_cells

__all__ = [
    "CALIBRATION",
    "LabelEvidence",
    "evidence_features",
    "expected_quality",
    "gather_evidence",
]

#: The network's logits for points of images that it has encoded, with the residual of the clicks
#: where labels have it; None where only rules make labels.
ObeyingEstimate = Callable[[PointBatch], BranchOutput | None]

# Labels are compared at this stride, in input pixels: half the cells of the network.
_STRIDE = 4
# Places along a segment's own pixels to which points are moved, in two draws.
_MOVED = (0.25, 0.75)


#: Constant, and weights of :func:`evidence_features`: what ``tools/fit_label_score.py fit`` gives
#: for records of all sets of the table in docs/labels.md together.
CALIBRATION = (2.23, 6.94, -1.58, 0.13)
# With fewer points than this their spread says too little of the size of a mask.
_SPREAD_POINTS = 4
# Less than this counts as this: its logarithm stays finite.
_LEAST = 0.02


@dataclass(frozen=True)
class LabelEvidence:
    """What is known of the N segments of an image's label without masks; arrays (N,).

    Attributes:
        points: int64, its points.
        area: float64, its pixels at stride 4.
        spread: float64, the area that its points are spread over, in the same unit: that of the
            ellipse over which evenly drawn points have the same covariance.
        moved: float64 in [0, 1], mean IoU with its labels from points at other places of it.
        recall: float64 in [0, 1], of the points of its class in the image, those that lie on the
            label of their segment made without them; a lone point, on the label that need not
            obey it.
    """

    points: np.ndarray
    area: np.ndarray
    spread: np.ndarray
    moved: np.ndarray
    recall: np.ndarray


def expected_quality(
    evidence: LabelEvidence, calibration: Sequence[float] = CALIBRATION
) -> np.ndarray:
    """E[q_n] of each segment, float64 (N,) in [0, 1]; 0 for one without a pixel."""
    constant, *weights = calibration
    share = 1 / (1 + np.exp(-constant - evidence_features(evidence) @ np.asarray(weights)))
    return np.where(evidence.area > 0, np.minimum(share, evidence.recall), 0.0)


def evidence_features(evidence: LabelEvidence) -> np.ndarray:
    """(N, 3) float64: the logarithm of ``moved``; that of ``area`` over ``spread``, 0 where the
    label is smaller or the size unknown; and 1 where it is unknown, with too few points."""
    unknown = evidence.points < _SPREAD_POINTS
    excess = np.log(evidence.area.clip(1) / evidence.spread).clip(min=0)
    moved = np.log(evidence.moved.clip(_LEAST))
    return np.stack([moved, np.where(unknown, 0, excess), unknown], 1)


@torch.no_grad()
def gather_evidence(
    x: dict[str, Any],
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
    output: BranchOutput | None,
    estimate: ObeyingEstimate,
    settings: LabelSettings,
    device: torch.device,
) -> LabelEvidence:
    """Make the label of one image four times more, and compare; the encoder does not run again.

    Args:
        x: mapper output.
        image_size: (H, W) of the un-padded input. padded_size: likewise padded.
        output: what ``estimate`` gives for all points.
        estimate: of one row for each set of points.
        settings: of the label.
    """
    index, count = x["point_index"].numpy(), len(x["classes"])
    points = np.bincount(index, minlength=count)
    grid = tuple(num_valid_cells(side, _STRIDE) for side in image_size)
    settings = replace(settings, stride=_STRIDE)

    def labels_of(
        variants: list[dict[str, Any]], how: LabelSettings, made: BranchOutput | None = None
    ) -> Tensor:
        batch, sizes = batch_points(variants, padded_size, device), [image_size] * len(variants)
        made = estimate(batch) if made is None else made
        if made is not None and how.clicks is None:
            made = replace(made, residual=None)
        labels, _ = dense_labels(made, batch, sizes, padded_size, how)
        return labels[:, : grid[0], : grid[1]].cpu()

    if not count:
        none = np.zeros(0)
        return LabelEvidence(points, none, none, none, none)
    label = labels_of([x], settings, output)[0]
    free = labels_of([x], settings.free(), output)[0]
    halves = _halves(index, points)
    variants = [without_points(x, half, settings) for half in halves]
    variants += [_move_points(x, label, place, image_size, settings) for place in _MOVED]
    others = labels_of(variants, settings)
    column, row = _pixels(x, grid).T
    found = free[row, column].numpy() == index
    for other, half in zip(others, halves, strict=False):
        found[half] = other[row[half], column[half]].numpy() == index[half]
    return LabelEvidence(
        points=points,
        area=torch.bincount(label.flatten() + 1, minlength=count + 1)[1:].double().numpy(),
        spread=_spread(x["point_coords"].double().numpy() / _STRIDE, index, count),
        moved=np.mean([_ious(label, other, count) for other in others[2:]], 0),
        recall=_class_recall(found, index, x["classes"].numpy()),
    )


def _halves(index: np.ndarray, points: np.ndarray) -> list[np.ndarray]:
    """Bool (P,) twice: every other point of each instance, and the rest; lone points in neither."""
    rank = np.zeros(len(index), dtype=np.int64)
    order = np.argsort(index, kind="stable")
    rank[order] = np.arange(len(index)) - np.repeat(np.cumsum(points) - points, points)
    several = points[index] > 1
    return [several & (rank % 2 == turn) for turn in (0, 1)]


def _pixels(x: dict[str, Any], grid: tuple[int, ...]) -> np.ndarray:
    """(P, 2) int64 (x, y) of the points on the grid of the labels."""
    pixel = (x["point_coords"].float() / _STRIDE).floor().long().numpy()
    return np.clip(pixel, 0, [grid[1] - 1, grid[0] - 1])


def _move_points(
    x: dict[str, Any],
    label: Tensor,
    place: float,
    image_size: tuple[int, int],
    settings: LabelSettings,
) -> dict[str, Any]:
    """The input with every segment's points at other places of its label, evenly along its pixels.

    One without a pixel keeps its points.

    Args:
        place: in [0, 1), between one point's pixel and the next one's.
    """
    index, flat = x["point_index"].numpy(), label.flatten().numpy()
    coords = x["point_coords"].clone()
    pixels = np.argsort(flat, kind="stable")
    ends = np.searchsorted(flat[pixels], np.arange(len(x["classes"]) + 1))
    for instance in np.unique(index).tolist():
        own, (start, end) = np.flatnonzero(index == instance), ends[instance : instance + 2]
        if end > start:
            steps = (np.arange(len(own)) + place) / len(own)
            rows, columns = np.divmod(
                pixels[start + (steps * (end - start)).astype(np.int64)], label.shape[1]
            )
            centres = (np.stack([columns, rows], 1) + 0.5) * _STRIDE
            coords[own] = torch.from_numpy(centres).to(coords)
    # The last cell may reach beyond the image.
    limit = torch.tensor([image_size[1], image_size[0]], dtype=coords.dtype) - 0.01
    moved = x | {"point_coords": torch.minimum(coords, limit)}
    return without_points(moved, np.zeros(len(index), dtype=bool), settings)


def _ious(first: Tensor, second: Tensor, count: int) -> np.ndarray:
    """(N,) IoU of each instance in two label maps of one shape; 0 where it is in neither."""
    pair = (first.flatten() + 1) * (count + 1) + second.flatten() + 1
    table = torch.bincount(pair, minlength=(count + 1) ** 2).view(count + 1, count + 1).double()
    common = table.diagonal()
    union = table.sum(0) + table.sum(1) - common
    return (common / union.clamp(min=1))[1:].numpy()


def _spread(coords: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """(N,) area of the ellipse whose evenly drawn points have the covariance of each instance's.

    Points (P, 2) are in pixels of the label, and the variance of a pixel is added: no mask is less
    than one wide.
    """
    area = np.full(count, np.pi / 3)
    for instance in range(count):
        own = coords[index == instance]
        if len(own) > 1:
            area[instance] = 4 * np.pi * np.sqrt(np.linalg.det(np.cov(own.T) + np.eye(2) / 12))
    return area


def _class_recall(found: np.ndarray, index: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N,) share of the points of each instance's class that are found, (P,) bool."""
    share = np.zeros(len(classes))
    for label in np.unique(classes).tolist():
        share[classes == label] = found[classes[index] == label].mean()
    return share

"""Quality of the learned labels during training, measured without masks."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import POINT_STRIDE, own_cells, valid_cells
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels
from fdd.modeling.pseudo_labels.leave_one_out import (
    LEFT_OUT_STRIDE,
    Estimate,
    left_out_turn,
    nearest_finds,
    points_found,
    without_points,
)
from fdd.modeling.pseudo_labels.quality import instance_quality
from fdd.modeling.structures import PointBatch, batch_points

logger = logging.getLogger(__name__)

# The host waits for the device once in so many iterations: enough to see a trend.
_PERIOD = 20
# One batch holds few instances: the warning looks at so many batches, and wants so many instances.
_WINDOW, _MIN_INSTANCES = 10, 20
_WARN_PERIOD = 1000
_WARNING = """\
Pseudo labels: at iteration %d, %.0f of the %.0f labelled segments in the last %d batches that \
were looked at (%.0f %%) have no cell in the estimated label, points not forced. Of these the \
panoptic branch sees their points' own cells at most. What helps depends on the other scalars:
- loss_pse_point still falling: train longer; small segments come last.
- loss_pse_point flat or jumping: lower SOLVER.BASE_LR, to a third first.
- labels/swallowing high or rising: few segments take everything. Lower \
MODEL.FDD.PSEUDO.COLOR_WEIGHT (now %g), which joins what has one colour, or lower SOLVER.BASE_LR.
- else: more points a segment, first for the classes that `train_net.py --eval-label-quality` \
lists as empty; or larger images (INPUT.MIN_SIZE_TRAIN) where segments are smaller than some \
cells of %d px.%s"""
_MIN_PROB = """
- MODEL.FDD.PSEUDO.LABEL_MIN_PROB is %g: cells below it have no label. Lower it."""

# The nearest point finds left-out ones well, since points of a segment lie together, though its
# labels are far worse than that: it has to lead by this much before a warning.
_LEAD, _MIN_LEFT_OUT = 0.1, 40
_BEHIND = """\
Pseudo labels: at iteration %d, of the %.0f points that were left out of the queries in the last \
batches that were looked at, the learned labels give %.0f %% to their segment, and the rule \
"nearest point" gives %.0f %%. So far the labels are worse than that rule. What helps depends on \
the other scalars:
- loss_pse_point still falling: train longer (SOLVER.MAX_ITER), or raise SOLVER.BASE_LR.
- labels/swallowing high or rising: lower MODEL.FDD.PSEUDO.COLOR_WEIGHT (now %g).
- labels/points_right low: the segments of a class are not parted. Set \
MODEL.FDD.LOCATION_PRIOR.ENABLED to True, and start from a trained backbone (`fdd init-config \
--network reduced`, or resnet50).
- things narrower than four cells of %d px: larger images (INPUT.MIN_SIZE_TRAIN)."""

#: Numerator and denominator of a share, 0-d tensors.
Pair = tuple[Tensor, Tensor]


class LabelDiagnostics:
    """Scalars ``labels/...`` every 20 iterations, and a warning when many instances are empty.

    All are of this process's batch, in [0, 1], of the last layer's argmax at stride 8 before points
    are obeyed, unless said otherwise:

    * ``points_right``: labelled cells whose label is the point's instance;
    * ``confidence``: mean probability of the label over the image;
    * ``instance_confidence``: mean over the instances that have a cell of their mean probability;
    * ``empty_instances``: instances without a cell;
    * ``empty_things``: things without a pixel in the targets, which obey their points (none where
      the targets are points alone);
    * ``swallowing``: labelled images that one instance dominates, see
      :class:`fdd.modeling.pseudo_labels.quality.InstanceQuality`;
    * ``points_lost``: points whose own cell is another instance's even with the residual of the
      clicks, where there is one; these take the nearest pixels of their cell;
    * ``left_out``: of one point of each instance with several, left out in a second pass of query
      generator and label branch, those whose cell still gets their instance;
    * ``left_out_nearest``: of the same points, those whose nearest remaining point is of their
      instance: the result of the rule "nearest".
    """

    def __init__(
        self,
        num_things: int,
        settings: LabelSettings,
        warmup_iters: int,
        color_weight: float,
        *,
        compare_from: int = 0,
        warn_share: float = 1 / 3,
        warn_period: int = _WARN_PERIOD,
    ):
        """
        Args:
            warmup_iters: earlier labels are not warned about.
            color_weight: of the colour prior, for the warnings' texts.
            compare_from: iteration from which labels that find fewer left-out points than the
                nearest point does are warned about; early ones always do.
            warn_share: warn where a larger share of the instances is empty.
            warn_period: iterations between two warnings at least.
        """
        self.num_things, self.settings = num_things, settings
        self.warmup_iters, self.color_weight = warmup_iters, color_weight
        self.compare_from = max(compare_from, warmup_iters)
        self.warn_share, self.warn_period = warn_share, warn_period
        self._window: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._left_out_window: deque[tuple[float, float, float]] = deque(maxlen=_WINDOW)
        self._warned_at: int | None = None
        self._compared_at: int | None = None

    @torch.no_grad()
    def log(
        self,
        batched_inputs: list[dict[str, Any]],
        output: BranchOutput | None,
        points: PointBatch,
        thing_targets: Tensor,
        images: ImageList,
        estimate: Estimate,
    ) -> None:
        """Put the scalars of a training step into the event storage, if they are due.

        Args:
            batched_inputs: mapper outputs.
            output: of the label branch, from ``points``.
            thing_targets: (B, N) bool, things that have a pixel in the targets.
            images: the padded batch; only its sizes are used.
            estimate: the same network's output for other points of the same images.
        """
        storage = get_event_storage()
        due = storage.iter % _PERIOD == 0 and any(points.counts)
        if output is None or not output.instance or not due:
            return
        sums = _sums(
            output,
            points,
            thing_targets,
            images.image_sizes,
            self.num_things,
            self.settings.min_prob,
        )
        turn = storage.iter // _PERIOD
        left = [left_out_turn(x["point_index"].numpy(), turn) for x in batched_inputs]
        sums |= self._left_out(batched_inputs, images, left, estimate)
        # The only wait for the device.
        host = (
            torch.stack([x.double() for pair in sums.values() for x in pair]).view(-1, 2).tolist()
        )
        read = {name: (value, count) for name, (value, count) in zip(sums, host, strict=True)}
        for name, (value, count) in read.items():
            if count > 0:
                storage.put_scalar(f"labels/{name}", value / count)
        self._watch(storage.iter, *read["empty_instances"])
        if "left_out" in read:
            found, count = read["left_out"]
            pairs = zip(batched_inputs, left, strict=True)
            nearest = float(sum(nearest_finds(x, mask).sum() for x, mask in pairs))
            storage.put_scalar("labels/left_out_nearest", nearest / count)
            # An extent by fewer points is smaller, so that a left-out point near the border is
            # often beyond it, and nearest to a point of its own thing all the same.
            if output.extents is None:
                self._compare(storage.iter, found, count, nearest)

    def _left_out(
        self,
        inputs: list[dict[str, Any]],
        images: ImageList,
        left: list[np.ndarray],
        estimate: Estimate,
    ) -> dict[str, Pair]:
        """The pass with a point left out; none where every instance has a single point."""
        if not any(mask.any() for mask in left):
            return {}
        fewer = [without_points(x, m, self.settings) for x, m in zip(inputs, left, strict=True)]
        padded = tuple(images.tensor.shape[-2:])
        points = batch_points(fewer, padded, images.tensor.device)
        free = replace(self.settings.free(), maker="learned", stride=LEFT_OUT_STRIDE, min_prob=0.0)
        labels, _ = dense_labels(estimate(points), points, images.image_sizes, padded, free)
        found = points_found(labels, inputs, left, images.image_sizes)
        return {"left_out": (found.sum(), torch.ones_like(found).sum())}

    def _compare(self, iteration: int, found: float, count: float, nearest: float) -> None:
        """Warn, now and then, when the nearest point finds clearly more of the left-out points."""
        if iteration < self.compare_from:
            return
        self._left_out_window.append((found, count, nearest))
        found, count, nearest = (sum(c) for c in zip(*self._left_out_window, strict=True))
        lately = self._compared_at is not None and iteration - self._compared_at < self.warn_period
        if lately or count < _MIN_LEFT_OUT or nearest - found <= _LEAD * count:
            return
        self._compared_at = iteration
        shares = (100 * found / count, 100 * nearest / count)
        logger.warning(_BEHIND, iteration, count, *shares, self.color_weight, POINT_STRIDE)

    def _watch(self, iteration: int, empty: float, count: float) -> None:
        """Warn when too many instances of the last batches are empty, now and then."""
        if iteration < self.warmup_iters:
            return
        self._window.append((empty, count))
        empty, count = (sum(column) for column in zip(*self._window, strict=True))
        lately = self._warned_at is not None and iteration - self._warned_at < self.warn_period
        if lately or count < _MIN_INSTANCES or empty <= self.warn_share * count:
            return
        self._warned_at = iteration
        min_prob = self.settings.min_prob
        logger.warning(
            _WARNING,
            iteration,
            empty,
            count,
            len(self._window),
            100 * empty / count,
            self.color_weight,
            POINT_STRIDE,
            _MIN_PROB % min_prob if min_prob > 0 else "",
        )


def _sums(
    output: BranchOutput,
    points: PointBatch,
    thing_targets: Tensor,
    image_sizes: list[tuple[int, int]],
    num_things: int,
    min_prob: float,
) -> dict[str, Pair]:
    """Numerator and denominator of every scalar but ``left_out``."""
    prob, argmax = output.instance[-1].float().softmax(1).max(1)
    grid = argmax.shape[1], argmax.shape[2]
    inside = valid_cells(image_sizes, POINT_STRIDE, grid, argmax.device)
    labelled = points.labelled
    inside = inside & labelled[:, None, None]
    labels = argmax.masked_fill(~inside | (prob < min_prob), -1)
    quality = instance_quality(
        labels,
        points.classes,
        points.instance_cells,
        num_things=num_things,
        prob=prob,
        valid=inside,
    )
    real = points.classes >= 0
    things = real & (points.classes < num_things)
    there = quality.area > 0
    lost: dict[str, Pair] = {}
    if output.residual is not None:
        obeying = (output.instance[-1] + output.residual).argmax(1)
        cell = own_cells(points.point_image, points.coords, image_sizes, grid[1], grid[0])
        miss = obeying.flatten()[cell] != points.point_instance
        lost["points_lost"] = (miss.sum(), torch.ones_like(miss).sum())
    return lost | {
        "points_right": (quality.points_held.sum(), quality.points.sum()),
        "confidence": (prob.masked_fill(~inside, 0).sum(), inside.sum()),
        "instance_confidence": (quality.confidence.masked_fill(~there, 0).sum(), there.sum()),
        "empty_instances": (quality.empty.sum(), real.sum()),
        "empty_things": ((things & ~thing_targets).sum(), things.sum()),
        "swallowing": (quality.swallowing.any(1).sum(), labelled.sum()),
    }

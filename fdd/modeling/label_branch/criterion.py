"""Losses of the pseudo label branch and the auxiliary semantic branch (paper Eq. 7 and 9), and what
is ours beside them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from fdd.modeling.device import no_autocast
from fdd.modeling.extents import fit_extents
from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import POINT_STRIDE, force_points, valid_cells
from fdd.modeling.losses.color_prior import color_affinity, color_prior_loss, rgb_to_lab
from fdd.modeling.losses.cross_entropy import (
    LabelledCells,
    class_agreement_loss,
    class_distribution,
    partial_cross_entropy,
    present_classes,
    self_training_ce,
)
from fdd.modeling.losses.exclusion import exclusion_loss
from fdd.modeling.structures import PointBatch, StepContext

# Where the warm-up of the colour prior begins, as a share of its weight.
_COLOR_START = 0.1


class LabelCriterion:
    """L_pse + lambda_sem L_sem, summed over the supervised layers."""

    @configurable
    def __init__(
        self,
        *,
        num_things: int = 0,
        lambda_sem: float = 1.0,
        self_train_pse: bool = True,
        self_train_sem: bool = False,
        self_train_weight: float = 1.0,
        color_pse: bool = True,
        color_sem: bool = True,
        color_weight: float = 3.0,
        color_kernel: int = 5,
        color_dilation: int = 2,
        color_threshold: float = 0.3,
        color_warmup: int = 0,
        outside_weight: float = 4.0,
        class_agreement: float = 0.0,
        force_points: bool = False,
    ):
        """
        Args:
            num_things: classes below it are things.
            lambda_sem: weight of the semantic branch's losses (Eq. 10).
            self_train_pse, self_train_sem, color_pse, color_sem: which terms there are (Table 5).
            color_warmup: iterations until the colour prior has its full weight, from a tenth of it.
            outside_weight: of the losses by which things do not reach beyond their extents, where
                the location prior has them.
            class_agreement: weight of
                :func:`fdd.modeling.losses.class_agreement_loss` against the
                semantic branch's last layer, where both branches run; times ``lambda_sem``.
            force_points: in M^pse, labelled points win in their own cell.
        """
        self.num_things, self.lambda_sem = num_things, lambda_sem
        self.self_train_pse, self.self_train_sem = self_train_pse, self_train_sem
        self.self_train_weight = self_train_weight
        self.color_pse, self.color_sem, self.color_weight = color_pse, color_sem, color_weight
        self.color_kernel, self.color_dilation = color_kernel, color_dilation
        self.color_threshold, self.color_warmup = color_threshold, color_warmup
        self.outside_weight = outside_weight
        self.class_agreement, self.force_points = class_agreement, force_points

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        fdd = cfg.MODEL.FDD
        return {
            "num_things": fdd.NUM_THINGS,
            "lambda_sem": fdd.LAMBDA_SEM,
            "self_train_pse": fdd.SELF_TRAIN_PSE,
            "self_train_sem": fdd.SELF_TRAIN_SEM,
            "self_train_weight": fdd.PSEUDO.SELF_TRAIN_WEIGHT,
            "color_pse": fdd.COLOR_PSE,
            "color_sem": fdd.COLOR_SEM,
            "color_weight": fdd.PSEUDO.COLOR_WEIGHT,
            "color_kernel": fdd.PSEUDO.COLOR_KERNEL,
            "color_dilation": fdd.PSEUDO.COLOR_DILATION,
            "color_threshold": fdd.PSEUDO.COLOR_THRESHOLD,
            "color_warmup": fdd.PSEUDO.COLOR_WARMUP,
            "outside_weight": fdd.LOCATION_PRIOR.OUTSIDE_WEIGHT,
            "class_agreement": fdd.PSEUDO.CLASS_AGREEMENT,
            "force_points": fdd.PSEUDO.FORCE_POINTS,
        }

    def __call__(self, output: BranchOutput | None, step: StepContext) -> dict[str, Tensor]:
        """Weighted scalars by name; none where neither branch runs."""
        if output is None or not (output.instance or output.semantic):
            return {}
        device, grid = step.rgb.device, (step.rgb.shape[2], step.rgb.shape[3])
        with no_autocast(device):
            inside = valid_cells(step.image_sizes, POINT_STRIDE, grid, device)
            keep = inside & step.points.labelled[:, None, None]
            if (void := step.points.void_at(POINT_STRIDE)) is not None:
                keep = keep & ~void
            # Once a step, for all layers and both branches.
            affinity = color_affinity(
                rgb_to_lab(step.rgb / 255.0),
                keep,
                self.color_kernel,
                self.color_dilation,
                self.color_threshold,
            )
            losses = self.instance_losses(output, affinity, keep, step)
            losses |= self.semantic_losses(output, affinity, keep, step)
            if output.extents is not None and self.outside_weight > 0:
                outside = outside_cells(step.points, keep, self.num_things)
                losses |= self.outside_losses(output, outside, step)
            return losses

    def instance_losses(
        self, output: BranchOutput, affinity: Tensor, keep: Tensor, step: StepContext
    ) -> dict[str, Tensor]:
        """L_pse: partial cross-entropy (Eq. 3), colour prior (Eq. 4), self-training (Eq. 6).

        Args:
            affinity: (B, offsets, h, w) bool, of :func:`color_affinity`.
            keep: (B, h, w) bool, cells inside a labelled image that are not void.
        """
        if not output.instance:
            return {}
        logits, counts = output.instance, step.counts
        cells = step.points.instance_cells
        losses = {"loss_pse_point": _points(logits, cells, counts["instance_cells"])}
        if self.color_pse:
            color = self._color(logits, affinity, counts)
            losses["loss_pse_color"] = self.color_weight_at(step.iteration) * color
        if self.self_train_pse:
            labels = self._instance_labels(output, keep, step)
            weight = self.self_train_weight * step.warmup
            losses["loss_pse_self"] = weight * _self_training(logits, labels, counts["valid_cells"])
        if self.class_agreement > 0 and output.semantic:
            classes, count = step.points.classes, counts["valid_cells"]
            with torch.no_grad():
                target = class_distribution(output.semantic[-1], classes)
            # The weight grows as the semantic branch learns.
            weight = self.lambda_sem * self.class_agreement * step.warmup
            losses["loss_pse_class"] = weight * _sum(
                class_agreement_loss(z, classes, target, keep, count) for z in logits
            )
        return losses

    def semantic_losses(
        self, output: BranchOutput, affinity: Tensor, keep: Tensor, step: StepContext
    ) -> dict[str, Tensor]:
        """lambda_sem L_sem: partial cross-entropy (Eq. 8), colour prior, and self-training where it
        is asked for; arguments as for :meth:`instance_losses`."""
        if not output.semantic:
            return {}
        logits, counts = output.semantic, step.counts
        points = _points(logits, step.points.semantic_cells, counts["semantic_cells"])
        losses = {"loss_sem_point": self.lambda_sem * points}
        if self.color_sem:
            weight = self.lambda_sem * self.color_weight_at(step.iteration)
            losses["loss_sem_color"] = weight * self._color(logits, affinity, counts)
        if self.self_train_sem:
            with torch.no_grad():
                labels = present_argmax(logits[-1], step.points.classes, keep)
            weight = self.lambda_sem * self.self_train_weight * step.warmup
            losses["loss_sem_self"] = weight * _self_training(logits, labels, counts["valid_cells"])
        return losses

    def outside_losses(
        self, output: BranchOutput, outside: Tensor, step: StepContext
    ) -> dict[str, Tensor]:
        """No thing, and no class of things, where the extents of its points do not reach.

        Points say where things are, and every thing has some; without this nothing says where they
        end.

        Args:
            outside: (B, N, h, w) bool, of :func:`outside_cells`.
        """
        count, weight = step.counts["valid_cells"], self.outside_weight
        found = _sum(exclusion_loss(z, outside, count) for z in output.instance)
        losses = {"loss_pse_outside": weight * found}
        if output.semantic:
            absent = _outside_classes(outside, step.points.classes, output.semantic[-1].shape[1])
            found = _sum(exclusion_loss(z, absent, count) for z in output.semantic)
            losses["loss_sem_outside"] = self.lambda_sem * weight * found
        return losses

    def color_weight_at(self, iteration: int) -> float:
        """Weight of the colour prior in an iteration.

        Along "the same distribution in every cell", point loss and prior together have a positive
        curvature only while the prior's weight is below a half: with more from the start, "one
        instance everywhere" attracts before the points have parted the instances.
        """
        if iteration >= self.color_warmup:
            return self.color_weight
        share = _COLOR_START + (1 - _COLOR_START) * iteration / self.color_warmup
        return share * self.color_weight

    def _color(self, logits: list[Tensor], affinity: Tensor, counts: dict[str, Tensor]) -> Tensor:
        return color_prior_loss(
            logits,
            affinity,
            counts["images"],
            kernel=self.color_kernel,
            dilation=self.color_dilation,
        )

    @torch.no_grad()
    def _instance_labels(self, output: BranchOutput, keep: Tensor, step: StepContext) -> Tensor:
        """M^pse at stride 8: argmax of the last layer (with the residual of the clicks, if there is
        one), -1 off ``keep``."""
        logits = output.instance[-1].detach()
        logits = logits if output.residual is None else logits + output.residual
        labels = logits.argmax(1).masked_fill(~keep, -1)
        if not self.force_points:
            return labels
        points = step.points
        image, instance = points.point_image, points.point_instance
        return force_points(labels, image, instance, points.coords, POINT_STRIDE, step.image_sizes)


def _points(logits: list[Tensor], cells: LabelledCells, count: Tensor) -> Tensor:
    return _sum(partial_cross_entropy(z, cells, count) for z in logits)


def _self_training(logits: list[Tensor], labels: Tensor, count: Tensor) -> Tensor:
    return _sum(self_training_ce(z, labels, count) for z in logits)


@torch.no_grad()
def outside_cells(points: PointBatch, keep: Tensor, num_things: int) -> Tensor:
    """(B, N, h, w) bool: stride-8 cells whose centre a thing does not reach, by the extent of all
    its points; but for the cells that its point loss looks at.

    Args:
        points: of the batch.
        keep: (B, h, w) bool, cells to look at.
        num_things: classes below it are things.
    """
    classes, cells = points.classes, points.instance_cells
    y, x = ((torch.arange(n, device=keep.device) + 0.5) * POINT_STRIDE for n in keep.shape[1:])
    extents = fit_extents(points.host_points, classes.shape[1], keep.device)
    outside = extents.outside(x[None], y[:, None])
    outside &= ((classes >= 0) & (classes < num_things))[..., None, None] & keep[:, None]
    outside[cells.image, cells.label, cells.row, cells.column] = False
    return outside


def _outside_classes(outside: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """(B, C, h, w) bool: where all instances of a class are outside; of a class without, nowhere.

    Args:
        outside: (B, N, h, w) bool. classes: (B, N) int64, -1 where padded.
    """
    member = F.one_hot(classes.clamp(min=0), num_classes) * (classes >= 0)[..., None]
    number = member.sum(1)[..., None, None]
    away = torch.einsum("bnc,bnhw->bchw", member.float(), outside.float())
    return (away > number - 0.5) & (number > 0)


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, losses)


def present_argmax(logits: Tensor, classes: Tensor, keep: Tensor) -> Tensor:
    """M^sem: argmax over the classes that are labelled in the image (Table 5), -1 off ``keep``."""
    absent = ~present_classes(classes, logits.shape[1])[:, :, None, None]
    return logits.masked_fill(absent, -torch.inf).argmax(1).masked_fill(~keep, -1)

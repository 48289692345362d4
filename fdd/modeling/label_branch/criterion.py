"""Losses of the pseudo label branch and the auxiliary semantic branch (paper Eq. 7, 9 and 10), and
what is ours beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import POINT_STRIDE, force_points, valid_cells
from fdd.modeling.losses.class_agreement import (
    class_agreement_loss,
    class_distribution,
    present_classes,
)
from fdd.modeling.losses.color_prior import color_affinity, color_prior_loss, rgb_to_lab
from fdd.modeling.losses.partial_ce import LabelledCells, partial_cross_entropy
from fdd.modeling.losses.self_training import self_training_ce
from fdd.modeling.structures import PointBatch

# Where the warm-up of the colour prior begins, as a share of its weight.
_COLOR_START = 0.1


@dataclass(frozen=True)
class PseudoLossSettings:
    """Weights and switches (``MODEL.FDD``, ``MODEL.FDD.PSEUDO`` and ``MODEL.FDD.DISTANCE``).

    ``color_warmup``: iterations until the colour prior has its full weight, from a tenth of it.
    ``class_agreement``: weight of :func:`fdd.modeling.losses.class_agreement.class_agreement_loss`
    against the semantic branch's last layer, where both branches run; times ``lambda_sem``.
    """

    lambda_sem: float = 1.0
    self_train_pse: bool = True
    self_train_sem: bool = False
    self_train_weight: float = 1.0
    color_pse: bool = True
    color_sem: bool = True
    color_weight: float = 3.0
    color_kernel: int = 5
    color_dilation: int = 2
    color_threshold: float = 0.3
    color_warmup: int = 0
    class_agreement: float = 0.0
    embedding_weight: float = 1.0

    def at(self, iteration: int) -> PseudoLossSettings:
        """The settings with the colour prior's weight of an iteration.

        Along "the same distribution in every cell", point loss and prior together have a positive
        curvature only while the prior's weight is below a half: with more from the start, "one
        instance everywhere" attracts before the points have parted the instances.
        """
        if iteration >= self.color_warmup:
            return self
        share = _COLOR_START + (1 - _COLOR_START) * iteration / self.color_warmup
        return replace(self, color_weight=share * self.color_weight)


def image_affinity(rgb: Tensor, keep: Tensor, settings: PseudoLossSettings) -> Tensor:
    """Colour affinity at stride 8, once a step for all layers and both branches.

    Args:
        rgb: (B, 3, h, w) images at stride 8, RGB in [0, 255].
        keep: (B, h, w) bool, cells inside a labelled image.

    Returns:
        (B, offsets, h, w) bool.
    """
    return color_affinity(
        rgb_to_lab(rgb / 255.0),
        keep,
        settings.color_kernel,
        settings.color_dilation,
        settings.color_threshold,
    )


def present_argmax(logits: Tensor, classes: Tensor, keep: Tensor) -> Tensor:
    """M^sem: argmax over the classes that are labelled in the image (Table 5), -1 off ``keep``."""
    absent = ~present_classes(classes, logits.shape[1])[:, :, None, None]
    return logits.masked_fill(absent, -torch.inf).argmax(1).masked_fill(~keep, -1)


def branch_losses(
    output: BranchOutput,
    points: PointBatch,
    rgb: Tensor,
    image_sizes: list[tuple[int, int]],
    counts: dict[str, Tensor],
    warmup: float,
    settings: PseudoLossSettings,
    force_points: bool,
) -> dict[str, Tensor]:
    """Losses of the branches that run; see :func:`pseudo_label_losses`.

    Args:
        rgb: (B, 3, h, w) images at stride 8, RGB in [0, 255].
        image_sizes: un-padded (H, W) of each image.
        force_points: labelled points win in their own cell of M^pse.
    """
    inside = valid_cells(image_sizes, POINT_STRIDE, (rgb.shape[2], rgb.shape[3]), rgb.device)
    keep = inside & points.labelled[:, None, None]
    affinity = image_affinity(rgb, keep, settings)
    labels = self_training_labels(output, points, keep, image_sizes, force_points)
    return pseudo_label_losses(output, points, labels, affinity, keep, counts, warmup, settings)


@torch.no_grad()
def self_training_labels(
    output: BranchOutput,
    points: PointBatch,
    keep: Tensor,
    image_sizes: list[tuple[int, int]],
    force: bool,
) -> Tensor | None:
    """M^pse at stride 8: argmax of the last layer (with the residual of the clicks, if there is
    one), -1 off ``keep``; None without instances.

    Args:
        output: logits of both branches.
        points: of the batch.
        keep: (B, h, w) bool, cells inside a labelled image.
        image_sizes: un-padded (H, W) of each image.
        force: labelled points win in their own cell.
    """
    if not output.instance:
        return None
    logits = output.instance[-1].detach()
    logits = logits if output.residual is None else logits + output.residual
    labels = logits.argmax(1).masked_fill(~keep, -1)
    if not force:
        return labels
    return force_points(
        labels,
        points.point_image,
        points.point_instance,
        points.coords,
        POINT_STRIDE,
        image_sizes,
    )


def pseudo_label_losses(
    output: BranchOutput,
    points: PointBatch,
    labels: Tensor | None,
    affinity: Tensor,
    keep: Tensor,
    counts: dict[str, Tensor],
    warmup: float,
    settings: PseudoLossSettings,
) -> dict[str, Tensor]:
    """L_pse + lambda_sem * L_sem, summed over the supervised layers.

    Args:
        output: logits of both branches.
        points: S^ins and S^sem.
        labels: (B, h, w) int64, M^pse at stride 8 (of the last layer), -1 where ignored; see
            :func:`self_training_labels`.
        affinity: of :func:`image_affinity`.
        keep: (B, h, w) bool, cells inside a labelled image.
        counts: global normalisers by name (``fdd.modeling.structures.NORMALIZERS``).
        warmup: weight in [0, 1] of the losses that use M^pse.

    Returns:
        Weighted scalars by name.
    """
    s = settings
    zero = affinity.new_zeros((), dtype=torch.float32)

    def total(logits: list[Tensor], target: LabelledCells, count: str) -> Tensor:
        return sum((partial_cross_entropy(z, target, counts[count]) for z in logits), zero)

    def color(logits: list[Tensor]) -> Tensor:
        kernel, dilation = s.color_kernel, s.color_dilation
        return color_prior_loss(
            logits, affinity, counts["images"], kernel=kernel, dilation=dilation
        )

    def self_train(logits: list[Tensor], target: Tensor) -> Tensor:
        return sum((self_training_ce(z, target, counts["valid_cells"]) for z in logits), zero)

    def agreement() -> Tensor:
        classes = points.classes
        with torch.no_grad():
            target = class_distribution(output.semantic[-1], classes)
        cells = counts["valid_cells"]
        return sum(
            (class_agreement_loss(z, classes, target, keep, cells) for z in output.instance), zero
        )

    out: dict[str, Tensor] = {}
    if output.instance:
        cells = points.instance_cells
        out["loss_pse_point"] = total(output.instance, cells, "instance_cells")
        if s.color_pse:
            out["loss_pse_color"] = s.color_weight * color(output.instance)
        if s.self_train_pse:
            assert labels is not None
            weight = s.self_train_weight * warmup
            out["loss_pse_self"] = weight * self_train(output.instance, labels)
        if s.class_agreement > 0 and output.semantic:
            # The better the semantic branch is trained, the more it may say.
            weight = s.lambda_sem * s.class_agreement * warmup
            out["loss_pse_class"] = weight * agreement()
    if output.semantic:
        semantic = total(output.semantic, points.semantic_cells, "semantic_cells")
        out["loss_sem_point"] = s.lambda_sem * semantic
        if s.color_sem:
            out["loss_sem_color"] = s.lambda_sem * s.color_weight * color(output.semantic)
        if s.self_train_sem:
            with torch.no_grad():
                target = present_argmax(output.semantic[-1], points.classes, keep)
            weight = s.lambda_sem * s.self_train_weight * warmup
            out["loss_sem_self"] = weight * self_train(output.semantic, target)
    return out

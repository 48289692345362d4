"""Losses of the panoptic branch L_pan: who learns what (matching), and how wrong it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.layers import Memory
from fdd.modeling.losses.boxes import box_cxcywh_to_xyxy, generalized_iou
from fdd.modeling.losses.common import full_precision
from fdd.modeling.losses.cross_entropy import (
    LabelledCells,
    point_mask_loss,
    sigmoid_focal_loss,
)
from fdd.modeling.losses.dice import pairwise_dice_cost, upsampled_dice_loss
from fdd.modeling.panoptic_branch.branch import PanopticBranch
from fdd.modeling.panoptic_branch.center_decoder import CenterMaps
from fdd.modeling.panoptic_branch.center_targets import center_targets
from fdd.modeling.panoptic_branch.location_decoder import Detections
from fdd.modeling.panoptic_branch.matcher import Matches, assign, matching_cost
from fdd.modeling.panoptic_branch.targets import PanopticTargets
from fdd.modeling.structures import StepContext

# Cost factors of Panoptic SegFormer's second matching, beside those of boxes.
_SECOND_CLASS_COST, _SECOND_DICE_COST = 4.0, 2.0
# Cost of a padded row: worse than any real pair, small enough for exact sums.
_NEVER = 1e6


class PanopticCriterion:
    """Matching and losses of the panoptic branch, from dense labels or from points alone."""

    @configurable
    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        dice_weight: float = 2.0,
        stuff_class_weight: float = 4.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        dice_eps: float = 1e-3,
        point_eps: float = 1e-2,
        ratio_weighting: bool = True,
        max_pos: int = 1,
        warm_up: bool = False,
    ):
        """
        Args:
            alpha, gamma: of the focal losses.
            dice_eps, point_eps: of the mask loss with dense labels, and with points alone.
            ratio_weighting: things and stuff are weighted by their shares of the targets.
            max_pos: queries that each thing trains; above 1, a second matching decides which of
                them keeps its mask loss.
            warm_up: the losses are weighted by ``StepContext.warmup``: they learn from estimates.
        """
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.dice_weight, self.stuff_class_weight = dice_weight, stuff_class_weight
        self.alpha, self.gamma = alpha, gamma
        self.dice_eps, self.point_eps = dice_eps, point_eps
        self.ratio_weighting, self.max_pos, self.warm_up = ratio_weighting, max_pos, warm_up

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        pan = cfg.MODEL.FDD.PAN
        return {
            "class_weight": pan.CLASS_WEIGHT,
            "l1_weight": pan.L1_WEIGHT,
            "giou_weight": pan.GIOU_WEIGHT,
            "dice_weight": pan.DICE_WEIGHT,
            "stuff_class_weight": pan.STUFF_CLASS_WEIGHT,
            "alpha": pan.FOCAL_ALPHA,
            "gamma": pan.FOCAL_GAMMA,
            "dice_eps": pan.DICE_EPS,
            "point_eps": pan.POINT_EPS,
            "ratio_weighting": pan.RATIO_WEIGHTING,
            "max_pos": pan.QUERY_FILTER_MAX_POS,
            "warm_up": cfg.MODEL.FDD.PAN_SUPERVISION == "pseudo",
        }

    def __call__(
        self, branch: PanopticBranch, memory: Memory, targets: PanopticTargets, step: StepContext
    ) -> dict[str, Tensor]:
        """Weighted scalars by name; every parameter of the branch is in their graph."""
        things, stuff = step.counts["things"], step.counts["stuff"]
        ratio = things / (things + stuff).clamp(min=1)
        if not self.ratio_weighting:
            ratio = torch.ones_like(ratio)
        share = 1 - ratio if self.ratio_weighting else ratio
        losses: dict[str, Tensor] = {}
        if branch.num_things:
            if branch.centers is not None:
                found = self.center_losses(branch, memory, targets, step.image_sizes)
            else:
                found = self.thing_losses(branch, memory, targets)
            losses |= {k: v * ratio / things.clamp(min=1) for k, v in found.items()}
        if branch.num_stuff:
            found = self.stuff_losses(branch, memory, targets)
            losses |= {k: v * share / stuff.clamp(min=1) for k, v in found.items()}
        weight = step.warmup if self.warm_up else 1.0
        return {k: weight * v for k, v in losses.items()}

    def thing_losses(
        self, branch: PanopticBranch, memory: Memory, targets: PanopticTargets
    ) -> dict[str, Tensor]:
        """Classes and boxes of all layers of the location decoder; masks of the queries that are
        matched after the last one. Sums over layers, images and things, not yet normalised."""
        decoder = branch.location
        assert decoder is not None
        detections: Detections = decoder(memory)
        cost = self._cost(detections.logits, detections.boxes, targets, self.class_weight)
        matches = assign(cost, targets.is_thing, targets.listed_things, rounds=self.max_pos)
        focal, l1, giou = location_losses(detections, matches, targets, self.alpha, self.gamma)

        chosen = _by_image(matches.of_layers(len(detections.logits) - 1))
        queries, slot = pack_queries(chosen, detections.queries)
        masks = branch.thing_masks(memory, queries)
        kept = Matches(np.stack([chosen.table[0], chosen.table[1], slot, chosen.table[3]]))
        if self.max_pos > 1:
            kept = self.second_match(detections, masks[-1], chosen, slot, targets)
        _, image, slots, target = kept.on(queries.device)
        kind, eps = self._mask_loss(targets)
        mask = thing_mask_loss(masks, image, slots, target, targets, eps)
        return {
            "loss_thing_class": self.class_weight * focal,
            "loss_box_l1": self.l1_weight * l1,
            "loss_box_giou": self.giou_weight * giou,
            f"loss_thing_{kind}": self.dice_weight * mask,
        }

    def center_losses(
        self,
        branch: PanopticBranch,
        memory: Memory,
        targets: PanopticTargets,
        image_sizes: list[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Centres, boxes and masks of things that a centre decoder finds: each thing trains the
        cells that it covers, and nothing has to be matched. Sums as in :meth:`thing_losses`."""
        decoder = branch.centers
        assert decoder is not None
        maps: CenterMaps = decoder(memory)
        grid = memory.shapes[0]
        wanted = center_targets(targets, image_sizes, grid, branch.num_things)
        if targets.void is not None:
            maps = replace(maps, valid=maps.valid & ~targets.void)
        heat = center_loss(maps, wanted.heat, targets.labelled)
        # Of each thing, the cell of its centre and the drawn one: peaks may be a little off.
        image = upload(wanted.image, memory.tokens.device)
        cells = torch.stack((wanted.center, wanted.drawn))
        found = maps.boxes.flatten(2)[image, :, cells]
        giou = (1 - generalized_iou(found, wanted.boxes)).mean(0)

        slot, most = _slots(wanted.image, len(image_sizes))
        slots = upload(slot, image.device)
        packed = cells.new_zeros(len(image_sizes), most)
        drawn = packed.index_put((image, slots), wanted.drawn)
        classes = packed.index_put((image, slots), wanted.classes)
        masks = branch.center_masks(memory, maps, drawn, classes)
        kind, eps = self._mask_loss(targets)
        target = upload(wanted.target, image.device)
        mask = thing_mask_loss(masks, image, slots, target, targets, eps, wanted.real)
        return {
            "loss_thing_class": self.class_weight * heat,
            "loss_box_giou": self.giou_weight * (giou * wanted.real).sum(),
            f"loss_thing_{kind}": self.dice_weight * mask,
        }

    def stuff_losses(
        self, branch: PanopticBranch, memory: Memory, targets: PanopticTargets
    ) -> dict[str, Tensor]:
        """Masks and presence of the stuff classes; sums as in :meth:`thing_losses`."""
        # Absent classes have no mask loss, so their masks are not needed.
        masks, logits = branch.stuff_masks(memory, targets.stuff.packed)
        kind, eps = self._mask_loss(targets)
        mask = stuff_mask_loss(masks, targets, eps)
        focal = stuff_class_loss(torch.stack(logits), targets, self.alpha, self.gamma)
        return {
            f"loss_stuff_{kind}": self.dice_weight * mask,
            "loss_stuff_class": self.stuff_class_weight * focal,
        }

    def _mask_loss(self, targets: PanopticTargets) -> tuple[str, float]:
        """Name and epsilon of the loss that these targets give masks."""
        if targets.cells is not None:
            return "point", self.point_eps
        return "dice", self.dice_eps

    def _cost(
        self, logits: Tensor, boxes: Tensor, targets: PanopticTargets, class_weight: float
    ) -> Tensor:
        return matching_cost(
            logits,
            boxes,
            targets.classes.clamp(0, logits.shape[-1] - 1),
            targets.boxes,
            class_weight=class_weight,
            l1_weight=self.l1_weight,
            giou_weight=self.giou_weight,
            alpha=self.alpha,
            gamma=self.gamma,
        )

    @torch.no_grad()
    def second_match(
        self,
        detections: Detections,
        masks: Tensor,
        chosen: Matches,
        slot: np.ndarray,
        targets: PanopticTargets,
    ) -> Matches:
        """One of the up to ``max_pos`` queries of each thing keeps its mask loss: the one whose
        class, box and mask fit best.

        Args:
            masks: (B, M, h, w), of the ``chosen`` pairs' queries at their ``slot``.

        Returns:
            The kept pairs, with slots in place of queries.
        """
        batch, most = masks.shape[:2]
        _, image, query, _ = chosen.table
        packed, real = np.zeros((batch, most), np.int64), np.zeros((batch, most), bool)
        packed[image, slot], real[image, slot] = query, True
        rows = torch.arange(batch, device=masks.device)[:, None]
        index = upload(packed, masks.device)
        logits, boxes = detections.logits[-1][rows, index], detections.boxes[-1][rows, index]
        cost = self._cost(logits, boxes, targets, _SECOND_CLASS_COST)
        dice = pairwise_dice_cost(masks.relu(), targets.dense(), self.dice_eps)
        cost = cost + _SECOND_DICE_COST * dice
        padding = ~upload(real, masks.device)[..., None]
        cost = cost.masked_fill(padding, _NEVER)
        return assign(cost[None], targets.is_thing, targets.listed_things)


def _by_image(matches: Matches) -> Matches:
    """The pairs in order of their images."""
    return Matches(matches.table[:, np.argsort(matches.table[1], kind="stable")])


def pack_queries(pairs: Matches, queries: Tensor) -> tuple[Tensor, np.ndarray]:
    """Put the chosen queries of each image side by side.

    Args:
        pairs: R of them, sorted by image. queries: (B, Q, D).

    Returns:
        (B, M, D) queries, zero where padded, M >= 1; and the (R,) slot of each pair.
    """
    batch = queries.shape[0]
    slot, most = _slots(pairs.table[1], batch)
    packed = queries.new_zeros(batch, most, queries.shape[-1])
    _, rows, query, _ = pairs.on(queries.device)
    index = (rows, upload(slot, queries.device))
    return packed.index_put(index, queries[rows, query]), slot


def _slots(image: np.ndarray, batch: int) -> tuple[np.ndarray, int]:
    """Place of each row among those of its image, rows sorted by image; and how many places there
    are, at least 1."""
    counts = np.bincount(image, minlength=batch)
    return np.arange(len(image)) - (counts.cumsum() - counts)[image], max(1, *counts.tolist(), 0)


def location_losses(
    detections: Detections, matches: Matches, targets: PanopticTargets, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal, L1 and GIoU losses, summed over layers, images and pairs (not yet normalised).

    Args:
        detections: of all layers.
        matches: pairs of all layers; those of layers beyond the last are ignored.
        targets: give classes and boxes.
        alpha, gamma: of the focal loss.

    Returns:
        Three scalars. Without any pair, L1 and GIoU are 0 and still have a gradient (of zeros).
    """
    own = matches.of_layers(0, len(detections.logits))
    layer, image, query, target = own.on(detections.logits.device)
    logits = full_precision(detections.logits)
    wanted = torch.zeros_like(logits)
    wanted[layer, image, query, targets.classes[image, target]] = 1.0
    focal = sigmoid_focal_loss(logits, wanted, alpha, gamma)
    focal = (focal.sum((0, 2, 3)) * targets.labelled).sum()
    boxes, goal = detections.boxes[layer, image, query], targets.boxes[image, target]
    giou = generalized_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(goal))
    return focal, (boxes - goal).abs().sum(), (1 - giou).sum()


def center_loss(maps: CenterMaps, heat: Tensor, labelled: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss of the map of centres, summed over images, classes and
    cells (not yet normalised).

    A centre costs -(1 - p)^2 log p, any other cell -(1 - heat)^4 p^2 log(1 - p), so that cells near
    a centre cost little. Probabilities come from logits: nothing overflows.

    Args:
        maps: of B images.
        heat: (B, Cth, h, w) float in [0, 1], 1 at centers.
        labelled: (B,) bool; the other images train nothing.
    """
    logits = full_precision(maps.logits)
    p = logits.sigmoid()
    center = -((1 - p) ** 2) * F.logsigmoid(logits)
    other = -((1 - heat) ** 4) * p**2 * F.logsigmoid(-logits)
    counts = maps.valid & labelled[:, None, None]
    return (torch.where(heat == 1, center, other) * counts[:, None]).sum()


def thing_mask_loss(
    masks: list[Tensor],
    image: Tensor,
    slot: Tensor,
    target: Tensor,
    targets: PanopticTargets,
    eps: float,
    real: Tensor | None = None,
) -> Tensor:
    """Mask loss of matched things, summed over layers and things: dice with dense labels, with
    points alone the mean over an image's labelled cells of the cross-entropy.

    Args:
        masks: (B, M, h, w) a layer, without final ReLU.
        image, slot: (R,) which mask belongs to which pair. target: (R,) its instance.
        eps: of the dice loss, or of the cross-entropy.
        real: (R,) float weights, 0 for pairs whose target is empty; None: none is.
    """
    if targets.cells is not None:  # a mask without a cell of its own costs nothing
        return _point_loss(masks, image, slot, target, targets.cells.things, eps)
    rows = torch.stack([m[image, slot] for m in masks]).relu_()
    fine = targets.dense()
    adjoint, area = fine.adjoint[image, target], fine.areas[image, target]
    loss = upsampled_dice_loss(rows, adjoint, fine.stencil[image], area, eps)
    return loss.sum() if real is None else (loss * real).sum()


def stuff_mask_loss(masks: list[Tensor], targets: PanopticTargets, eps: float) -> Tensor:
    """Mask loss of the stuff classes that are present, summed over layers and classes; see
    :func:`thing_mask_loss`.

    Args:
        masks: (B, M, h, w) a layer, without final ReLU: of the classes ``targets.stuff.packed``.
    """
    rows = targets.stuff
    image, slot = upload(rows.table[0], masks[0].device), upload(rows.slot, masks[0].device)
    if targets.cells is not None:
        index = upload(rows.table[1], image.device)
        return _point_loss(masks, image, slot, index, targets.cells.stuff, eps)
    chosen = torch.stack([m[image, slot] for m in masks]).relu_()
    return upsampled_dice_loss(chosen, *targets.stuff_rows(), eps).sum()


def _point_loss(
    masks: list[Tensor],
    image: Tensor,
    slot: Tensor,
    wanted: Tensor,
    cells: LabelledCells,
    eps: float,
) -> Tensor:
    """Sum over layers and rows of :func:`point_mask_loss`. Every row is read at the cells of the
    whole batch, a few hundred, and counts those of its own image."""
    index = image[:, None], slot[:, None], cells.row, cells.column
    labelled = cells.image == image[:, None]
    own = cells.label == wanted[:, None]
    return point_mask_loss(torch.stack([m[index] for m in masks]), own, labelled, eps).sum()


def stuff_class_loss(
    logits: Tensor, targets: PanopticTargets, alpha: float, gamma: float
) -> Tensor:
    """Focal loss of "is this stuff class in the image", summed over layers, images and classes.

    Args:
        logits: (layers, B, Cst).
    """
    logits = full_precision(logits)
    wanted = targets.stuff_present.to(logits.dtype).expand_as(logits)
    loss = sigmoid_focal_loss(logits, wanted, alpha, gamma)
    return (loss.sum((0, 2)) * targets.labelled).sum()

"""Losses of the panoptic branch: pure functions of predictions, targets and global counts."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.losses.boxes import box_cxcywh_to_xyxy, generalized_iou
from fdd.modeling.losses.dice import upsampled_dice_loss
from fdd.modeling.losses.focal import sigmoid_focal_loss
from fdd.modeling.losses.partial_ce import LabelledCells
from fdd.modeling.losses.point_masks import point_mask_loss
from fdd.modeling.panoptic_branch.location_decoder import Detections
from fdd.modeling.panoptic_branch.matcher import Matches
from fdd.modeling.panoptic_branch.targets import PanopticTargets


def location_losses(
    detections: Detections, matches: Matches, targets: PanopticTargets, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal, L1 and GIoU losses, summed over layers, images and pairs (not yet normalised).

    Args:
        detections: of all layers.
        matches: pairs of all layers; layers beyond the last are other heads' business.
        targets: give classes and boxes.
        alpha, gamma: of the focal loss.

    Returns:
        Three scalars. Without any pair, L1 and GIoU are 0 and still have a gradient (of zeros).
    """
    own = matches.of_layers(0, len(detections.logits))
    layer, image, query, target = own.on(detections.logits.device)
    wanted = torch.zeros_like(detections.logits)
    wanted[layer, image, query, targets.classes[image, target]] = 1.0
    focal = sigmoid_focal_loss(detections.logits, wanted, alpha, gamma)
    focal = (focal.sum((0, 2, 3)) * targets.labelled).sum()
    boxes, goal = detections.boxes[layer, image, query], targets.boxes[image, target]
    giou = generalized_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(goal))
    return focal, (boxes - goal).abs().sum(), (1 - giou).sum()


def thing_mask_loss(
    masks: list[Tensor],
    image: Tensor,
    slot: Tensor,
    target: Tensor,
    targets: PanopticTargets,
    eps: float,
) -> Tensor:
    """Mask loss of matched things, summed over layers and things: dice with dense labels, with
    points alone the mean over an image's labelled cells of the cross-entropy.

    Args:
        masks: (B, M, h, w) a layer, without final ReLU.
        image, slot: (R,) which mask belongs to which pair. target: (R,) its instance.
        eps: of the dice loss, or of the cross-entropy.
    """
    if targets.cells is not None:
        return _point_loss(masks, image, slot, target, targets.cells.things, eps)
    rows = torch.stack([m[image, slot] for m in masks]).relu_()
    fine = targets.dense()
    adjoint, area = fine.adjoint[image, target], fine.areas[image, target]
    return upsampled_dice_loss(rows, adjoint, fine.stencil[image], area, eps).sum()


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
    wanted = targets.stuff_present.to(logits.dtype).expand_as(logits)
    loss = sigmoid_focal_loss(logits, wanted, alpha, gamma)
    return (loss.sum((0, 2)) * targets.labelled).sum()

"""Losses of the panoptic branch: pure functions of predictions, targets and global counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.losses.boxes import box_cxcywh_to_xyxy, generalized_iou
from fdd.modeling.losses.dice import dice_loss
from fdd.modeling.losses.focal import sigmoid_focal_loss
from fdd.modeling.matcher import Matches
from fdd.modeling.panoptic_branch.location_decoder import Detections
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
    keep = matches.layer < len(detections.logits)
    layer, image = matches.layer[keep], matches.image[keep]
    query, target = matches.query[keep], matches.target[keep]
    wanted = torch.zeros_like(detections.logits)
    wanted[layer, image, query, targets.classes[image, target]] = 1.0
    focal = sigmoid_focal_loss(detections.logits, wanted, alpha, gamma)
    focal = (focal.sum((0, 2, 3)) * targets.labelled).sum()
    boxes, goal = detections.boxes[layer, image, query], targets.boxes[image, target]
    giou = generalized_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(goal))
    return focal, (boxes - goal).abs().sum(), (1 - giou).sum()


def mask_losses(masks: Tensor, wanted: Tensor, known: Tensor, eps: float) -> Tensor:
    """Dice losses of coarse masks against finer targets.

    Args:
        masks: (layers, R, h, w) masks in [0, inf).
        wanted: (R, H, W) bool targets.
        known: (R, H, W) bool, cells that count.
        eps: of the dice loss.

    Returns:
        (R,) sum over the layers.
    """
    if masks.shape[1] == 0:
        return masks.sum((0, 2, 3))
    weight = known.to(masks.dtype)
    target = wanted * weight  # once for all layers
    total = masks.new_zeros(masks.shape[1])
    for layer in masks:
        fine = layer[:, None]
        if layer.shape[1:] != wanted.shape[1:]:
            fine = F.interpolate(fine, size=wanted.shape[1:], mode="bilinear", align_corners=False)
        total = total + dice_loss(fine[:, 0] * weight, target, None, eps)
    return total


def thing_mask_loss(
    masks: list[Tensor],
    image: Tensor,
    slot: Tensor,
    target: Tensor,
    targets: PanopticTargets,
    eps: float,
) -> Tensor:
    """Dice loss of matched things, summed over layers and things.

    Args:
        masks: (B, M, h, w) a layer, without final ReLU.
        image, slot: (R,) which mask belongs to which pair. target: (R,) its instance.
    """
    rows = torch.stack([m[image, slot] for m in masks]).relu()
    wanted = targets.labels[image] == target[:, None, None]
    return mask_losses(rows, wanted, targets.known[image], eps).sum()


def stuff_mask_loss(masks: list[Tensor], targets: PanopticTargets, eps: float) -> Tensor:
    """Dice loss of the stuff classes that are present; query k is stuff class k."""
    image, k = targets.stuff_present.nonzero(as_tuple=True)
    rows = torch.stack([m[image, k] for m in masks]).relu()
    wanted = targets.stuff_map[image] == k[:, None, None]
    return mask_losses(rows, wanted, targets.known[image], eps).sum()


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

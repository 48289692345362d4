"""Targets of the panoptic branch, built from one label map an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fdd.modeling.losses.boxes import box_xyxy_to_cxcywh
from fdd.modeling.targets import boxes_from_labels, class_map


@dataclass(frozen=True)
class PanopticTargets:
    """What the panoptic branch learns from (B images, N instances at most).

    Attributes:
        labels: (B, H, W) int64 instance index at the label stride, -1 where no instance is.
        known: (B, H, W) bool, cells that enter the dice losses.
        classes: (B, N) int64, -1 where padded.
        is_thing: (B, N) bool, things with a non-empty mask.
        boxes: (B, N, 4) float32 cxcywh in [0, 1] of the un-padded image.
        stuff_map: (B, H, W) int64, index of the stuff class (0 is the first one), -1 elsewhere.
        stuff_present: (B, Cst) bool, stuff classes among the labelled instances.
        labelled: (B,) bool; the other images train nothing.
    """

    labels: Tensor
    known: Tensor
    classes: Tensor
    is_thing: Tensor
    boxes: Tensor
    stuff_map: Tensor
    stuff_present: Tensor
    labelled: Tensor


@torch.no_grad()
def build_targets(
    labels: Tensor,
    known: Tensor,
    classes: Tensor,
    image_sizes: list[tuple[int, int]],
    *,
    stride: int,
    num_things: int,
    num_stuff: int,
) -> PanopticTargets:
    """Boxes, thing and stuff targets of dense labels (paper: "Panoptic Segmentation Branch").

    Boxes are those of the labels. A thing whose label is empty has no box and is dropped.

    Args:
        labels: (B, H, W) int64 instance index at ``stride``, -1 for none.
        known: (B, H, W) bool.
        classes: (B, N) int64 contiguous classes, -1 where padded.
        image_sizes: un-padded (H, W) in pixels.
    """
    boxes, areas = boxes_from_labels(labels, classes.shape[1], stride)
    sizes = boxes.new_tensor([(w, h, w, h) for h, w in image_sizes])
    boxes = torch.minimum(boxes, sizes[:, None]) / sizes[:, None]
    stuff = class_map(labels, classes) - num_things
    present = classes.new_zeros((len(classes), num_stuff + 1), dtype=torch.bool)
    index = torch.where(classes >= num_things, classes - num_things, num_stuff)
    present.scatter_(1, index, True)
    return PanopticTargets(
        labels=labels,
        known=known,
        classes=classes,
        is_thing=(classes >= 0) & (classes < num_things) & (areas > 0),
        boxes=box_xyxy_to_cxcywh(boxes),
        stuff_map=stuff.clamp(min=-1),
        stuff_present=present[:, :num_stuff],
        labelled=(classes >= 0).any(1),
    )

"""Panoptic branch: targets, matching, masks and losses, image by image.

Published: Panoptic SegFormer, sections 3.3 to 3.5, in PSPS's simplified form (one query a thing, no
second matching): ``loss_single``, ``loss_single_panoptic_simplified`` and ``get_bboxes`` in
``easymd/models/panformer/wsup_panformer_head.py`` of BraveGroup/PSPS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.textbook.decoders import decode_locations, decode_masks
from benchmarks.textbook.dense_labels import force_own_cells, instance_masks
from benchmarks.textbook.features import Features
from benchmarks.textbook.label_branch import ImagePoints
from benchmarks.textbook.matching import LocationSettings, Targets, focal_loss, location_losses
from benchmarks.textbook.parts import Arrangement


class PanopticSettings(NamedTuple):
    """``MODEL.FDD.PAN``."""

    location: LocationSettings
    dice_weight: float
    stuff_class_weight: float
    dice_eps: float
    ratio_weighting: bool
    num_things: int
    num_stuff: int
    mask_levels: int
    dropout: float = 0.0


class DenseTargets(NamedTuple):
    """What one image teaches.

    Attributes:
        things: classes and boxes of things with a mask. thing_masks: (n, H, W) float.
        stuff_masks: (Cst, H, W) float. stuff_present: (Cst,) float, labelled stuff classes.
        known: (H, W) bool.
    """

    things: Targets
    thing_masks: Tensor
    stuff_masks: Tensor
    stuff_present: Tensor
    known: Tensor


@torch.no_grad()
def dense_targets(
    full_size: Tensor,
    points: ImagePoints,
    force_points: bool,
    settings: PanopticSettings,
    parts: Arrangement,
) -> DenseTargets:
    """M^pse (Eq. 2) at full resolution, and one full-size mask, box and class an instance.

    Args:
        full_size: (layers, N, H, W) logits; the last is read.
    """
    height, width = points.size
    label = full_size[-1].argmax(0)
    if force_points:
        label = force_own_cells(label, points.coords, points.owner, points.size, 1)
    label[height:], label[:, width:] = -1, -1

    masks = instance_masks(label, len(points.classes))
    is_thing = (points.classes < settings.num_things) & (masks.sum((1, 2)) > 0)
    thing_masks = masks[is_thing]
    corner = parts.boxes(thing_masks) / masks.new_tensor([width, height, width, height])
    centre, side = (corner[:, :2] + corner[:, 2:]) / 2, corner[:, 2:] - corner[:, :2]

    class_map = torch.where(label >= 0, points.classes[label.clamp(min=0)], -1)
    present = masks.new_zeros(settings.num_stuff)
    for c in points.classes[points.classes >= settings.num_things]:
        present[c - settings.num_things] = 1
    return DenseTargets(
        things=Targets(points.classes[is_thing], torch.cat([centre, side], dim=1)),
        thing_masks=thing_masks,
        stuff_masks=parts.stuff_targets(class_map, settings.num_things, settings.num_stuff),
        stuff_present=present,
        known=label >= 0,
    )


def _thing_losses(
    branch: nn.Module,
    memory: Features,
    targets: list[DenseTargets | None],
    settings: PanopticSettings,
    parts: Arrangement,
) -> dict[str, Tensor]:
    s = settings.location
    all_logits, all_boxes, queries = decode_locations(
        branch.location, memory, parts, settings.dropout
    )
    focal, l1, giou, dice = all_logits.new_zeros(4).unbind(0)
    for i, target in enumerate(targets):
        if target is None:
            continue
        logits, boxes = all_logits[:, i].float(), all_boxes[:, i]
        with torch.autocast(logits.device.type, enabled=False):
            pairs = parts.matching(logits, boxes, target.things, s)
            terms = location_losses(logits, boxes, pairs, target.things, s)
        focal, l1, giou = focal + terms[0], l1 + terms[1], giou + terms[2]
        rows, columns = pairs[-1]
        if len(rows) == 0:
            continue
        masks, _ = decode_masks(
            branch.thing_stack,
            queries[i : i + 1, rows],
            None,
            memory.finest(settings.mask_levels, i),
            parts,
        )
        with torch.autocast(logits.device.type, enabled=False):
            wanted = target.thing_masks[columns]
            weights = wanted.new_ones(len(rows))
            layers = [m.relu() for m in masks]
            dice = dice + parts.dice(layers, wanted, target.known, weights, settings.dice_eps)
    return {
        "loss_thing_class": s.class_weight * focal,
        "loss_box_l1": s.l1_weight * l1,
        "loss_box_giou": s.giou_weight * giou,
        "loss_thing_dice": settings.dice_weight * dice,
    }


def _stuff_losses(
    branch: nn.Module,
    memory: Features,
    targets: list[DenseTargets | None],
    settings: PanopticSettings,
    parts: Arrangement,
) -> dict[str, Tensor]:
    s = settings.location
    dice, focal = memory.ratios.new_zeros(2).unbind(0)
    for i, target in enumerate(targets):
        if target is None:
            continue
        query, pos = branch.stuff_query.weight[None], branch.stuff_pos.weight[None]
        memory_i = memory.finest(settings.mask_levels, i)
        masks, queries = decode_masks(branch.stuff_stack, query, pos, memory_i, parts)
        logits = [
            head(q)[0, :, 0].float()
            for head, q in zip(branch.stuff_class_heads, queries, strict=False)
        ]
        with torch.autocast(memory.tokens.device.type, enabled=False):
            layers, present = [m.relu() for m in masks], target.stuff_present
            dice = dice + parts.dice(
                layers, target.stuff_masks, target.known, present, settings.dice_eps
            )
            for layer in logits:
                focal = focal + focal_loss(layer, present, s.alpha, s.gamma).sum()
    return {
        "loss_stuff_dice": settings.dice_weight * dice,
        "loss_stuff_class": settings.stuff_class_weight * focal,
    }


def panoptic_losses(
    branch: nn.Module,
    memory: Features,
    targets: list[DenseTargets | None],
    counts: dict[str, float],
    settings: PanopticSettings,
    parts: Arrangement,
) -> dict[str, Tensor]:
    """L_pan (without the warm-up of Eq. 10).

    Args:
        targets: of each image; None where nothing is labelled.
        counts: global normalisers.
    """
    things, stuff = counts["things"], counts["stuff"]
    share_things = share_stuff = 1.0
    if settings.ratio_weighting:
        share_things = things / max(things + stuff, 1.0)
        share_stuff = 1 - share_things
    out: dict[str, Tensor] = {}
    if settings.num_things:
        losses = _thing_losses(branch, memory, targets, settings, parts)
        out |= {k: v * share_things / max(things, 1.0) for k, v in losses.items()}
    if settings.num_stuff:
        losses = _stuff_losses(branch, memory, targets, settings, parts)
        out |= {k: v * share_stuff / max(stuff, 1.0) for k, v in losses.items()}
    return out

"""The parts of the step, each in its published form and in its best cheap variant.

A cheap variant is what somebody would do to one part on an afternoon, without rearranging the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.textbook import (
    attention,
    color,
    cross_entropy,
    dense_labels,
    dice,
    mask_head,
    matching,
    optimizer,
    point_targets,
)

Function = Callable[..., Any]


@dataclass(frozen=True)
class Arrangement:
    """Which function does what; the defaults are the published forms."""

    attention: Function = attention.stacked_samples
    mask_head: Function = mask_head.concatenate_levels
    share_keys: bool = False
    color: Function = color.unfolded
    partial_ce: Function = cross_entropy.partial_over_map
    self_training: Function = cross_entropy.self_training_by_target
    point_maps: Function = point_targets.maps_by_one_hot
    own_masks: Function = point_targets.own_masks_by_pooling
    stuff_targets: Function = dense_labels.stuff_by_one_hot
    full_size_logits: Function = dense_labels.every_layer_at_full_size
    boxes: Function = dense_labels.boxes_by_coordinates
    matching: Function = matching.match_layer_by_layer
    dice: Function = dice.full_size
    adamw: Function = optimizer.plain_adamw


#: Cheap variants by part: fields of :class:`Arrangement` that change.
CHEAP: dict[str, dict[str, Any]] = {
    # The samples of all levels are not stacked.
    "attention": {"attention": attention.summed_by_level},
    # Each level is fused to one channel before it is up-sampled.
    "mask_head": {"mask_head": mask_head.project_then_upsample},
    # The two passes of the label stack share each layer's keys and values.
    "passes": {"share_keys": True},
    # Slices instead of unfold; affinity once an image.
    "color": {"color": color.sliced},
    # Labelled cells are gathered first.
    "partial_ce": {"partial_ce": cross_entropy.partial_on_cells},
    "self_training": {"self_training": cross_entropy.self_training_by_logsumexp},
    # Labels are made at stride 8; stuff targets by comparison.
    "targets": {
        "point_maps": point_targets.maps_as_given,
        "own_masks": point_targets.own_masks_by_scatter,
        "stuff_targets": dense_labels.stuff_by_comparison,
    },
    # Only the logits that are read are up-sampled to full size.
    "full_maps": {"full_size_logits": dense_labels.last_layer_at_full_size},
    "boxes": {"boxes": dense_labels.boxes_by_torchvision},
    # One copy to the host an image.
    "matching": {"matching": matching.match_together},
    # Absent stuff classes are left out.
    "dice": {"dice": dice.present_at_full_size},
    # Likewise, at Panoptic SegFormer's stride 4: another loss.
    "dice_stride4": {"dice": dice.present_at_stride_4},
    "optimizer": {"adamw": optimizer.fused_adamw},
}
#: Cheap variants that change the losses.
NOT_EQUAL = frozenset({"dice_stride4"})
#: All cheap variants that do not.
EQUAL = frozenset(CHEAP) - NOT_EQUAL


def arrange(cheap: Iterable[str] = ()) -> Arrangement:
    """The published arrangement with the named parts in their cheap variants.

    Raises:
        ValueError: for an unknown part.
    """
    cheap = set(cheap)
    if unknown := cheap - set(CHEAP):
        raise ValueError(f"no such parts: {sorted(unknown)}; there are {sorted(CHEAP)}")
    changes: dict[str, Any] = {}
    for name in CHEAP:  # in this order: dice_stride4 goes further than dice
        if name in cheap:
            changes |= CHEAP[name]
    return replace(Arrangement(), **changes)

"""Losses and matching costs: pure functions of tensors that know nothing else of the package.

Conventions, shared by all of them: label maps ignore with -1, arithmetic is done in float32
(float64 when the input is float64) whatever the autocast state, padded channels carry ``-inf``
logits and change neither value nor gradient, and a normaliser below 1 counts as 1.
"""

from fdd.modeling.losses.boxes import (
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    generalized_iou,
    pairwise_generalized_iou,
)
from fdd.modeling.losses.color_prior import color_affinity, color_prior_loss, rgb_to_lab
from fdd.modeling.losses.contrastive import region_info_nce
from fdd.modeling.losses.cross_entropy import (
    LabelledCells,
    class_agreement_loss,
    class_distribution,
    labelled_cells,
    partial_cross_entropy,
    point_mask_loss,
    present_classes,
    self_training_ce,
    sigmoid_focal_loss,
)
from fdd.modeling.losses.dice import (
    FineTargets,
    fine_targets,
    pairwise_dice_cost,
    upsampled_dice_loss,
)

__all__ = [
    "FineTargets",
    "LabelledCells",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "class_agreement_loss",
    "class_distribution",
    "color_affinity",
    "color_prior_loss",
    "fine_targets",
    "generalized_iou",
    "labelled_cells",
    "pairwise_dice_cost",
    "pairwise_generalized_iou",
    "partial_cross_entropy",
    "point_mask_loss",
    "present_classes",
    "region_info_nce",
    "rgb_to_lab",
    "self_training_ce",
    "sigmoid_focal_loss",
    "upsampled_dice_loss",
]

"""Panoptic segmentation branch: the only head that remains at test time."""

from fdd.modeling.panoptic_branch.branch import PanopticBranch, PanopticPrediction
from fdd.modeling.panoptic_branch.criterion import PanopticCriterion
from fdd.modeling.panoptic_branch.postprocess import merge_masks
from fdd.modeling.panoptic_branch.targets import (
    PanopticTargets,
    PointBoxes,
    build_point_targets,
    build_targets,
)

__all__ = [
    "PanopticBranch",
    "PanopticCriterion",
    "PanopticPrediction",
    "PanopticTargets",
    "PointBoxes",
    "build_point_targets",
    "build_targets",
    "merge_masks",
]

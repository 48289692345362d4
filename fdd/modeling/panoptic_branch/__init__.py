"""Panoptic segmentation branch: the only head that remains at test time."""

from fdd.modeling.panoptic_branch.branch import LossSettings, PanopticBranch, PanopticPrediction
from fdd.modeling.panoptic_branch.targets import PanopticTargets, build_targets

__all__ = [
    "LossSettings",
    "PanopticBranch",
    "PanopticPrediction",
    "PanopticTargets",
    "build_targets",
]

"""Evaluators in Detectron2's sense: panoptic quality of predictions and of the pseudo labels, and
what the labels tell without masks."""

from fdd.evaluation.ground_truth import PanopticGroundTruth
from fdd.evaluation.label_panoptic import PseudoLabelEvaluator
from fdd.evaluation.label_quality import LabelQualityEvaluator
from fdd.evaluation.panoptic import PanopticEvaluator

__all__ = [
    "LabelQualityEvaluator",
    "PanopticEvaluator",
    "PanopticGroundTruth",
    "PseudoLabelEvaluator",
]

"""Evaluators in Detectron2's sense: panoptic quality of predictions and of the pseudo labels, and
what the labels tell without masks."""

from fdd.evaluation.ground_truth import PanopticGroundTruth
from fdd.evaluation.label_quality_evaluation import LabelQualityEvaluator
from fdd.evaluation.panoptic_evaluation import PanopticEvaluator
from fdd.evaluation.pseudo_label_evaluation import PseudoLabelEvaluator

__all__ = [
    "LabelQualityEvaluator",
    "PanopticEvaluator",
    "PanopticGroundTruth",
    "PseudoLabelEvaluator",
]

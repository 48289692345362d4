"""Training and evaluation: everything that turns a config into a run."""

from fdd.engine.checkpoint import CheckpointError, FDDCheckpointer, load_for_inference
from fdd.engine.checks import DatasetError, check_testing, check_training, resolve_device
from fdd.engine.evaluate import (
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
    save_results,
)
from fdd.engine.hooks import BestCheckpointer, PeriodicVisualizer, ResourceLogger
from fdd.engine.loader import (
    TrainingBatchSampler,
    build_test_loader,
    build_train_loader,
    load_training_dicts,
)
from fdd.engine.optimizer import build_lr_scheduler, build_optimizer, resolve_schedule
from fdd.engine.trainer import Trainer

__all__ = [
    "BestCheckpointer",
    "CheckpointError",
    "DatasetError",
    "FDDCheckpointer",
    "PeriodicVisualizer",
    "ResourceLogger",
    "Trainer",
    "TrainingBatchSampler",
    "build_lr_scheduler",
    "build_optimizer",
    "build_test_loader",
    "build_train_loader",
    "check_testing",
    "check_training",
    "evaluate_label_quality",
    "evaluate_predictions",
    "evaluate_pseudo_labels",
    "load_for_inference",
    "load_training_dicts",
    "resolve_device",
    "resolve_schedule",
    "save_results",
]

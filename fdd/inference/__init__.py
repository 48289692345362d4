"""Uses of a trained model: predictions, dense labels, reports, and exported models.

Names are imported when they are first used, because each use needs other libraries.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "ExportOptions": "label_export",
    "ExportSummary": "label_export",
    "ExportedCheckpoint": "checkpoint_export",
    "ExportedProgram": "program_export",
    "PredictionInput": "prediction",
    "PredictionOptions": "prediction",
    "PredictionReport": "prediction",
    "Predictor": "predictor",
    "TrainedModel": "trained_model",
    "export_checkpoint": "checkpoint_export",
    "export_labels": "label_export",
    "export_program": "program_export",
    "find_inputs": "prediction",
    "load_program": "program_export",
    "load_trained": "trained_model",
    "predict_files": "prediction",
    "run_program": "program_export",
    "write_label_report": "report",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

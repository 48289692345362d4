"""--eval-label-quality on images that have points and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from detectron2.utils.events import EventStorage

from fdd.data import register_points
from fdd.engine import evaluate_label_quality
from fdd.modeling.pseudo_labels.diagnostics import LabelDiagnostics
from run_toys import NUM_TRAIN, forget, make_trainer, run_cfg

POINTS_ONLY = "run_toy_points_only"


@pytest.fixture
def points_only(shapes: Any) -> Any:
    """The training images; no metadata names a mask."""
    register_points(POINTS_ONLY, shapes / "train", shapes / "points_train_p10.json")
    yield POINTS_ONLY
    forget(POINTS_ONLY)


def test_a_trained_model_on_a_set_without_masks(points_only: str, tmp_path: Any) -> None:
    cfg = run_cfg(tmp_path / "out", {"DATASETS.TRAIN": (points_only,), "SOLVER.MAX_ITER": 21})
    make_trainer(cfg).train()
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    logged = {key for line in lines for key in json.loads(line) if key.startswith("labels/")}
    names = ("points_right", "confidence", "instance_confidence", "left_out")
    names += ("left_out_nearest", "points_lost", "empty_instances", "empty_things", "swallowing")
    assert logged == {f"labels/{name}" for name in names}

    results = evaluate_label_quality(cfg, resume=True)
    saved = json.loads((tmp_path / "out" / "label_quality_results.json").read_text())["results"]
    assert saved["label_counts"] == results["label_counts"]
    counts, figures = results["label_counts"], results["label_quality"]
    assert counts["images"] == NUM_TRAIN and counts["points"] == 10 * counts["instances"]
    assert counts["left_out"] == counts["points"], "every point once"
    assert 0 < figures["nearest/agreement"] < 100 == figures["nearest/points_held"]
    assert 0 <= figures["learned/agreement"] <= 100 and 0 < figures["learned/confidence"] < 100
    assert math.isnan(figures["nearest/confidence"])
    assert saved["label_quality"]["nearest/confidence"] is None, "strict JSON"
    worst = [row["agreement"] for row in results["worst_images"]]
    assert worst == sorted(worst) and len(worst) == NUM_TRAIN
    assert all(row["file_name"].endswith(".png") for row in results["worst_images"])
    # Once more, the same to the last digit: nothing is drawn.
    again = evaluate_label_quality(cfg, [points_only], resume=True)
    assert again["label_counts"] == results["label_counts"]
    assert again["worst_images"] == results["worst_images"]


def test_the_warning_reaches_the_log_of_a_training(
    points_only: str, tmp_path: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits by which the first instance takes every cell of its image."""
    cfg = run_cfg(tmp_path / "out", {"DATASETS.TRAIN": (points_only,), "SOLVER.MAX_ITER": 1})
    trainer = make_trainer(cfg)
    seen: list[Any] = []
    log = LabelDiagnostics.log

    def record(self: Any, *args: Any) -> None:
        seen.append((self, args))
        log(self, *args)

    monkeypatch.setattr(LabelDiagnostics, "log", record)
    trainer.train()
    diagnostics, (inputs, output, *rest) = seen[0]
    output.instance[-1].data[:, 0] += 1e4
    with EventStorage(20) as storage, caplog.at_level("WARNING", "fdd"):
        for _ in range(3):
            diagnostics.log(inputs, output, *rest)
    assert "labelled segments" in caplog.text and "COLOR_WEIGHT" in caplog.text
    assert storage.latest()["labels/empty_instances"][0] > 0.5

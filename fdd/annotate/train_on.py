"""What "Train on" and "Export labels" run: commands of this program, on a copy of the points."""

from __future__ import annotations

import json
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from detectron2.config import CfgNode

from fdd.annotate.start import OpenedDataset, dataset_text
from fdd.annotate.store import AnnotationStore
from fdd.engine.checkpoint import write_atomically

__all__ = [
    "EXPORT_FORMATS",
    "export_command",
    "export_progress",
    "resume_command",
    "take_snapshot",
    "training_commands",
    "training_config",
    "training_progress",
]

#: Forms of labels that the page offers; panoptic is always written.
EXPORT_FORMATS = ("panoptic", "semantic", "coco", "yolo", "detectron2")
# What a training says of left-out points, and in its log when it begins; lines to look at.
_LEFT_OUT, _BEGINS, _REPORTS = "labels/left_out", b"Starting training from", 40
_FDD = (sys.executable, "-m", "fdd")
# Labels are to be good from the first click on, not only with as many points as there are.
_SUBSETS = 1.0
# Steps that are lost at most when a training is cut off.
_CHECKPOINTS = 100


def take_snapshot(opened: OpenedDataset, store: AnnotationStore, folder: Path) -> Path:
    """Save the points, and copy them into a folder with a data set file of their own.

    Returns:
        The data set file.

    Raises:
        PointsChanged, OSError: see :meth:`AnnotationStore.save`.
    """
    store.save()
    points = folder / "points.json"
    shutil.copyfile(store.points_file, points)
    path = folder / "dataset.yaml"
    text = dataset_text(str(opened.dataset.images), points.name, opened.dataset.classes)
    write_atomically(str(path), text.encode("utf-8"))
    return path


def training_config(cfg: CfgNode, snapshot: Path, output: Path, steps: int) -> CfgNode:
    """That of a model, for going on from its weights with the points of a snapshot.

    Only what makes labels is of use here: the panoptic branch does not go on alone, and nothing is
    evaluated.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (str(snapshot),), ()
    cfg.OUTPUT_DIR = str(output)
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.EPOCH_STEPS, cfg.SOLVER.STEPS = 0, (), ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.HEAD_ITERS = steps, 0
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, steps // 10)
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, min(_CHECKPOINTS, steps))
    cfg.MODEL.FDD.WARMUP_ITERS = 0  # of the losses: the labels are good already
    cfg.MODEL.FDD.PSEUDO.PROMPT_SUBSETS = _SUBSETS
    cfg.TEST.EVAL_PERIOD, cfg.VIS_PERIOD = 0, 0
    return cfg


def training_commands(
    snapshot: Path, folder: Path, cfg: CfgNode | None, steps: int | None, opts: Sequence[str] = ()
) -> list[list[str]]:
    """Commands that train in ``folder / "run"``.

    Args:
        snapshot: data set file.
        folder: of the training.
        cfg: of the model whose weights are gone on from; None: as ``fdd init-config`` says.
        steps: None: 200, or the recipe's.
        opts: config keys and values, in pairs; they act on a training without a model.
    """
    config, run = folder / "train.yaml", folder / "run"
    train = [*_FDD, "train", "--config-file", str(config)]
    if cfg is not None:
        given = training_config(cfg, snapshot, run, 200 if steps is None else steps)
        write_atomically(str(config), given.dump().encode("utf-8"))
        return [train]
    # What is given comes later, and counts.
    own = ["MODEL.FDD.PSEUDO.PROMPT_SUBSETS", str(_SUBSETS), *opts]
    begin = [*_FDD, "init-config", str(snapshot), "--output", str(config), "--no-timing", *own]
    words = ["OUTPUT_DIR", str(run), "SOLVER.HEAD_ITERS", "0", "DATASETS.TEST", "()"]
    if steps is not None:
        words += ["SOLVER.MAX_EPOCHS", "0", "SOLVER.MAX_ITER", str(steps), "SOLVER.STEPS", "()"]
    return [begin, [*train, *words]]


def resume_command(config: Path) -> list[str]:
    """``fdd train`` that goes on from the last checkpoint of a training with this config."""
    return [*_FDD, "train", "--config-file", str(config), "--resume"]


def training_progress(folder: Path) -> tuple[float, str] | None:
    """How far a training is, by what it writes; None before its first step."""
    reports = _last_reports(folder / "run" / "metrics.json")
    steps = [report for report in reports if "eta_seconds" in report and "iteration" in report]
    if not steps:
        return (0.0, "first steps") if _has_begun(folder / "log.txt") else None
    last = steps[-1]
    done, left = int(last["iteration"]) + 1, float(last["eta_seconds"])
    seconds = float(last.get("time", 0))
    total = done + (round(left / seconds) if seconds > 0 else 0)
    words = f"step {done:,} of about {total:,}, {_duration(left)} left"
    right = [report[_LEFT_OUT] for report in reports if _LEFT_OUT in report]
    if right:
        words += f"; {right[-1]:.0%} of left-out points labelled right"
    return done / max(total, 1), words


def _has_begun(log: Path) -> bool:
    try:
        return _BEGINS in log.read_bytes()
    except OSError:
        return False


def export_command(
    snapshot: Path, output: Path, model: str, weights: str | None, formats: Sequence[str]
) -> list[str]:
    """``fdd labels export`` of the snapshot by a model."""
    chosen = [] if weights is None else ["--weights", weights]
    command = [*_FDD, "labels", "export", "--model", model, *chosen, "--dataset", str(snapshot)]
    return [*command, "--output", str(output), "--formats", *formats]


def export_progress(output: Path, images: int) -> tuple[float, str] | None:
    """How many images are labelled."""
    done = sum(1 for _ in (output / "panoptic").glob("**/*.png"))
    return min(1.0, done / max(1, images)), f"{done:,} of {images:,} images"


def _last_reports(path: Path) -> list[dict[str, float]]:
    """The latest lines of a training's metrics, those that are whole."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = deque(file, _REPORTS)
    except OSError:
        return []
    reports = []
    for line in lines:
        with suppress(ValueError):
            reports.append(json.loads(line))
    return [report for report in reports if isinstance(report, dict)]


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"

"""One run of a table in a process of its own: train, evaluate, score labels, write the record."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from fdd.ablations.records import Run, config_digest, describe_machine, write_record
from fdd.ablations.tables import MASKS, Data, Setting, label_set, read_tables, run_config

#: What records keep of an evaluation of predictions.
PANOPTIC_FIGURES = ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")
# The ends of the scale: they take no training, so every run may tell them.
_FREE_BASELINES = ("point", "full")
_LABELS = ("/PQ", "/PQ_th", "/PQ_st", "/mIoU")


def execute(
    run: Run, data: Data, output: Path, records: Path, opts: Sequence[str] = (), keep: bool = False
) -> dict[str, Any]:
    """Train one setting with one seed; a run that was cut goes on from its last checkpoint.

    Args:
        output: the run's own folder (log, checkpoints, results) is made below it.
        records: folder for the record.
        opts: KEY VALUE pairs for every run of the series.
        keep: keep the checkpoints.

    Returns:
        The record.
    """
    import fdd.modeling  # noqa: F401  registers the meta-architecture
    from fdd.engine import Trainer, resolve_device
    from fdd.engine.checkpoint import check_weights

    folder = output / run.setting.data / run.name
    cfg = run_config(run.setting, data, run.seed, folder)
    cfg.merge_from_list(list(opts))
    digest = config_digest(cfg)
    resolve_device(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    forget_other_config(folder, digest)
    start = time.perf_counter()
    # As default_setup does for train_net.py; without it every seed starts from the same weights.
    seed_all_rng(cfg.SEED)
    check_weights(cfg.MODEL.WEIGHTS, save_dir=cfg.OUTPUT_DIR, resume=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    resumed = trainer.start_iter
    trainer.train()
    trained = time.perf_counter()
    results = json.loads((folder / "results.json").read_text())["results"]
    scores = {} if run.setting.points == MASKS else _score_labels(cfg, run.setting, data)
    record = {
        "data": run.setting.data,
        "points": run.setting.points,
        "setting": run.setting.slug,
        "overrides": {key: value for key, value in run.setting.overrides},
        "seed": run.seed,
        "config_digest": digest,
        "maker": cfg.MODEL.FDD.LABEL_MAKER,
        "weights": os.path.basename(cfg.MODEL.WEIGHTS),
        "iterations": trainer.max_iter,
        "resumed_at": resumed,
        "val": {key: rounded(results["panoptic_seg"][key]) for key in PANOPTIC_FIGURES},
        "labels": label_figures(scores),
        "train_seconds": round(trained - start, 1),
        "label_seconds": round(time.perf_counter() - trained, 1),
        **describe_machine(cfg.MODEL.DEVICE),
    }
    write_record(run.record(records), record)
    if not keep:
        drop_checkpoints(folder)
    return record


def _score_labels(cfg: CfgNode, setting: Setting, data: Data) -> Mapping[str, Any]:
    """Figures of the labels that the run's last checkpoint makes, and of the baselines."""
    from fdd.engine import evaluate_pseudo_labels

    names = [label_set(setting, data)] if data.labels else []
    cfg = cfg.clone()
    baselines = (*cfg.TEST.PSEUDO_LABELS.BASELINES, *_FREE_BASELINES)
    cfg.TEST.PSEUDO_LABELS.BASELINES = tuple(dict.fromkeys(baselines))
    return evaluate_pseudo_labels(cfg, names, resume=True)["pseudo_labels"]


def forget_other_config(folder: Path, digest: str) -> None:
    """Move away what another config left in the run's folder: its checkpoints are no start for this
    one, and its figures are not this one's."""
    from fdd.engine.run_folder import move_aside

    stamp = folder / "config_digest.txt"
    if stamp.exists() and stamp.read_text() != digest:
        move_aside(folder)
    stamp.write_text(digest)


def label_figures(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """What records keep of an evaluation of pseudo labels, ``<maker>/<figure>``."""
    return {k: rounded(v) for k, v in scores.items() if k.endswith(_LABELS)}


def rounded(value: float | None) -> float | None:
    """A figure as records have it; None for one of nothing."""
    return None if value is None or value != value else round(float(value), 2)


def drop_checkpoints(folder: Path) -> None:
    """Remove what a run needs only as long as it is not done."""
    for path in (*folder.glob("*.pth"), folder / "last_checkpoint", folder / "model_best.json"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "inference", ignore_errors=True)


def command_of(run: Run, output: Path, records: Path, opts: Sequence[str], keep: bool) -> list[str]:
    """Arguments for ``python -m fdd.ablations.execute`` that :func:`main` turns into the run."""
    setting = {
        "data": run.setting.data,
        "points": run.setting.points,
        "overrides": run.setting.overrides,
    }
    arguments = ["--setting", json.dumps(setting), "--seed", str(run.seed)]
    arguments += ["--output", str(output), "--records", str(records)]
    return [*arguments, *(["--keep"] if keep else []), *opts]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fdd.ablations.execute", description=__doc__)
    parser.add_argument("--setting", required=True, type=json.loads)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--records", required=True, type=Path)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    overrides = tuple(
        (key, tuple(value) if isinstance(value, list) else value)
        for key, value in args.setting["overrides"]
    )
    setting = Setting(args.setting["data"], args.setting["points"], overrides)
    _, data = read_tables()
    run = Run(setting, args.seed)
    execute(run, data[setting.data], args.output, args.records, args.opts, args.keep)


if __name__ == "__main__":
    main()

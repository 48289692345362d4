"""One run in a process of its own: train, evaluate, score its labels, write the record.

A run is of one of the paper's tables or of a study; a backbone to start from is trained the same
way, once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from fdd.ablations.records import Run, config_digest, describe_machine, write_record
from fdd.ablations.study import (
    Study,
    StudyData,
    StudyRun,
    expand,
    read_study,
    shell_command,
)
from fdd.ablations.study import run_config as study_config
from fdd.ablations.tables import (
    MASKS,
    Data,
    Setting,
    label_set,
    read_tables,
    run_config,
    shipped_config,
)
from fdd.config import label_maker_of
from fdd.points.files import atomic_path

#: What records keep of an evaluation of predictions.
PANOPTIC_FIGURES = ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")
_LABELS = ("/PQ", "/PQ_th", "/PQ_st", "/mIoU")
# The ends of the scale: they take no training, so every run may tell them.
_FREE_BASELINES = ("point", "full")
# What else is scored on other numbers of points in a study: what is fast. Every set would take as
# long as the training's own.
_AT_OTHER_POINTS = ("nearest", "semantic_nearest")
_BACKBONE = "backbone."


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
    """Move away what another config left in the run's folder: its checkpoints cannot start this
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


def execute_study_run(
    study: Study,
    run: StudyRun,
    output: Path,
    records: Path,
    opts: Sequence[str] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Train and score one run; one that was cut goes on from its last checkpoint.

    Args:
        output: the run's own folder (log, checkpoints, results) is made below it.
        records: folder for the record.
        opts: KEY VALUE pairs for every run of the series.
        keep: keep the checkpoints.

    Returns:
        The record.
    """
    from fdd.engine import command

    folder = output / run.group / run.name
    cfg, arguments = study_config(study, run, folder, opts)
    digest = config_digest(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    forget_other_config(folder, digest)
    machine = describe_machine(cfg.MODEL.DEVICE)  # now: the checkout may change under a long run
    trained = folder / "trained"  # with its evaluation: only the scoring is left
    if not (trained.exists() and (folder / "model_final.pth").exists()):
        trained.unlink(missing_ok=True)
        command.main(command.parse_args(["--resume", *arguments]))
        trained.touch()
    start, cpu = time.perf_counter(), time.process_time()
    labels, by_points = score_labels(cfg, study.data[run.data])
    iterations, seconds = training_time(folder)
    record = {
        "data": run.data,
        "setting": run.setting,
        "overrides": dict(study.settings[run.setting]),
        "seed": run.seed,
        "config_digest": digest,
        "command": shell_command(study, run, opts),
        "maker": label_maker_of(cfg),
        "weights": os.path.basename(cfg.MODEL.WEIGHTS),
        "iterations": iterations,
        "val": _validation_figures(folder),
        "labels": labels,
        "labels_by_points": by_points,
        "train_seconds": round(seconds, 1),
        "label_seconds": round(time.perf_counter() - start, 1),
        "label_cpu_seconds": round(time.process_time() - cpu, 1),
        **machine,
    }
    write_record(run.record(records), record)
    if not keep:
        drop_checkpoints(folder)
    return record


def score_labels(
    cfg: CfgNode, data: StudyData
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Figures of the labels of the run's last checkpoint and of every baseline.

    Args:
        cfg: that the run was trained with.
        data: names the point sets; ``data.points`` are left out for other than ``points_seeds``.

    Returns:
        On the point set of ``data.labels``; and by the names of ``data.points``, where only the
        fast baselines stand beside the labels. Empty for a run on full masks, which makes no
        labels.
    """
    from fdd.data.dataset_files import resolve_name
    from fdd.engine import evaluate_pseudo_labels
    from fdd.modeling.distance_embedding import DistanceEmbedding

    if cfg.MODEL.FDD.PAN_SUPERVISION == "full":
        return {}, {}
    cfg = cfg.clone()
    cfg.defrost()
    if not DistanceEmbedding.is_used(cfg):  # none was trained, so no baseline can use one
        cfg.MODEL.FDD.DISTANCE.EMBEDDING = False
    makers = baselines_for(cfg, data.baselines)
    own = resolve_name(expand(data.labels), "points") if data.labels else cfg.DATASETS.TRAIN[0]
    wanted = data.points_seeds is None or cfg.SEED in data.points_seeds
    others = {
        name: own if entry is None else resolve_name(expand(entry), "points")
        for name, entry in (data.points.items() if wanted else ())
    }
    figures: dict[str, dict[str, float | None]] = {}
    more = [name for name in dict.fromkeys(others.values()) if name != own]
    few = tuple(maker for maker in makers if maker in _AT_OTHER_POINTS)
    # The own set last: its results are what stays in the run's folder.
    for names, baselines in ((more, few), ([own], makers)):
        if not names:
            continue
        cfg.TEST.PSEUDO_LABELS.BASELINES = baselines
        results = evaluate_pseudo_labels(cfg, names, resume=True, share_features=len(names) > 1)
        by_name = {names[0]: results} if len(names) == 1 else results
        figures |= {name: label_figures(by_name[name]["pseudo_labels"]) for name in names}
    return figures[own], {name: figures[entry] for name, entry in others.items()}


def baselines_for(cfg: CfgNode, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The label makers that can be scored beside the run's own.

    Args:
        cfg: of the run.
        wanted: names; None: all there are. What a run's model cannot serve is left out.

    Raises:
        ValueError: there is no label maker of a wanted name.
    """
    from fdd.config import check_fdd_config
    from fdd.modeling.label_makers import get_label_maker, label_maker_names

    cfg = cfg.clone()
    cfg.defrost()
    names = []
    for name in label_maker_names() if wanted is None else wanted:
        get_label_maker(name)
        cfg.TEST.PSEUDO_LABELS.BASELINES = (name,)
        try:
            check_fdd_config(cfg)
        except ValueError:  # it needs what this model does not have
            continue
        names.append(name)
    return tuple(names)


def training_time(folder: Path) -> tuple[int, float]:
    """Iterations of a run, and the seconds that their steps took, from its log: also those of
    processes that were cut.

    Returns:
        The log has the median step of each stretch of iterations; these are added up, so
        checkpoints and evaluations are not in it (and 0 s for a run of two iterations, which are no
        measurement).
    """
    times: dict[int, float] = {}
    iterations = 0
    for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        done = int(entry["iteration"]) + 1
        if "total_loss" in entry:  # of a step; what follows the last one is counted one on
            iterations = max(iterations, done)
        if "time" in entry:
            times[done] = float(entry["time"])
    total, before = 0.0, 0
    for done in sorted(times):
        total += (done - before) * times[done]
        before = done
    return iterations, total


def _validation_figures(folder: Path) -> dict[str, float | None]:
    """PQ on the validation set; nothing where the data have none."""
    path = folder / "results.json"
    if not path.exists():
        return {}
    results = json.loads(path.read_text(encoding="utf-8"))["results"]["panoptic_seg"]
    return {key: rounded(results[key]) for key in PANOPTIC_FIGURES}


def pretrain_backbone(config: str, path: Path, folder: Path) -> None:
    """Train a shipped config and keep its backbone.

    Args:
        config: as :func:`fdd.config_files.get_config_file` knows it.
        path: the file of weights to write; Detectron2's form, for ``MODEL.WEIGHTS``.
        folder: log and checkpoints of the training; one that was cut goes on from there.
    """
    import fdd.modeling  # noqa: F401  registers the meta-architecture
    from fdd.engine import Trainer, resolve_device

    cfg = shipped_config(config).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(folder)
    resolve_device(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    weights = trainer.model.state_dict()
    kept = {name: value.cpu() for name, value in weights.items() if name.startswith(_BACKBONE)}
    with atomic_path(path) as temporary:
        torch.save({"model": kept, "__author__": "fdd.ablations.pretrain"}, temporary)


def command_of(run: Run, output: Path, records: Path, opts: Sequence[str], keep: bool) -> list[str]:
    """Arguments of Python that execute a run of a table, see :func:`main`."""
    setting = {
        "data": run.setting.data,
        "points": run.setting.points,
        "overrides": run.setting.overrides,
    }
    return _command("table", run, {"setting": json.dumps(setting)}, output, records, opts, keep)


def study_command_of(
    study: Study, run: StudyRun, output: Path, records: Path, opts: Sequence[str], keep: bool
) -> list[str]:
    """Arguments of Python that execute a run of a study, see :func:`main`."""
    own = {"study": str(study.path), "data": run.data, "setting": run.setting}
    return _command("study", run, own, output, records, opts, keep)


def _command(
    kind: str,
    run: Run | StudyRun,
    own: Mapping[str, str],
    output: Path,
    records: Path,
    opts: Sequence[str],
    keep: bool,
) -> list[str]:
    options = {**own, "seed": str(run.seed), "output": str(output), "records": str(records)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["-m", "fdd.ablations.execute", kind, *words, *(["--keep"] if keep else []), *opts]


def backbone_command(config: str, weights: Path, output: Path) -> list[str]:
    """Arguments of Python for :func:`pretrain_backbone`, see :func:`main`."""
    words = ["--config", config, "--weights", str(weights), "--output", str(output)]
    return ["-m", "fdd.ablations.execute", "backbone", *words]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fdd.ablations.execute", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    table, study, backbone = map(kinds.add_parser, ("table", "study", "backbone"))
    table.add_argument("--setting", required=True, type=json.loads)
    study.add_argument("--study", required=True, type=Path)
    study.add_argument("--data", required=True)
    study.add_argument("--setting", required=True)
    for kind in (table, study):
        kind.add_argument("--seed", required=True, type=int)
        kind.add_argument("--output", required=True, type=Path)
        kind.add_argument("--records", required=True, type=Path)
        kind.add_argument("--keep", action="store_true")
        kind.add_argument("opts", nargs=argparse.REMAINDER)
    backbone.add_argument("--config", required=True)
    backbone.add_argument("--weights", required=True, type=Path)
    backbone.add_argument("--output", required=True, type=Path)
    args = parser.parse_args(argv)
    if args.kind == "backbone":
        pretrain_backbone(args.config, args.weights, args.output)
        return
    series = args.output, args.records, args.opts, args.keep
    if args.kind == "study":
        study_run = StudyRun(args.data, args.setting, args.seed)
        execute_study_run(read_study(args.study), study_run, *series)
        return
    overrides = tuple(
        (key, tuple(value) if isinstance(value, list) else value)
        for key, value in args.setting["overrides"]
    )
    setting = Setting(args.setting["data"], args.setting["points"], overrides)
    execute(Run(setting, args.seed), read_tables()[1][setting.data], *series)


if __name__ == "__main__":
    main()

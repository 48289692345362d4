"""One run of a study in a process of its own: train, score its labels and baselines, write the
record."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from fdd.ablations.execute import (
    PANOPTIC_FIGURES,
    drop_checkpoints,
    forget_other_config,
    label_figures,
    rounded,
)
from fdd.ablations.records import config_digest, describe_machine, write_record
from fdd.ablations.study import (
    Study,
    StudyData,
    StudyRun,
    expand,
    read_study,
    run_config,
    shell_command,
)
from fdd.config import label_maker_of

# What else is scored on other numbers of points: what is fast. Every set would take as long as the
# training's own.
_AT_OTHER_POINTS = ("nearest", "semantic_nearest")


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
    cfg, arguments = run_config(study, run, folder, opts)
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


def command_of(
    study: Study, run: StudyRun, output: Path, records: Path, opts: Sequence[str], keep: bool
) -> list[str]:
    """Arguments for ``python -m fdd.ablations.study_execute`` that :func:`main` turns into the
    run."""
    arguments = ["--study", str(study.path), "--data", run.data, "--setting", run.setting]
    arguments += ["--seed", str(run.seed), "--output", str(output), "--records", str(records)]
    return [*arguments, *(["--keep"] if keep else []), *opts]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fdd.ablations.study_execute", description=__doc__
    )
    parser.add_argument("--study", required=True, type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--setting", required=True)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--records", required=True, type=Path)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    run = StudyRun(args.data, args.setting, args.seed)
    execute_study_run(read_study(args.study), run, args.output, args.records, args.opts, args.keep)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Train a list of runs and compare their labels with every baseline.

    python tools/run_label_study.py --jobs 2 --limit-minutes 50
    python tools/run_label_study.py --only voc_slice_P10/default --dry-run
    python tools/run_label_study.py --report > labels.md

What is run stands in a YAML file, see fdd/ablations/study.py. Each run leaves one JSON below
--records; runs that have one are skipped, and one that was cut goes on from its last checkpoint.
A run is one process with one thread. KEY VALUE pairs at the end hold for every run (two dashes end
options with several values). Two series at a time must not share runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdd.ablations.execute import study_command_of
from fdd.ablations.queue import RunQueue, finished_in
from fdd.ablations.records import config_digest
from fdd.ablations.report import study_markdown, study_records
from fdd.ablations.study import Study, StudyRun, read_study, run_config, shell_command

_STUDY = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "label_study.yaml"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=_STUDY, help="the YAML file of the runs")
    parser.add_argument(
        "--only", nargs="+", metavar="DATA[/SETTING]", help="only these, by their names in it"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument(
        "--limit-minutes", type=float, help="after which no run is started any more"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output/label_study"), help="folder of the runs"
    )
    parser.add_argument(
        "--records", type=Path, help="folder of the JSON files (default: <output>/records)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the runs")
    parser.add_argument(
        "--report", action="store_true", help="only print the tables of the records, in Markdown"
    )
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of the runs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every run")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}; expected at least 1")
    args.opts = args.opts[1:] if args.opts[:1] == ["--"] else args.opts
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE pairs expected, got {' '.join(args.opts)}")
    args.output = args.output.resolve()
    args.records = (args.records or args.output / "records").resolve()
    return args


def plan(study: Study, only: Sequence[str] | None, seeds: Sequence[int] | None) -> list[StudyRun]:
    """The chosen runs of a study.

    Raises:
        ValueError: a name that no run has, or seeds that none has.
    """
    runs = [run for run in study.runs if seeds is None or run.seed in seeds]
    for name in only or ():
        if not any(name in _names(run) for run in runs):
            known = sorted({_names(run)[1] for run in study.runs})
            raise ValueError(f"--only {name}: no such run; there are {', '.join(known)}")
    runs = [run for run in runs if only is None or set(only) & set(_names(run))]
    if not runs:
        raise ValueError(f"no run of {study.path} has one of the seeds {seeds}")
    return runs


def _names(run: StudyRun) -> tuple[str, str]:
    return run.data, f"{run.data}/{run.setting}"


def digests(
    study: Study, runs: Sequence[StudyRun], opts: Sequence[str]
) -> dict[tuple[str, str], str]:
    """What the records of each (data, setting) must say. A config that cannot work shows here, not
    after the first runs."""
    found: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            key = run.data, run.setting
            if key not in found:
                cfg, _ = run_config(study, run, Path(folder), opts)
                found[key] = config_digest(cfg)
    return found


def train(args: argparse.Namespace, study: Study, runs: Sequence[StudyRun]) -> bool:
    """Run, or list, what has no record; whether all have one now."""
    digest = digests(study, runs, args.opts)
    finished = finished_in(args.records, lambda run: digest[run.data, run.setting])
    if args.dry_run:
        for run in runs:
            state = "done" if finished(run) else "to do"
            print(f"{state:<6s} {run.group}/{run.name}: {shell_command(study, run, args.opts)}")
        print(f"{len(runs)} runs of {len(digest)} settings")
        return True
    queue: RunQueue[StudyRun] = RunQueue(
        lambda run: study_command_of(
            study, run, args.output / "runs", args.records, args.opts, args.keep
        ),
        finished,
        args.output / "runs",
        args.jobs,
        {"OMP_NUM_THREADS": "1"},
        say=lambda line: print(line, flush=True),
    )

    def stop(number: int, frame: Any) -> None:
        queue.terminate()  # here: an exception may be swallowed where it happens to be raised
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    limit = args.limit_minutes
    return queue.work(runs, None if limit is None else 60 * limit)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    study = read_study(args.study)
    runs = plan(study, args.only, args.seeds)
    if args.report:
        found = study_records(study, args.records, runs)
        if not found:
            raise ValueError(f"no record of {args.study} in {args.records}")
        print(study_markdown(study, found), end="")
        return 0
    return 0 if train(args, study, runs) else 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")

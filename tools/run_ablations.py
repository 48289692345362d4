#!/usr/bin/env python3
"""Run the paper's tables and compare.

    python tools/run_ablations.py --table 6 --data shapes --seeds 3 --jobs 2
    python tools/run_ablations.py --table all --data voc --points P10 --dry-run

Each run leaves one JSON below --records; runs that have one are skipped, so that a series can be
stopped and taken up again. Writes table_<number>_<data>.md and .png below --output.
KEY VALUE pairs at the end hold for every run, such as -- MODEL.WEIGHTS r50.pkl (the two dashes end
options with several values). Two series at a time must not share runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdd.ablations.execute import backbone_command, command_of
from fdd.ablations.queue import RunQueue, finished_in
from fdd.ablations.records import Run, config_digest, read_record
from fdd.ablations.report import draw_table, lines_of, markdown
from fdd.ablations.tables import (
    MASKS,
    POINTS,
    Data,
    Setting,
    Table,
    read_tables,
    run_config,
    settings_of,
)
from fdd.config import check_fdd_config

# The drawings that configs/ablations/shapes_*.yaml are made for.
_SHAPES = {"num_train": 400, "num_val": 100, "size": 128, "seed": 0}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    tables, data = read_tables()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", nargs="+", default=["all"], help=f"numbers among {_list(tables)}; or all (1-8)"
    )
    parser.add_argument("--data", required=True, choices=data, help="what to train on")
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument(
        "--settings", nargs="+", help="only these, by their names in --dry-run (such as default)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs a setting (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument(
        "--output", type=Path, default=Path("output/ablations"), help="folder of everything else"
    )
    parser.add_argument(
        "--records", type=Path, help="folder of the JSON files (default: <output>/records)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the runs")
    parser.add_argument("--report-only", action="store_true", help="only write tables and figures")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of the runs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every run")
    args = parser.parse_args(argv)
    known = {str(number) for number in tables}
    wrong = [name for name in args.table if name not in known | {"all"}]
    if wrong:
        parser.error(f"--table {' '.join(wrong)}: expected {_list(tables)} or all")
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs take numbers of at least 1")
    args.opts = args.opts[1:] if args.opts[:1] == ["--"] else args.opts
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE pairs expected, got {' '.join(args.opts)}")
    # "all" leaves Table 9 out: it compares label makers, most of which need no ablation.
    every = "all" in args.table
    args.table = [n for n in tables if str(n) in args.table or (every and n != 9)]
    args.output = args.output.resolve()
    args.records = (args.records or args.output / "records").resolve()
    return args


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def prepare_shapes(output: Path) -> tuple[dict[str, str], list[str]]:
    """Draw the shapes, and train the backbone that every run starts from; both only once.

    Returns:
        Variables, and KEY VALUE pairs, for the runs.
    """
    from fdd.data.shapes import generate_shapes
    from fdd.points import STRATEGIES

    root, other = output / "datasets", output / "pretraining"
    generate_shapes(root, strategies=STRATEGIES, **_SHAPES)
    weights = output / "shapes_backbone.pth"
    if not weights.exists():
        generate_shapes(other / "datasets", **{**_SHAPES, "num_val": 1, "seed": 1})
        print(f"Training the backbone, once; its log is {other / 'log.txt'}", flush=True)
        command = backbone_command("ablations/shapes_pretrain.yaml", weights, other)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            env={**os.environ, "FDD_DATASETS": str(other / "datasets")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"training the backbone failed; see {other / 'log.txt'}")
    return {"FDD_DATASETS": str(root)}, ["MODEL.WEIGHTS", str(weights)]


def plan(args: argparse.Namespace, tables: Sequence[Table], data: Data) -> list[Run]:
    """Every distinct run; all settings with the first seed come first."""
    settings = [s for s in settings_of(tables, data) if s.points in (*args.points, MASKS)]
    if args.settings:
        names = {s.slug for s in settings}
        unknown = sorted(set(args.settings) - names)
        if unknown:
            raise ValueError(
                f"--settings {' '.join(unknown)}: not in these tables; there are "
                f"{', '.join(sorted(names))}"
            )
        settings = [s for s in settings if s.slug in args.settings]
    return [Run(setting, seed) for seed in range(1, args.seeds + 1) for setting in settings]


def check_opts(opts: Sequence[str], tables: Sequence[Table]) -> None:
    """Refuse what would make rows equal that are named as if they differed."""
    keys = {f"MODEL.FDD.{key}" for table in tables for row in table.rows for key in row.overrides}
    both = sorted({*opts[::2]} & (keys | {"DATASETS.TRAIN", "SEED", "OUTPUT_DIR"}))
    if both:
        raise ValueError(f"{', '.join(both)}: the rows or the command itself set it; leave it out")


def digests(args: argparse.Namespace, tables: Sequence[Table], data: Data) -> dict[Setting, str]:
    """What the record of each setting must say. A config that cannot work shows here, not after the
    first runs."""
    found = {}
    for setting in settings_of(tables, data):
        cfg = run_config(setting, data, 1, args.output)
        cfg.merge_from_list(args.opts)
        check_fdd_config(cfg)
        found[setting] = config_digest(cfg)
    return found


def write_reports(
    args: argparse.Namespace, tables: Sequence[Table], data: Data, digest: dict[Setting, str]
) -> None:
    records: dict[tuple[str, str], list[dict[str, Any]]] = {}
    other = 0
    for setting, wanted in digest.items():
        mine = records[setting.points, setting.slug] = []
        for seed in range(1, args.seeds + 1):
            path = Run(setting, seed).record(args.records)
            record = read_record(path, wanted)
            if record:
                mine.append(record)
            other += record is None and path.exists()
    if other:
        print(f"{other} records in {args.records} are of another config and left out")
    args.output.mkdir(parents=True, exist_ok=True)
    for table in tables:
        lines = lines_of(table, data, records)
        text = markdown(table, lines, args.seeds)
        stem = args.output / f"table_{table.number}_{data.name}"
        stem.with_suffix(".md").write_text(text, encoding="utf-8")
        draw_table(table, lines, data.name, stem.with_suffix(".png"))
        print(f"\n{text}\n{stem}.md, .png")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    all_tables, all_data = read_tables()
    tables, data = [all_tables[number] for number in args.table], all_data[args.data]
    check_opts(args.opts, tables)
    runs = plan(args, tables, data)
    digest = digests(args, tables, data)
    finished = finished_in(args.records, lambda run: digest[run.setting])
    if args.dry_run:
        for run in runs:
            changed = " ".join(f"{key}={value}" for key, value in run.setting.overrides)
            state = "done" if finished(run) else "to do"
            print(f"{state:<6s} {data.name} {run.name:<46s} {changed}")
        print(f"{len(runs)} runs of {len({run.setting for run in runs})} settings")
        return 0
    complete = True
    if not args.report_only:
        environment: dict[str, str] = {}
        opts = args.opts
        if args.data == "shapes":
            environment, weights = prepare_shapes(args.output)
            opts = [*weights, *opts]
        queue = RunQueue(
            lambda run: command_of(run, args.output / "runs", args.records, opts, args.keep),
            finished,
            args.output / "runs",
            args.jobs,
            environment,
            say=lambda line: print(line, flush=True),
        )
        complete = queue.work(runs)
    write_reports(args, tables, data, digest)
    return 0 if complete else 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    try:
        sys.exit(main())
    except (OSError, ValueError, KeyError, AssertionError) as error:  # yacs asserts keys
        sys.exit(f"error: {error}")

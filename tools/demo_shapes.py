#!/usr/bin/env python3
"""The whole of FDD in minutes: draw shapes, train from points, evaluate, report.

Runs ``train_net.py`` twice (training with evaluation, then the pseudo labels of the training
images) and writes ``report.html``, ``contact_sheet.png`` and ``summary.json`` to the output folder.
What an earlier demo left there is replaced; files of others are kept in ``earlier_001`` and so on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
POINTS_PER_TARGET = 10
SHEET_ROWS = 6
SHEET_COLUMNS = ("Points", "Pseudo label", "By rule", "Auxiliary semantics")
SHEET_COLUMNS += ("Prediction", "Ground truth")
# What the demo has written, so that the next one replaces that, and nothing else.
RECORD, PRODUCTS = "demo_files.json", ("summary.json", "report.html", "contact_sheet.png")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/demo", type=Path, help="folder of the results")
    parser.add_argument("--config-file", default=REPOSITORY / "configs/shapes/fdd_small_P10.yaml")
    parser.add_argument("--train", default=400, type=int, help="training images to draw")
    parser.add_argument("--val", default=60, type=int, help="validation images to draw")
    parser.add_argument("--size", default=192, type=int, help="side of the images in pixels")
    parser.add_argument("--seed", default=0, type=int, help="seed of the drawings")
    parser.add_argument("--report-images", default=24, type=int, help="images in the report")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs for the config")
    args = parser.parse_args(argv)
    if args.report_images < 1:
        parser.error(f"--report-images {args.report_images}: expected at least 1")
    return args


def run_train_net(args: argparse.Namespace, folder: Path, *extra: str) -> float:
    """Run ``train_net.py`` with its output on this terminal; returns the seconds it took."""
    command = [sys.executable, str(REPOSITORY / "train_net.py")]
    command += ["--config-file", str(args.config_file), *extra, "OUTPUT_DIR", str(folder)]
    start = time.perf_counter()
    done = subprocess.run([*command, *args.opts], check=False)
    if done.returncode:
        sys.exit(f"train_net.py failed with exit code {done.returncode}; its log is in {folder}")
    return time.perf_counter() - start


def clear(folder: Path, training: Path) -> None:
    """Make room in the output folder: delete what an earlier demo wrote, if it is as that left it.

    Files of others with such names, and a training that somebody has begun there since, are moved
    into a sub-folder.
    """
    from fdd.engine.run_folder import files_of_run, move_aside, move_files_aside

    own = read_record(folder)
    for path in produced(folder, training):
        name = path.relative_to(folder).as_posix()
        if own.get(name) == fingerprint(path):
            path.unlink()
    if files_of_run(training):
        move_aside(training)
    if left := [name for name in PRODUCTS if (folder / name).exists()]:
        move_files_aside(folder, left)
    (folder / RECORD).unlink(missing_ok=True)


def produced(folder: Path, training: Path) -> list[Path]:
    """The files in the output folder that are a demo's by their names."""
    from fdd.engine.run_folder import files_of_run

    paths = [folder / name for name in PRODUCTS]
    for name in (*files_of_run(training), "log.txt"):
        path = training / name
        paths += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [path for path in paths if path.is_file()]


def fingerprint(path: Path) -> list[int]:
    """Size and time of change: whether it is still the file that was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def read_record(folder: Path) -> dict[str, list[int]]:
    """Fingerprints by path of what a demo has left in ``folder``."""
    try:
        content = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(folder: Path, training: Path) -> None:
    """Remember what this demo wrote; also of one that failed or was interrupted."""
    names = {
        path.relative_to(folder).as_posix(): fingerprint(path)
        for path in produced(folder, training)
    }
    (folder / RECORD).write_text(json.dumps(names, indent=1) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["results"]


def summarise(folder: Path, train_seconds: float, device: str) -> dict[str, Any]:
    """The figures of ``summary.json``; PQ in percent."""
    panoptic = read_results(folder / "results.json")["panoptic_seg"]
    labels = read_results(folder / "pseudo_label_results.json")["pseudo_labels"]
    # The largest of the processes that have ended: training with its evaluation, or the labels'.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "val_PQ": panoptic["PQ"],
        "val_PQ_th": panoptic["PQ_th"],
        "val_PQ_st": panoptic["PQ_st"],
        "pseudo_label_PQ": labels["learned/PQ"],
        "pseudo_label_PQ_without_forced_points": labels["learned_free/PQ"],
        "nearest_PQ": labels["nearest/PQ"],
        "extent_PQ": labels["extent/PQ"],
        "polygon_PQ": labels["polygon/PQ"],
        "auxiliary_semantic_mIoU": labels.get("semantic/mIoU"),
        "train_seconds": round(train_seconds, 1),
        "peak_memory_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        "device": device,
    }


def write_pictures(args: argparse.Namespace, folder: Path, summary: dict[str, Any]) -> None:
    """The report and the contact sheet of validation images, with everything the model says."""
    from fdd.cli.report import find_curves
    from fdd.inference.report import write_label_report
    from fdd.inference.report_source import ReportSource
    from fdd.inference.trained_model import load_trained
    from fdd.visualization import contact_sheet
    from fdd.visualization.files import write_rgb

    trained = load_trained(folder, full=True)
    dataset = trained.cfg.DATASETS.TEST[0].replace("panoptic", f"p{POINTS_PER_TARGET}")
    source = ReportSource(trained, dataset)
    rows = list(source.samples(source.records[:SHEET_ROWS], layers=False))
    sheet = contact_sheet(
        [row["panels"] for row in rows],
        SHEET_COLUMNS,
        captions=[f"{row['file_name']}  PQ {row['values']['prediction']:.1f}" for row in rows],
        metadata=source.categories,
    )
    write_rgb(args.output / "contact_sheet.png", sheet)
    headline = {key.removeprefix("val_"): value for key, value in summary.items()}
    headline["memory_bytes"] = headline.pop("peak_memory_mib") * 2**20
    write_label_report(
        args.output / "report.html",
        trained,
        dataset,
        title="FDD: panoptic segmentation of shapes, trained from points",
        max_images=args.report_images,
        curves=find_curves(folder, None),
        summary=headline,
    )


def print_summary(args: argparse.Namespace, summary: dict[str, Any]) -> None:
    line = "{:<46s}{:>7.1f}"
    from fdd.points.wording import PQ_IN_WORDS

    print(f"\nAll figures are {PQ_IN_WORDS}.")
    print("PQ on the validation images")
    for name, key in (("all", "val_PQ"), ("things", "val_PQ_th"), ("stuff", "val_PQ_st")):
        print(line.format("  " + name, summary[key]))
    print(f"PQ of dense labels made from {POINTS_PER_TARGET} points, training images")
    print(line.format("  learned (FDD)", summary["pseudo_label_PQ"]))
    free = summary["pseudo_label_PQ_without_forced_points"]
    print(line.format("  learned, before it obeys its points", free))
    print(line.format("  rule: nearest point", summary["nearest_PQ"]))
    print(line.format("  rule: extents of the points", summary["extent_PQ"]))
    print(line.format("  rule: polygon through the points", summary["polygon_PQ"]))
    seconds, memory = summary["train_seconds"], summary["peak_memory_mib"]
    print(f"Trained in {seconds:.0f} s on {summary['device']}, {memory} MiB at most.")
    print(f"PQ {summary['val_PQ']:.1f}. Report: {(args.output / 'report.html').resolve()}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.output = args.output.resolve()
    args.output.mkdir(parents=True, exist_ok=True)
    data, folder = args.output / "datasets", args.output / "train"
    os.environ["DETECTRON2_DATASETS"] = os.environ["FDD_DATASETS"] = str(data)

    from fdd.data.shapes import generate_shapes
    from fdd.engine.run_folder import describe_holder

    if held := describe_holder(folder):
        sys.exit(f"demo: {held}")
    print(f"Drawing {args.train} training and {args.val} validation images into {data} ...")
    generate_shapes(data, num_train=args.train, num_val=args.val, size=args.size, seed=args.seed)
    clear(args.output, folder)
    try:
        seconds = run_train_net(args, folder)
        run_train_net(args, folder, "--resume", "--eval-pseudo-labels")

        import torch

        summary = summarise(folder, seconds, "cuda" if torch.cuda.is_available() else "cpu")
        write_pictures(args, folder, summary)
        (args.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    finally:
        write_record(args.output, folder)
    print_summary(args, summary)


if __name__ == "__main__":
    main()

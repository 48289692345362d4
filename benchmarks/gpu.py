"""What runs on a GPU, measured there: ``python -m benchmarks.gpu``, below ten minutes.

Deformable attention, the colour prior and whole training steps: first proven equal, then timed in
turns by the device's own events, then each form's peak of allocated memory. A row that cannot run
says why and costs no other row. Exit status: 0; 1 where a row failed; 2 without a GPU or for wrong
arguments.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import run
from benchmarks.gpu_measure import GpuResult, context_lives, run_row
from benchmarks.harness import Options, Row
from benchmarks.report import line, summary

DEFAULT_JSON = "output/bench_gpu.json"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: only shows that it runs")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="rows whose name begins so or fits the pattern"
    )
    parser.add_argument("--json", metavar="FILE", help=f"default: {DEFAULT_JSON} for a whole run")
    parser.add_argument(
        "--budget",
        type=float,
        default=420.0,
        metavar="SECONDS",
        help="no row begins later than this (default: %(default)g)",
    )
    args = parser.parse_args(argv)
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu only tries the code; it needs --tiny")
    return args


def conditions(argv: Sequence[str], device: str) -> dict[str, Any]:
    """Under which conditions the rows were measured; the keys of ``make bench`` and the GPU's."""
    found = run.header(Options(threads=torch.get_num_threads(), keep_pages=False), argv)
    found["command"] = shlex.join(["python", "-m", "benchmarks.gpu", *argv])
    found |= {"device": "cpu", "driver": _driver(), "triton": _version("triton")}
    found |= {"cuda": torch.version.cuda, "deformops": _version("deformops")}
    found["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
    found["tf32_products"] = torch.backends.cuda.matmul.allow_tf32
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["machine"] = f"{found['device']}; {found['machine']}"
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def measure_all(
    rows: Sequence[Row],
    args: argparse.Namespace,
    keep: Callable[[list[GpuResult], float], None],
) -> list[GpuResult]:
    """Measure the rows one by one; ``keep`` gets all results so far, and the time, after each."""
    results: list[GpuResult] = []
    start, lost = time.perf_counter(), ""
    for row in rows:
        spent = time.perf_counter() - start
        if spent > args.budget:
            why = f"the {args.budget:g} s were over; run it alone with --only"
            result = GpuResult(row.name, row.what, status="skipped", note=why)
        elif lost:
            why = f"the device failed for good in {lost}; run it alone with --only"
            result = GpuResult(row.name, row.what, status="skipped", note=why)
        else:
            result = run_row(row, args.device, args.tiny)
            if args.tiny:  # says nothing about targets
                result = replace(result, met=None)
            if args.device == "cuda" and result.status == "failed" and not context_lives():
                lost = row.name
        results.append(result)
        print(_line(result), flush=True)
        keep(results, time.perf_counter() - start)
    return results


def _line(result: GpuResult) -> str:
    extra = ""
    if result.images_s is not None:
        extra += f"  {result.images_s:.2f} images/s"
    if result.ours_gib is not None and result.images_s is not None:
        extra += f"  {result.ours_gib:.2f} GiB"
    if result.floor_ratio is not None:
        extra += f"  {result.floor_ratio:.2f}x the least memory"
    return line(result) + extra


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            "python -m benchmarks.gpu: PyTorch finds no CUDA device here; --device cpu --tiny only "
            "tries the code",
            file=sys.stderr,
        )
        return 2
    from benchmarks.gpu_rows import all_rows

    rows = all_rows(args.device, args.tiny)
    try:
        chosen = set(run.select([row.name for row in rows], args.only))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    path = Path(args.json or DEFAULT_JSON) if args.json or not args.only else None
    content = conditions(argv, args.device)

    def keep(results: list[GpuResult], wall_s: float) -> None:
        content["wall_s"] = wall_s
        content["rows"] = [result.as_json() for result in results]
        if path is not None:  # after each row: an interrupted run keeps what it has
            run.write_json(path, content)

    results = measure_all([row for row in rows if row.name in chosen], args, keep)
    print(summary(results, content["wall_s"], path))
    return run.exit_status(results, strict=False)


if __name__ == "__main__":
    sys.exit(main())

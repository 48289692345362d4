"""How time and memory of a training step grow with image size, instances, classes and batch.

``python -m benchmarks.scaling --out output/scaling.json`` measures each point in a process of its
own, fits powers and lines, prints tables and draws ``docs/images/scaling.png``. About ten minutes
on two cores. The model is the published one (ResNet-50, fp32), the step the engine's: forward,
backward, clipping and AdamW on made-up images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data_parallel import measure_data_parallel
from benchmarks.run import commit

_BASE = {
    **{"size": 256, "things": 20, "stuff": 1, "instances": 5, "batch": 1},
    **{"checkpoint": False},
}
_CLASSES = ((20, 1), (80, 53), (600, 400))


def series() -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Points of each series: name -> (what x is, points), all but x as in ``_BASE``."""
    return {
        "image size": ("pixels", [_BASE | {"size": s} for s in (256, 384, 512, 768, 1024)]),
        "instances": ("instances", [_BASE | {"instances": n} for n in (1, 5, 20, 100, 300)]),
        "classes": ("classes", [_BASE | {"things": t, "stuff": s} for t, s in _CLASSES]),
        "batch": ("images", [_BASE | {"batch": b} for b in (1, 2, 4)]),
        "checkpointing": (
            "checkpoint",
            [_BASE | {"size": 512, "checkpoint": on} for on in (False, True)],
        ),
    }


_X: dict[str, Callable[[dict[str, Any]], int]] = {
    "pixels": lambda p: p["size"] ** 2,
    "instances": lambda p: p["instances"],
    "classes": lambda p: p["things"] + p["stuff"],
    "images": lambda p: p["batch"],
    "checkpoint": lambda p: int(p["checkpoint"]),
}


def fit_power(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares of log y on log x: (exponent, largest relative error of the fit)."""
    lx, ly = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    exponent, offset = np.polyfit(lx, ly, 1)
    return float(exponent), float(np.abs(np.exp(exponent * lx + offset - ly) - 1).max())


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Least squares of y on x: (value at 0, slope, coefficient of determination)."""
    ax, ay = np.asarray(x, float), np.asarray(y, float)
    slope, start = np.polyfit(ax, ay, 1)
    rest = ((start + slope * ax - ay) ** 2).sum()
    spread = ((ay - ay.mean()) ** 2).sum()
    return float(start), float(slope), float(1 - rest / spread) if spread else 1.0


def fits_of(rows: list[dict[str, Any]], x_of: Callable[[dict[str, Any]], int]) -> dict[str, Any]:
    """Power and line through seconds and peak bytes of a series."""
    x = [x_of(row) for row in rows]
    out = {}
    for key in ("seconds", "peak_bytes"):
        y = [row[key] for row in rows]
        exponent, error = fit_power(x, y)
        start, slope, share = fit_line(x, y)
        out[key] = {
            "exponent": exponent,
            "power_error": error,
            "line_at_0": start,
            "line_slope": slope,
            "line_r2": share,
        }
    return out


def run_point(point: dict[str, Any], threads: int, limit: float) -> dict[str, Any]:
    """Measure one point in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling_step"]
    command.append(json.dumps(point | {"threads": threads}))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return point | {"error": f"took more than {limit:g} s"}
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return point | {"error": last[0]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_all(threads: int, limit: float) -> dict[str, Any]:
    """All series; points that series share are measured once."""
    known: dict[str, dict[str, Any]] = {}
    results = {}
    for name, (unit, points) in series().items():
        rows = []
        for point in points:
            key = json.dumps(point)
            if key not in known:
                known[key] = run_point(point, threads, limit)
                print(known[key], flush=True)
            rows.append(known[key])
        good = [row for row in rows if "error" not in row]
        fits = fits_of(good, _X[unit]) if len(good) > 2 else None
        results[name] = {"x": unit, "rows": rows, "fits": fits}
    return results


def table(name: str, result: dict[str, Any]) -> str:
    """Markdown table of a series, with its fits below."""
    unit = result["x"]
    lines = [
        f"| {unit} | s a step | MiB | predicted MiB | deviation | rounds (quiet) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        x = f"{row['size']}²" if unit == "pixels" else f"{_X[unit](row):,}"
        if "error" in row:
            lines.append(f"| {x} | {row['error']} | | | | |")
            continue
        peak, predicted = row["peak_bytes"], row["predicted_bytes"]
        lines.append(
            f"| {x} | {row['seconds']:.2f} | {peak / 2**20:,.0f} | {predicted / 2**20:,.0f} "
            f"| {100 * (predicted / peak - 1):+.1f} % | {row['rounds']} ({row['quiet_rounds']}) |"
        )
    if result["fits"]:
        time, memory = result["fits"]["seconds"], result["fits"]["peak_bytes"]
        lines.append(
            f"\nGrowth with {name}: time ~ {unit}^{time['exponent']:.2f}, memory ~ "
            f"{unit}^{memory['exponent']:.2f}. Lines: {time['line_at_0']:.2f} s + "
            f"{time['line_slope']:.3g} s each (R² {time['line_r2']:.4f}); "
            f"{memory['line_at_0'] / 2**20:.0f} MiB + {memory['line_slope'] / 2**20:.3g} MiB each "
            f"(R² {memory['line_r2']:.4f})."
        )
    return "\n".join(lines)


def draw(path: Path, results: dict[str, Any]) -> None:
    """One panel a series, time and memory on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    results = {name: result for name, result in results.items() if result["fits"]}
    figure, panels = plt.subplots(1, len(results), figsize=(3.2 * len(results), 3.0))
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        rows = [row for row in result["rows"] if "error" not in row]
        x = [_X[result["x"]](row) for row in rows]
        other = axes.twinx()
        (a,) = axes.loglog(x, [r["seconds"] for r in rows], "o-", color="tab:blue")
        (b,) = other.loglog(x, [r["peak_bytes"] / 2**30 for r in rows], "s--", color="tab:red")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(result["x"], fontsize=9)
        axes.set_ylabel("s a step", fontsize=8, color="tab:blue")
        other.set_ylabel("GiB", fontsize=8, color="tab:red")
        axes.legend([a, b], ["time", "memory"], fontsize=7)
        names = [f"{value:,}" for value in x]
        axes.set_xticks(x, names, rotation=30, ha="right")
        axes.xaxis.set_minor_locator(NullLocator())
        for each in (axes, other):
            each.tick_params(labelsize=7, which="both")
            each.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            each.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/scaling.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/scaling.png"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=150, help="seconds for one point")
    args = parser.parse_args()
    results = measure_all(args.threads, args.limit)
    report = {
        "commit": commit(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "command": " ".join(["python", "-m", "benchmarks.scaling", *sys.argv[1:]]),
        "series": results,
        "data_parallel": measure_data_parallel(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1))
    draw(args.plot, results)
    for name, result in results.items():
        print(f"\n### {name}\n\n{table(name, result)}")
    print(f"\n### data parallel\n\n{json.dumps(report['data_parallel'], indent=1)}")


if __name__ == "__main__":
    main()

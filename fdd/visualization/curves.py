"""Training curves: read from a run, and laid out as charts for the page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Chart", "make_chart", "read_curves"]

Pairs = list[tuple[float, float]]

# A page of 30 curves of 90k iterations each would weigh 50 MB.
_MAX_POINTS = 400
# From this many points on, a running mean is drawn over the faint raw line.
_SMOOTHED = 60


@dataclass(frozen=True)
class Chart:
    """A curve in the pixels of its drawing (``templates/chart.html``).

    Attributes:
        name: of the curve.
        x_ticks, y_ticks: positions and texts of the axis marks.
        lines: class in the style sheet and points of each line.
        last: x, y and text of the last value; None where no value is finite.
    """

    name: str
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[tuple[str, Pairs]] = field(default_factory=list)
    last: tuple[float, float, str] | None = None
    width: int = 360
    height: int = 200
    left: int = 48
    right: int = 340
    top: int = 10
    bottom: int = 174


def make_chart(name: str, values: Sequence[tuple[float, float]]) -> Chart:
    """Lay out ``(iteration, value)`` pairs between round axis marks. Non-finite values break the
    line.
    """
    chart = Chart(name)
    pairs = sorted((float(x), float(y)) for x, y in values)
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if not finite:
        return chart
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    x_marks, y_marks = _marks(min(xs), max(xs), 5, whole=True), _marks(min(ys), max(ys), 4)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = min(y_marks[0], min(ys)), max(y_marks[-1], max(ys))

    def across(x: float) -> float:
        return chart.left + (x - x_low) / (x_high - x_low) * (chart.right - chart.left)

    def down(y: float) -> float:
        return chart.bottom - (y - y_low) / (y_high - y_low) * (chart.bottom - chart.top)

    smooth = len(finite) >= _SMOOTHED
    runs = [("raw" if smooth else "line", run) for run in _runs(_thin(pairs))]
    if smooth:
        runs.append(("line", _thin(_running_mean(finite))))
    return Chart(
        name,
        x_ticks=[(across(x), _short(x)) for x in x_marks if x_low <= x <= x_high],
        y_ticks=[(down(y), _short(y)) for y in y_marks],
        lines=[(style, [(across(x), down(y)) for x, y in run]) for style, run in runs],
        last=(across(xs[-1]), down(ys[-1]), _short(ys[-1])),
    )


def read_curves(
    metrics_json: str | os.PathLike[str], keys: Sequence[str] | None = None
) -> dict[str, Pairs]:
    """Curves from the ``metrics.json`` that Detectron2 writes (one JSON object a line).

    A last line cut short by a killed run is skipped; where a resumed run repeats iterations, the
    later line counts.

    Args:
        metrics_json: the file.
        keys: the scalars to take; if not given, ``total_loss`` and all whose name holds ``loss`` or
            ``PQ``.

    Returns:
        Name -> ``(iteration, value)``, iterations ascending. Keys that never occur are left out.
    """
    found: dict[str, dict[float, float]] = {}
    for line in Path(metrics_json).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), (int, float)):
            continue
        for key, value in record.items():
            wanted = key in keys if keys is not None else ("loss" in key or "PQ" in key)
            if wanted and isinstance(value, (int, float)):
                found.setdefault(key, {})[float(record["iteration"])] = float(value)
    order = list(keys) if keys is not None else sorted(found, key=lambda k: (k != "total_loss", k))
    return {key: sorted(found[key].items()) for key in order if key in found}


def _marks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """About ``count`` round numbers (at least two) from at or below ``low`` to at or above
    ``high``.
    """
    if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
        reach = 0.5 * abs(low) or 0.5
        low, high = low - reach, high + reach
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1000:.4g}k"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _thin(pairs: Pairs) -> Pairs:
    """Evenly spaced pairs, the last one always, no more than about ``_MAX_POINTS``."""
    step = max(1, -(-len(pairs) // _MAX_POINTS))
    kept = pairs[::step]
    return kept if kept[-1:] == pairs[-1:] else [*kept, pairs[-1]]


def _runs(pairs: Pairs) -> list[Pairs]:
    """The stretches of finite pairs."""
    runs: list[Pairs] = [[]]
    for pair in pairs:
        if all(map(math.isfinite, pair)):
            runs[-1].append(pair)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _running_mean(pairs: Pairs) -> Pairs:
    """Centred mean over 5 % of the curve, shorter at its ends so that it begins and ends where the
    curve does.
    """
    x, y = np.array(pairs).T
    at = np.arange(len(x))
    reach = np.minimum(max(1, len(x) // 40), np.minimum(at, at[::-1]))
    total = np.concatenate([[0.0], np.cumsum(y)])
    mean = (total[at + reach + 1] - total[at - reach]) / (2 * reach + 1)
    return list(zip(x.tolist(), mean.tolist(), strict=True))

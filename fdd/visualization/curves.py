"""Line charts as inline SVG, without a plotting library: the report must open anywhere and stay
small.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 10, 26
_MAX_POINTS = 400


def curve_svg(name: str, values: Sequence[tuple[float, float]]) -> str:
    """A chart of ``(iteration, value)`` pairs with round axis marks; colours come from the page's
    style.

    Long noisy curves get a running mean over the faint raw line. Non-finite values break the line.
    """
    pairs = sorted((float(x), float(y)) for x, y in values)
    finite = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    label = html.escape(name)
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    if not finite:
        return (
            head + _text("tick", _WIDTH / 2, _HEIGHT / 2, "middle", "no finite values") + "</svg>"
        )
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    x_marks = _marks(min(xs), max(xs), 5, whole=True)
    y_marks = _marks(min(ys), max(ys), 4)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = min(y_marks[0], min(ys)), max(y_marks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (
            _HEIGHT - _TOP - _BOTTOM
        )

    parts = [head]
    for y in y_marks:
        _, py = place(x_low, y)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>'
        )
        parts.append(_text("tick", _LEFT - 6, py + 4, "end", _short(y)))
    for x in x_marks:
        if x_low <= x <= x_high:
            px, _ = place(x, y_low)
            parts.append(_text("tick", px, _HEIGHT - 8, "middle", _short(x)))
    runs = _runs(_thin(pairs))
    smooth = len(finite) >= 60
    for run in runs:
        parts.append(_polyline("raw" if smooth else "line", [place(x, y) for x, y in run]))
    if smooth:
        parts.append(_polyline("line", [place(x, y) for x, y in _thin(_running_mean(finite))]))
    px, py = place(*finite[-1])
    parts.append(f'<circle class="last" cx="{px:.1f}" cy="{py:.1f}" r="3"/>')
    anchor_y = py - 8 if py > _TOP + 18 else py + 16
    parts.append(_text("value", px, anchor_y, "end", _short(finite[-1][1])))
    return "".join(parts) + "</svg>"


def _text(style: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _polyline(style: str, points: Sequence[tuple[float, float]]) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{text}"/>'


def _marks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """About ``count`` round numbers from at or below ``low`` to at or above ``high``, at least
    two.
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


def _thin(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every so many-th pair, the last always; a page of 30 curves of 90k iterations would weigh 50
    MB.
    """
    step = -(-len(pairs) // _MAX_POINTS) if pairs else 1
    kept = list(pairs[::step])
    return kept if not pairs or kept[-1] == pairs[-1] else [*kept, pairs[-1]]


def _runs(pairs: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in pairs:
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _running_mean(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred mean over 5 % of the curve, shorter at its ends so that it begins and ends where the
    curve does.
    """
    half = max(1, len(pairs) // 40)
    total = [0.0]
    for _, y in pairs:
        total.append(total[-1] + y)
    out = []
    for k, (x, _) in enumerate(pairs):
        reach = min(half, k, len(pairs) - 1 - k)
        out.append((x, (total[k + reach + 1] - total[k - reach]) / (2 * reach + 1)))
    return out

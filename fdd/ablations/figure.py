"""The tables as a picture: a dot a row, its spread over the seeds, and the paper's figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fdd.ablations.report import Line
from fdd.ablations.tables import POINTS, Table
from fdd.points.files import atomic_path

_OURS, _LABELS, _PAPER = "#1f5fa8", "#7fb069", "#b3b3b3"


def draw_table(table: Table, lines: Sequence[Line], data: str, path: Path) -> None:
    """Write a PNG with one panel for one point and one for ten points a target."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 1.5 + 0.42 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(POINTS), sharey=True)
    places = list(range(len(lines)))
    for panel, points in zip(panels, POINTS, strict=True):
        for values, color, marker, label in (
            ([line.paper[points] for line in lines], _PAPER, "|", "PQ in the paper"),
            ([line.labels[points] for line in lines], _LABELS, "s", "PQ of our pseudo labels"),
            ([line.ours[points] for line in lines], _OURS, "o", "our PQ on val"),
        ):
            kept = [
                (y, value) for y, value in zip(places, values, strict=True) if value is not None
            ]
            means = [v if isinstance(v, float) else v.mean for _, v in kept]
            spreads = [0.0 if isinstance(v, float) else v.spread for _, v in kept]
            panel.errorbar(
                means,
                [y for y, _ in kept],
                xerr=spreads,
                fmt=marker,
                color=color,
                label=label,
                markersize=14 if marker == "|" else 6,
                markeredgewidth=3 if marker == "|" else 1,
                capsize=3,
            )
        panel.set_title("one point a segment" if points == "P1" else "ten points a segment")
        panel.set_xlabel("PQ")
        panel.set_xlim(left=0)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [line.name for line in lines])
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Table {table.number}, {data}: {table.title}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)

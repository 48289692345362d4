"""A table of ours beside the paper's: means, spreads, and where the order of the rows differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from fdd.ablations.tables import POINTS, Data, Row, Table, setting_of

#: Records of a setting, by its (points, slug).
Records = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Figure:
    """Mean and spread (sample standard deviation, 0 for a single run) of some runs, in percent."""

    mean: float
    spread: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure | None:
        """None where there is no value."""
        if not values:
            return None
        return cls(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f" ± {self.spread:.1f}" if self.count > 1 else "")


@dataclass(frozen=True)
class Disagreement:
    """Two rows that the paper orders the other way.

    Attributes:
        better, worse: rows (by the paper). paper, ours: by how much PQ ``better`` is better.
        spread: root mean square of the two rows' spreads.
    """

    points: str
    better: str
    worse: str
    paper: float
    ours: float
    spread: float

    @property
    def is_clear(self) -> bool:
        """Whether the gap is more than two spreads."""
        return -self.ours > 2 * self.spread

    def __str__(self) -> str:
        verdict = "more than two spreads" if self.is_clear else "within two spreads"
        return (
            f"{self.points}: «{self.better}» over «{self.worse}» by {self.paper:+.1f} in the "
            f"paper, {self.ours:+.1f} here ({verdict} of {self.spread:.1f})"
        )


@dataclass(frozen=True)
class Line:
    """One row of a result table, with figures by "P1" and "P10"."""

    name: str
    cells: tuple[str, ...]
    ours: Mapping[str, Figure | None]
    labels: Mapping[str, Figure | None]
    paper: Mapping[str, float | None]


def _label_score(record: Mapping[str, Any]) -> float | None:
    """PQ of the labels that the setting trains on."""
    maker = record["overrides"].get("MODEL.FDD.LABEL_MAKER", "learned")
    return record["labels"].get(f"{maker}/PQ")


def lines_of(table: Table, data: Data, records: Records) -> list[Line]:
    """The rows of a table, filled with what has been run."""

    def collect(
        row: Row, value: Callable[[Mapping[str, Any]], float | None]
    ) -> dict[str, Figure | None]:
        out = {}
        for points in POINTS:
            setting = setting_of(row, data, points)
            found = [value(record) for record in records.get((setting.points, setting.slug), ())]
            out[points] = Figure.of([v for v in found if v is not None])
        return out

    lines = []
    for row in table.rows:
        paper = row.paper.get(data.paper, (None, None))
        lines.append(
            Line(
                name=_name(table, row),
                cells=row.cells,
                ours=collect(row, lambda record: record["val"]["PQ"]),
                labels=collect(row, _label_score),
                paper=dict(zip(POINTS, paper, strict=True)),
            )
        )
    return lines


def _name(table: Table, row: Row) -> str:
    if len(row.cells) == 1:
        cell = row.cells[0]
        return f"{table.columns[0]} {cell}" if cell[0].isdigit() else cell
    chosen = [column for column, cell in zip(table.columns, row.cells, strict=True) if cell]
    return " + ".join(chosen) or "neither"


def disagreements(lines: Sequence[Line]) -> list[Disagreement]:
    """Pairs of rows whose order differs from the paper's, clear ones first."""
    found = []
    for points in POINTS:
        for pair in combinations(lines, 2):
            better, worse = sorted(pair, key=lambda line: -(line.paper[points] or 0))
            high, low = better.ours[points], worse.ours[points]
            p_high, p_low = better.paper[points], worse.paper[points]
            if high is None or low is None or p_high is None or p_low is None or p_high == p_low:
                continue
            if high.mean < low.mean:
                spread = math.sqrt((high.spread**2 + low.spread**2) / 2)
                found.append(
                    Disagreement(
                        points,
                        better.name,
                        worse.name,
                        p_high - p_low,
                        high.mean - low.mean,
                        spread,
                    )
                )
    return sorted(found, key=lambda d: (not d.is_clear, d.ours))


def markdown(table: Table, lines: Sequence[Line], seeds: int) -> str:
    """The table, with what is to be said about the order below it."""
    head = list(table.columns)
    for points in POINTS:
        head += [f"{points} PQ", f"{points} labels", f"{points} paper"]
    rows = [head, ["---"] * len(table.columns) + ["--:"] * (3 * len(POINTS))]
    for line in lines:
        cells = list(line.cells)
        for points in POINTS:
            cells += [_text(line.ours[points]), _text(line.labels[points])]
            cells.append(_text(line.paper[points]))
        rows.append(cells)
    text = [f"**Table {table.number}. {table.title}**", ""]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    text += ["", _verdict(lines, seeds)]
    return "\n".join(text) + "\n"


def _verdict(lines: Sequence[Line], seeds: int) -> str:
    missing = sum(
        figure is None or figure.count < seeds for line in lines for figure in line.ours.values()
    )
    note = f"{missing} of {2 * len(lines)} figures lack runs. " if missing else ""
    found = disagreements(lines)
    if not found:
        return note + "The order of the rows is the paper's."
    listed = "\n".join(f"- {one}" for one in found)
    return f"{note}The order differs from the paper's:\n\n{listed}"


def _text(value: Figure | float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, Figure) else f"{value:.1f}"

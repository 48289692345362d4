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
class Pair:
    """Two rows that the paper orders.

    Attributes:
        better, worse: rows (by the paper). paper, ours: by how much PQ ``better`` is better.
        spread: root mean square of the two rows' spreads. runs: of the row that has fewer.
    """

    points: str
    better: str
    worse: str
    paper: float
    ours: float
    spread: float
    runs: int

    @property
    def agrees(self) -> bool:
        """Whether our order is the paper's; equal means are no order."""
        return self.ours > 0

    @property
    def is_clear(self) -> bool:
        """Whether the gap is more than two spreads; a single run has none that is known."""
        return self.runs > 1 and abs(self.ours) > 2 * self.spread

    def __str__(self) -> str:
        verdict = "more than two spreads" if self.is_clear else "within two spreads"
        said = "one run, not judged" if self.runs < 2 else f"{verdict} of {self.spread:.1f}"
        return (
            f"{self.points}: «{self.better}» over «{self.worse}» by {self.paper:+.1f} in the "
            f"paper, {self.ours:+.1f} here ({said})"
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
    """PQ of the labels that the setting's maker makes (with points alone as supervision, nobody
    learns from them)."""
    maker = record["overrides"].get("MODEL.FDD.LABEL_MAKER", "learned")
    return record["labels"].get(f"{record.get('maker', maker)}/PQ")


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
        number = cell.replace(".", "").isdigit()
        return f"{table.columns[0]} {cell}" if number else cell
    chosen = [column for column, cell in zip(table.columns, row.cells, strict=True) if cell]
    return " + ".join(chosen) or "neither"


def compare(lines: Sequence[Line]) -> list[Pair]:
    """All pairs of rows that have figures of the paper, unequal ones, and of ours."""
    found = []
    for points in POINTS:
        for pair in combinations(lines, 2):
            better, worse = sorted(pair, key=lambda line: -(line.paper[points] or 0))
            high, low = better.ours[points], worse.ours[points]
            p_high, p_low = better.paper[points], worse.paper[points]
            if high is None or low is None or p_high is None or p_low is None or p_high == p_low:
                continue
            spread = math.sqrt((high.spread**2 + low.spread**2) / 2)
            gaps = p_high - p_low, high.mean - low.mean
            runs = min(high.count, low.count)
            found.append(Pair(points, better.name, worse.name, *gaps, spread, runs))
    return found


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
    pairs = compare(lines)
    if not pairs:
        return note + "There is nothing to compare with the paper's order."
    agree = [pair for pair in pairs if pair.agrees]
    clear = sum(pair.is_clear for pair in agree)
    note += (
        f"Of {len(pairs)} pairs of rows {len(agree)} have the paper's order, {clear} of them by "
        "more than two spreads."
    )
    others = sorted(
        (pair for pair in pairs if not pair.agrees), key=lambda pair: (not pair.is_clear, pair.ours)
    )
    if not others:
        return note
    listed = "\n".join(f"- {pair}" for pair in others)
    return f"{note} The others:\n\n{listed}"


def _text(value: Figure | float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, Figure) else f"{value:.1f}"

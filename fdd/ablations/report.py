"""What has been run, as tables and pictures: means and spreads over the seeds.

A table of the paper stands beside the paper's figures, with the rows whose order differs. A study
says who makes the labels, and how good they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fdd.ablations.records import read_record
from fdd.ablations.study import Study, StudyRun
from fdd.ablations.tables import POINTS, Data, Row, Table, setting_of
from fdd.modeling.label_makers import get_label_maker, label_maker_names
from fdd.points.files import atomic_path

#: Records of a setting, by its (points, slug).
Records = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]

# Colours of the figures.
_OURS, _LABELS, _PAPER = "#1f5fa8", "#7fb069", "#b3b3b3"

_Record = Mapping[str, Any]
#: Records of a setting by its name.
_Settings = Mapping[str, Sequence[_Record]]

_COLUMNS = (
    "setting",
    "labels by",
    "seeds",
    "PQ",
    "things",
    "stuff",
    "not forced",
    "semantic mIoU",
    "PQ on val",
    "val things",
    "val stuff",
)
_PARTS = ("PQ", "PQ_th", "PQ_st")


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
        """Whether our order is the paper's; equal means have no order."""
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
    rows = []
    for line in lines:
        cells = list(line.cells)
        for points in POINTS:
            cells += [_text(line.ours[points]), _text(line.labels[points])]
            cells.append(_text(line.paper[points]))
        rows.append(cells)
    text = f"**Table {table.number}. {table.title}**\n\n{_table(head, rows, len(table.columns))}"
    return f"{text}\n\n{_verdict(lines, seeds)}\n"


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


def study_records(study: Study, records: Path, runs: Iterable[StudyRun]) -> dict[str, _Settings]:
    """The records that are there, by data and setting, in the study's order.

    Raises:
        ValueError: a file is not a record, or records of one setting are of different configs.
    """
    found: dict[str, dict[str, list[_Record]]] = {}
    for run in runs:
        path = run.record(records)
        record = read_record(path)
        if record is None:
            continue
        mine = found.setdefault(run.data, {}).setdefault(run.setting, [])
        mine.append(record)
        if record["config_digest"] != mine[0]["config_digest"]:
            raise ValueError(
                f"{path}: config {record['config_digest']}, other seeds of {run.setting} have "
                f"{mine[0]['config_digest']}; delete the older ones and run them again"
            )
    return dict(found)


def study_markdown(study: Study, found: Mapping[str, _Settings]) -> str:
    """A table of the labels for each data set of the study, and one over the points given."""
    parts = []
    for name, settings in found.items():
        parts.append(f"**{name}**\n\n{_label_table(settings)}")
        points = list(study.data[name].points)
        if points:
            parts.append(
                f"**{name}: PQ of the labels by the points that the trained model is given**\n\n"
                f"{_points_table(settings, points)}"
            )
        parts.append(_cost(settings))
    return "\n\n".join(parts) + "\n"


def _label_table(settings: _Settings) -> str:
    rows = []
    for setting, maker, records in label_rows(settings):
        own = setting != "any" and maker == records[0]["maker"]
        labels, val = (partial(_mean, records, group) for group in ("labels", "val"))
        rows.append(
            [
                setting,
                maker,
                str(len(records)) if setting != "any" else "",
                *(labels(f"{maker}/{key}") for key in _PARTS),
                labels(f"{maker}_free/PQ"),
                labels("semantic/mIoU") if own else "",
                *(val(key) if own else "" for key in _PARTS),
            ]
        )
    return _table(_COLUMNS, rows)


def _points_table(settings: _Settings, points: Sequence[str]) -> str:
    rows = [
        [setting, maker, *(_mean(records, "labels_by_points", n, f"{maker}/PQ") for n in points)]
        for setting, maker, records in label_rows(settings)
    ]
    return _table(("setting", "labels by", *points), rows)


def label_rows(settings: _Settings) -> list[tuple[str, str, Sequence[_Record]]]:
    """What the rows of a table are: (setting, label maker, records).

    First the settings' own makers, then other makers that use what a setting's network has
    learned; last, once, under the setting "any", rules that no network has a part in.
    """
    own, beside = [], []
    rules: dict[str, tuple[str, str, Sequence[_Record]]] = {}
    for setting, records in settings.items():
        maker = records[0]["maker"]
        own.append((setting, maker, records))
        for other in _makers(records):
            if other == maker:
                continue
            if _from_network(other):
                beside.append((setting, other, records))
            else:
                # One model's inputs are as good as another's: points, image and masks are the same.
                rules.setdefault(other, ("any", other, records[:1]))
    return [*own, *beside, *(rules[name] for name in sorted(rules))]


def _makers(records: Sequence[_Record]) -> list[str]:
    names = {key.split("/")[0] for record in records for key in record["labels"]}
    return sorted(n for n in names if n != "semantic" and not n.endswith("_free"))


def _from_network(maker: str) -> bool:
    """Unknown ones (a user's own, whose module is not imported here) are not taken together."""
    return maker not in label_maker_names() or get_label_maker(maker).from_network


def _mean(records: Sequence[_Record], *keys: str) -> str:
    """Mean and spread of what the records have under nested keys; empty if none has it."""
    values = []
    for record in records:
        node: Any = record
        for key in keys:
            node = (node or {}).get(key)
        if node is not None:
            values.append(node)
    figure = Figure.of(values)
    return "" if figure is None else str(figure)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 2) -> str:
    """In Markdown; the first ``texts`` columns are words, the others figures."""
    line = ["---"] * texts + ["--:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, line, *rows))


def _cost(settings: _Settings) -> str:
    records = [record for mine in settings.values() for record in mine]

    def span(key: str) -> str:
        values = sorted(record[key] for record in records)
        return f"{values[0]:.0f} to {values[-1]:.0f} s"

    commits = ", ".join(sorted({str(record["commit"]) for record in records}))
    machines = "; ".join(
        sorted({f"{r['cpu']}, {r['cores']} cores, PyTorch {r['torch']}" for r in records})
    )
    return (
        f"{len(records)} runs: steps {span('train_seconds')}, scoring of the labels "
        f"{span('label_seconds')} a run; commits {commits}; {machines}."
    )

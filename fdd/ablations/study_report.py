"""The tables of a study: who makes the labels, and how good they are, over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fdd.ablations.records import read_record
from fdd.ablations.report import Figure
from fdd.ablations.study import Study, StudyRun
from fdd.modeling.label_makers import get_label_maker, label_maker_names

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
_TEXT_COLUMNS = 2


def study_records(study: Study, records: Path, runs: Iterable[StudyRun]) -> dict[str, _Settings]:
    """The records that are there, by data and setting, in the study's order.

    Raises:
        ValueError: a file is no record, or records of one setting are of different configs.
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = ["---"] * _TEXT_COLUMNS + ["--:"] * (len(head) - _TEXT_COLUMNS)
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

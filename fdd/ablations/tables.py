"""The paper's tables as runs: which overrides a row stands for, and which rows are one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from fdd.config import add_fdd_config
from fdd.config_files import get_config_file, get_config_root
from fdd.points import STRATEGIES

#: Columns of every table: points an instance.
POINTS = ("P1", "P10")

#: Stands for :data:`POINTS` where a row trains on full masks.
MASKS = "masks"

_ROW_KEYS = {"cells", "set", "points", "masks", "paper"}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        cells: what the row's first columns say.
        overrides: keys below ``MODEL.FDD``.
        strategy: how the points are sampled. masks: train on full masks instead of points.
        paper: published PQ by data set, (P1, P10), None where there is none.
    """

    cells: tuple[str, ...]
    overrides: Mapping[str, Any]
    strategy: str = "uniform"
    masks: bool = False
    paper: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table of the paper."""

    number: int
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Data:
    """What a table is run on.

    Attributes:
        configs: shipped base config by "P1" and "P10".
        paper: the data set whose published figures stand beside ours.
        labels: point set whose pseudo labels are scored, by "P1" and "P10"; else the training set.
    """

    name: str
    configs: Mapping[str, str]
    paper: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A distinct thing to train: rows that come to the same config have equal settings.

    Attributes:
        points: "P1" or "P10", or :data:`MASKS`.
        overrides: (full key, value) pairs that differ from the base config, sorted.
    """

    data: str
    points: str
    overrides: tuple[tuple[str, Any], ...]

    @property
    def slug(self) -> str:
        """A name for files: "default", or the keys that differ and their values."""
        parts = []
        for key, value in self.overrides:
            if key == "DATASETS.TRAIN":
                parts.append("train-" + "+".join(value))
            else:
                parts.append(f"{key.removeprefix('MODEL.FDD.')}-{value}")
        return "_".join(parts) or "default"


def read_tables(path: Path | None = None) -> tuple[dict[int, Table], dict[str, Data]]:
    """Tables by number and data by name, from ``configs/ablations/tables.yaml``.

    Raises:
        ValueError: a row that does not fit its table, or with a key that nobody knows.
    """
    path = path or get_config_root() / "ablations" / "tables.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = {name: Data(name=name, **entry) for name, entry in content["data"].items()}
    tables = {}
    for number, entry in content["tables"].items():
        columns = tuple(entry["columns"])
        rows = tuple(
            _read_row(row, len(columns), f"{path}, table {number}") for row in entry["rows"]
        )
        tables[number] = Table(number, entry["title"], columns, rows)
    return tables, data


def _read_row(row: Mapping[str, Any], width: int, where: str) -> Row:
    unknown = sorted(set(row) - _ROW_KEYS)
    if unknown or len(row.get("cells", ())) != width:
        raise ValueError(
            f"{where}: a row with cells {row.get('cells')} and unknown keys {unknown}; expected "
            f"{width} cells, and keys among {', '.join(sorted(_ROW_KEYS))}"
        )
    strategy = row.get("points", "uniform")
    if strategy not in STRATEGIES:
        raise ValueError(f"{where}: points {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    paper = {name: tuple(values) for name, values in row.get("paper", {}).items()}
    masks = bool(row.get("masks", False))
    return Row(tuple(row["cells"]), dict(row.get("set", {})), strategy, masks, paper)


@cache
def shipped_config(name: str) -> CfgNode:
    """A shipped configuration file on top of the defaults, frozen."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    cfg.freeze()
    return cfg


def base_config(data: Data, points: str) -> CfgNode:
    """The frozen config that the rows of a column differ from; masks differ from P10's."""
    return shipped_config(data.configs["P10" if points == MASKS else points])


def setting_of(row: Row, data: Data, points: str) -> Setting:
    """What to train for a row in the column ``points``."""
    points = MASKS if row.masks else points
    cfg = base_config(data, points)
    wanted: dict[str, Any] = {f"MODEL.FDD.{key}": value for key, value in row.overrides.items()}
    names = tuple(cfg.DATASETS.TRAIN)
    if row.masks:
        wanted["MODEL.FDD.PAN_SUPERVISION"] = "full"
        wanted["DATASETS.TRAIN"] = tuple(f"{n.rsplit('_p', 1)[0]}_panoptic" for n in names)
    elif row.strategy != "uniform":
        wanted["DATASETS.TRAIN"] = tuple(f"{name}_{row.strategy}" for name in names)
    changed = {key: value for key, value in wanted.items() if lookup(cfg, key) != value}
    return Setting(data.name, points, tuple(sorted(changed.items())))


def label_set(setting: Setting, data: Data) -> str:
    """The point set of ``data.labels`` whose points are drawn as the setting's own."""
    (own,) = dict(setting.overrides).get("DATASETS.TRAIN", ("",))
    strategy = own.rsplit("_", 1)[-1]
    kind = f"_{strategy}" if strategy in STRATEGIES else ""
    return data.labels[setting.points] + kind


def lookup(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key.

    Raises:
        KeyError: there is no such key.
    """
    node: Any = cfg
    for part in key.split("."):
        if part not in node:
            raise KeyError(f"the config has no key {key!r}")
        node = node[part]
    return node


def settings_of(tables: Iterable[Table], data: Data) -> list[Setting]:
    """All distinct settings of some tables, in the order of their first appearance."""
    found = [
        setting_of(row, data, points) for table in tables for row in table.rows for points in POINTS
    ]
    return list(dict.fromkeys(found))


def run_config(setting: Setting, data: Data, seed: int, output: Path) -> CfgNode:
    """The config of one run, ready for the Trainer."""
    cfg = base_config(data, setting.points).clone()
    cfg.defrost()
    for key, value in setting.overrides:
        cfg.merge_from_list([key, value])
    cfg.SEED = seed
    cfg.OUTPUT_DIR = str(output)
    return cfg

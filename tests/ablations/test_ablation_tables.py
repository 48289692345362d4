"""The tables' rows: what they change, and that they change nothing else."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import yaml

from fdd.ablations.records import _flat, config_digest
from fdd.ablations.tables import (
    MASKS,
    POINTS,
    Setting,
    base_config,
    label_set,
    read_tables,
    run_config,
    setting_of,
    settings_of,
)
from fdd.config import check_fdd_config

TABLES, DATA = read_tables()
ROWS = [(n, row) for n, table in TABLES.items() for row in table.rows]


def changed_keys(cfg, base) -> set[str]:
    ours, theirs = _flat(cfg), _flat(base)
    return {key for key in ours if ours[key] != theirs[key]} - {"OUTPUT_DIR", "SEED"}


def test_shared_rows_of_the_ablations_are_run_once():
    ablations = [table for number, table in TABLES.items() if number <= 8]
    for data in DATA.values():
        found = settings_of(ablations, data)
        assert [sum(s.points == points for s in found) for points in POINTS] == [19, 19]
        assert len({(s.points, s.slug) for s in found}) == len(found)


@pytest.mark.parametrize("name", DATA)
def test_a_setting_differs_from_its_base_in_the_rows_keys_only(name):
    data = DATA[name]
    for (_, row), points in product(ROWS, POINTS):
        setting = setting_of(row, data, points)
        cfg = run_config(setting, data, 7, Path("somewhere"))
        base = base_config(data, setting.points)
        wanted = {f"MODEL.FDD.{key}" for key in row.overrides}
        if row.strategy != "uniform" or row.masks:
            wanted.add("DATASETS.TRAIN")
        if row.masks:
            wanted.add("MODEL.FDD.PAN_SUPERVISION")
        assert changed_keys(cfg, base) == {k for k, _ in setting.overrides} <= wanted
        for key, value in row.overrides.items():
            assert cfg.MODEL.FDD[key] == value
        assert cfg.SEED == 7


def test_the_published_figure_of_a_setting_is_the_same_in_every_table():
    """The default stands in all eight tables: a slip of the pen would show."""
    seen: dict[Setting, float] = {}
    for (number, row), (column, points) in product(ROWS, enumerate(POINTS)):
        paper = row.paper.get("voc", (None, None))[column]
        if paper is not None:
            setting = setting_of(row, DATA["voc"], points)
            assert seen.setdefault(setting, paper) == paper, (number, row.cells, points)
    default = {s.points: value for s, value in seen.items() if not s.overrides}
    assert default == {"P1": 52.0, "P10": 63.1}


def test_the_published_default_is_the_best_row_of_each_ablation():
    """Tables 1 to 6 and 8 say so (Table 7 does not, and no table for its own sake)."""
    for number, (column, points) in product((1, 2, 3, 4, 5, 6, 8), enumerate(POINTS)):
        best = max(TABLES[number].rows, key=lambda row: row.paper["voc"][column])
        assert setting_of(best, DATA["voc"], points).slug == "default", (number, points)


@pytest.mark.parametrize("name", DATA)
def test_every_row_is_a_config_that_passes_the_check(name):
    for (_, row), points in product(ROWS, POINTS):
        check_fdd_config(run_config(setting_of(row, DATA[name], points), DATA[name], 1, Path("x")))


def test_other_points_and_masks_are_other_training_sets():
    table = {row.cells[0]: row for row in TABLES[7].rows}
    center = setting_of(table["center-biased"], DATA["shapes"], "P1")
    assert dict(center.overrides) == {"DATASETS.TRAIN": ("fdd_shapes_train_p1_center",)}
    full = TABLES[9].rows[0]
    settings = {setting_of(full, DATA["shapes"], points) for points in POINTS}
    (setting,) = settings  # the same run for one point and for ten
    assert setting.points == MASKS
    assert dict(setting.overrides)["DATASETS.TRAIN"] == ("fdd_shapes_train_panoptic",)


def test_labels_are_scored_on_points_drawn_as_the_settings_own():
    rows = {row.cells[0]: row for row in TABLES[7].rows}
    for cell, kind in (("uniform", ""), ("center-biased", "_center"), ("border-biased", "_border")):
        setting = setting_of(rows[cell], DATA["voc"], "P10")
        assert label_set(setting, DATA["voc"]) == f"fdd_voc_2012_val_p10{kind}"


def test_a_row_of_an_unknown_key_is_refused(tmp_path):
    content = {
        "data": {},
        "tables": {3: {"title": "t", "columns": ["a"], "rows": [{"cells": ["x"], "sett": {}}]}},
    }
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"table 3.*sett"):
        read_tables(path)
    content["tables"][3]["rows"] = [{"cells": ["x", "y"]}]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="expected 1 cells"):
        read_tables(path)


def test_the_digest_knows_what_is_computed_and_not_where():
    data = DATA["shapes"]
    default, other = settings_of([TABLES[1]], data)[1:3]
    cfg = run_config(default, data, 1, Path("a"))
    digest = config_digest(cfg)
    assert digest == config_digest(run_config(default, data, 2, Path("b")))
    assert digest != config_digest(run_config(other, data, 1, Path("a")))
    cfg.MODEL.FDD.PSEUDO.COLOR_WEIGHT = 0.7
    assert digest != config_digest(cfg)

"""A run of a table from end to end, tiny: train, evaluate, score the labels, leave a record."""

from __future__ import annotations

import json

import pytest
from run_toys import TINY, options

from fdd.ablations.execute import command_of, execute, main
from fdd.ablations.records import Run, config_digest
from fdd.ablations.tables import read_tables, run_config, setting_of

TABLES, DATA = read_tables()
SHORT = {**TINY, "SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 0, "SOLVER.CHECKPOINT_PERIOD": 1}
OPTS = [str(item) for item in options(SHORT)]


@pytest.fixture
def builtin_shapes(shapes_root):
    """The built-in names point to the drawn shapes."""
    from fdd.data.builtin import register_builtin

    register_builtin(shapes_root, shapes_root)
    yield
    register_builtin()


def run_of(number: int, cell: str, points: str = "P10") -> Run:
    row = next(row for row in TABLES[number].rows if row.cells[0] == cell)
    return Run(setting_of(row, DATA["shapes"], points), seed=3)


def test_a_run_leaves_its_figures_and_no_checkpoint(builtin_shapes, tmp_path):
    run = run_of(3, "position")
    record = execute(run, DATA["shapes"], tmp_path / "out", tmp_path / "records", OPTS)
    assert record == json.loads(run.record(tmp_path / "records").read_text())
    assert record["overrides"] == {"MODEL.FDD.INJECT": "pos"} and record["seed"] == 3
    assert record["iterations"] == 2 and 0 <= record["val"]["PQ"] <= 100
    assert {"learned/PQ", "learned_free/PQ", "nearest/PQ", "semantic/mIoU"} <= set(record["labels"])
    cfg = run_config(run.setting, DATA["shapes"], 3, tmp_path)
    cfg.merge_from_list(OPTS)
    assert record["config_digest"] == config_digest(cfg)
    folder = tmp_path / "out" / "shapes" / run.name
    assert not list(folder.glob("*.pth")) and (folder / "results.json").exists()


def test_a_rule_makes_the_labels_that_are_scored(builtin_shapes, tmp_path):
    run = run_of(9, "nearest point")
    record = execute(run, DATA["shapes"], tmp_path, tmp_path, OPTS)
    assert record["labels"]["nearest/PQ"] > 0 and "learned/PQ" not in record["labels"]


def test_the_command_line_gives_the_run_back(builtin_shapes, tmp_path):
    """Full masks too, whose run has no labels to score."""
    run = run_of(9, "full masks")
    main(command_of(run, tmp_path / "out", tmp_path / "records", OPTS, keep=True))
    record = json.loads(run.record(tmp_path / "records").read_text())
    assert record["points"] == "masks" and record["labels"] == {}
    assert record["overrides"]["MODEL.FDD.PAN_SUPERVISION"] == "full"
    assert list((tmp_path / "out" / "shapes" / run.name).glob("*.pth"))

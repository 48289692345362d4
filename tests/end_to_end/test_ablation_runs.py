"""A run of a table from end to end, tiny: train, evaluate, score the labels, leave a record."""

from __future__ import annotations

import json

import cv2
import pytest

from fdd.ablations.execute import command_of, execute, main
from fdd.ablations.records import Run, config_digest
from fdd.ablations.tables import read_tables, run_config, setting_of
from run_toys import REPOSITORY, TINY, options

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
    main(command_of(run, tmp_path / "out", tmp_path / "records", OPTS, keep=True)[2:])
    record = json.loads(run.record(tmp_path / "records").read_text())
    assert record["points"] == "masks" and record["labels"] == {}
    assert record["overrides"]["MODEL.FDD.PAN_SUPERVISION"] == "full"
    assert list((tmp_path / "out" / "shapes" / run.name).glob("*.pth"))


def test_figures_of_the_paper_are_drawn_from_runs(builtin_shapes, tmp_path, monkeypatch, capsys):
    """With and without the auxiliary branch (Figure 4), and beside a rule (Figure 5)."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    import draw_labels

    folders = {}
    for cell in ("1", "0"):
        run = run_of(1, cell)
        execute(run, DATA["shapes"], tmp_path, tmp_path, OPTS, keep=True)
        folders[cell] = str(tmp_path / "shapes" / run.name)
    arguments = ["--count", "2", "--output", str(tmp_path / "four.png")]
    draw_labels.main(["figure4", "--with-aux", folders["1"], "--no-aux", folders["0"], *arguments])
    said = capsys.readouterr().out
    assert said.count("with aux PQ") == said.count("no aux PQ") == 2
    four = cv2.imread(str(tmp_path / "four.png"))
    arguments[-1] = str(tmp_path / "five.png")
    runs = ["--run", f"FDD={folders['1']}", "--rules", "nearest"]
    draw_labels.main(["figure5", *runs, *arguments])
    assert "nearest PQ" in capsys.readouterr().out
    five = cv2.imread(str(tmp_path / "five.png"))
    # Points, truth and: semantics, label, label without semantics; semantics, label, rule's label.
    assert four.shape == five.shape and four.shape[1] > four.shape[0] and four.std() > 5
    with pytest.raises(ValueError, match="no image nobody"):
        draw_labels.main(["figure5", *runs, "--images", "nobody"])


def test_a_run_that_was_cut_before_its_labels_were_scored_goes_on(
    builtin_shapes, tmp_path, monkeypatch
):
    import fdd.engine

    run = run_of(1, "1")
    real = fdd.engine.evaluate_pseudo_labels

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(fdd.engine, "evaluate_pseudo_labels", cut)
    with pytest.raises(KeyboardInterrupt):
        execute(run, DATA["shapes"], tmp_path, tmp_path, OPTS)
    assert not run.record(tmp_path).exists()
    monkeypatch.setattr(fdd.engine, "evaluate_pseudo_labels", real)
    record = execute(run, DATA["shapes"], tmp_path, tmp_path, OPTS)
    assert record["resumed_at"] == record["iterations"] == 2  # nothing was trained again
    assert "learned/PQ" in record["labels"]


def test_checkpoints_of_another_config_are_no_start(builtin_shapes, tmp_path):
    run = run_of(1, "1")
    execute(run, DATA["shapes"], tmp_path, tmp_path, OPTS, keep=True)
    again = execute(run, DATA["shapes"], tmp_path, tmp_path, OPTS, keep=True)
    assert again["resumed_at"] == 2
    other = execute(run, DATA["shapes"], tmp_path, tmp_path, [*OPTS, "SOLVER.BASE_LR", "0.01"])
    assert other["resumed_at"] == 0

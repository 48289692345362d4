"""A run of a study from end to end, tiny: train, score labels and baselines, leave a record."""

from __future__ import annotations

import json

import pytest
import yaml

from fdd.ablations.execute import execute_study_run, main, study_command_of
from fdd.ablations.study import read_study
from run_toys import TINY, options

SHORT = {**TINY, "SOLVER.MAX_ITER": 4, "SOLVER.WARMUP_ITERS": 0, "TEST.EVAL_PERIOD": 0}
OPTS = [str(item) for item in options(SHORT)]


@pytest.fixture
def study(shapes_root, tmp_path, monkeypatch):
    """Drawn shapes as data set files, with ten points and with one; variables say where."""
    monkeypatch.setenv("TOY_SETS", str(tmp_path / "sets"))
    (tmp_path / "sets").mkdir()
    shapes = shapes_root / "shapes"

    def masks(split):
        return {"json": f"{shapes}/panoptic_{split}.json", "folder": f"{shapes}/panoptic_{split}"}

    for name, k in (("p1", 1), ("p1_again", 1), ("p10", 10)):
        content = {"images": f"{shapes}/train", "points": f"{shapes}/points_train_p{k}.json"}
        content["masks"] = masks("train")
        content["validation"] = {"images": f"{shapes}/val", "masks": masks("val")}
        (tmp_path / "sets" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    content = {
        "data": {
            "toy": {
                "dataset": "${TOY_SETS}/p10.yaml",
                "recipe": {"network": "small", "epochs": 1},
                "points": {
                    "P1": "${TOY_SETS}/p1.yaml",
                    "P1 again": "${TOY_SETS}/p1_again.yaml",
                    "P10": None,
                },
                "points_seeds": [3],
            }
        },
        "settings": {"default": {}, "nearest": {"MODEL.FDD.LABEL_MAKER": "nearest"}},
        "runs": [{"data": "toy", "settings": ["default", "nearest"], "seeds": [3, 4]}],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return read_study(tmp_path / "study.yaml")


def test_a_run_leaves_its_figures_and_those_of_every_baseline(study, tmp_path):
    run, records = study.runs[0], tmp_path / "records"
    main(study_command_of(study, run, tmp_path / "out", records, OPTS, keep=False)[2:])
    record = json.loads(run.record(records).read_text())
    assert record["maker"] == "learned" and record["iterations"] == 4 and record["seed"] == 3
    makers = ("learned", "learned_free", "distance", "nearest", "polygon", "point", "full")
    assert {f"{maker}/PQ" for maker in makers} | {"semantic/mIoU"} <= set(record["labels"])
    assert record["labels_by_points"]["P10"] == record["labels"]
    one = record["labels_by_points"]["P1"]
    assert one["nearest/PQ"] < record["labels"]["nearest/PQ"]
    assert {"learned/PQ", "learned_free/PQ", "semantic_nearest/PQ", "semantic/mIoU"} <= set(one)
    assert not {"distance/PQ", "dnn/PQ", "full/PQ"} & set(one), "these take their time"
    assert 0 <= record["val"]["PQ"] <= 100 and record["train_seconds"] > 0
    assert 'fdd init-config "${TOY_SETS}/p10.yaml" --output output/toy_' in record["command"]
    assert record["command"].endswith(f"OUTPUT_DIR output/toy_{run.name}")
    assert str(tmp_path) not in json.dumps(record)
    assert {"cores", "cpu", "torch", "commit", "threads"} <= set(record)
    assert not list((tmp_path / "out").rglob("*.pth"))


def test_other_seeds_skip_the_points_and_rules_have_no_branch_beside_them(study, tmp_path):
    run = next(run for run in study.runs if (run.setting, run.seed) == ("nearest", 4))
    record = execute_study_run(study, run, tmp_path / "out", tmp_path / "records", OPTS)
    assert record["labels_by_points"] == {} and record["maker"] == "nearest"
    assert "nearest/PQ" in record["labels"] and "learned/PQ" not in record["labels"]


def test_a_run_that_was_cut_is_not_trained_again(study, tmp_path, monkeypatch):
    import fdd.engine
    from fdd.engine import command

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    arguments = study, study.runs[0], tmp_path / "out", tmp_path / "records", OPTS
    with monkeypatch.context() as patch:
        patch.setattr(fdd.engine, "evaluate_pseudo_labels", cut)
        with pytest.raises(KeyboardInterrupt):
            execute_study_run(*arguments)
    assert not study.runs[0].record(tmp_path / "records").exists()
    monkeypatch.setattr(command, "main", cut)
    assert "learned/PQ" in execute_study_run(*arguments)["labels"]


def test_shared_features_change_no_figure(study, tmp_path, monkeypatch):
    import fdd.engine

    plain, calls = fdd.engine.evaluate_pseudo_labels, []

    def spy(*args, share_features, **kwargs):
        calls.append(share_features)
        return plain(*args, **kwargs)

    arguments = study, study.runs[0], tmp_path / "out"
    shared = execute_study_run(*arguments, tmp_path / "records", OPTS, keep=True)
    monkeypatch.setattr(fdd.engine, "evaluate_pseudo_labels", spy)
    alone = execute_study_run(*arguments, tmp_path / "records", OPTS)
    assert calls == [True, False] and alone["labels_by_points"] == shared["labels_by_points"]

"""A study's file, what it plans and refuses, and the tables made from its records."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from fdd.ablations.execute import baselines_for, forget_other_config, training_time
from fdd.ablations.records import config_digest, write_record
from fdd.ablations.report import label_rows, study_markdown, study_records
from fdd.ablations.study import (
    StudyRun,
    expand,
    options_of,
    read_study,
    run_config,
    shell_command,
)
from fdd.data.catalog import forget
from fdd.engine.command import parse_args
from fdd.engine.configs import find_config, load_cfg

REPOSITORY = Path(__file__).resolve().parents[2]
CONTENT = {
    "data": {
        "shapes": {
            "config": "ablations/shapes_P10.yaml",
            "set": {"MODEL.WEIGHTS": "${STUDY_W}", "SOLVER.MAX_ITER": 5},
            "points": {"P1": "fdd_shapes_train_p1", "P10": None},
        },
        "other": {"config": "ablations/shapes_P1.yaml"},
    },
    "settings": {"default": {}, "long": {"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": [3, 6]}},
    "runs": [
        {"data": "shapes", "settings": ["default", "long"], "seeds": [1, 2]},
        {"data": ["other"], "settings": "default", "seeds": [4]},
    ],
}


def write_toy_set(folder: Path, images: int = 4) -> Path:
    """A data set file of images with one thing and one region of stuff each."""
    (folder / "images").mkdir()
    segments = [
        {"id": 1, "category_id": 1, "points": [[20.5, 20.5]]},
        {"id": 2, "category_id": 2, "points": [[70.5, 70.5]]},
    ]
    for n in range(images):
        cv2.imwrite(str(folder / "images" / f"{n}.png"), np.full((96, 96, 3), n, np.uint8))
    content = {
        "format": "fdd-points",
        "version": 1,
        "info": {},
        "categories": [
            {"id": 1, "name": "cell", "isthing": True},
            {"id": 2, "name": "glass", "isthing": False},
        ],
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": 96, "width": 96, "segments": segments}
            for n in range(images)
        ],
    }
    (folder / "points.json").write_text(json.dumps(content))
    (folder / "toys.yaml").write_text("images: images\npoints: points.json\n")
    return folder / "toys.yaml"


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_W", "there/w.pkl")

    def write(change=lambda content: None):
        content = json.loads(json.dumps(CONTENT))
        change(content)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def tool(monkeypatch):
    """The command as a module: each process of its own would import PyTorch first."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    import run_label_study

    return lambda *arguments: run_label_study.main([str(argument) for argument in arguments])


def test_first_seeds_come_first_and_a_setting_counts_more_than_its_data(study_file, tmp_path):
    study = read_study(study_file())
    names = [f"{run.data}/{run.name}" for run in study.runs]
    assert names == [
        "shapes/default-s1", "shapes/long-s1", "other/default-s4",
        "shapes/default-s2", "shapes/long-s2",
    ]  # fmt: skip
    cfg, arguments = run_config(study, study.runs[4], tmp_path / "out", ["SOLVER.BASE_LR", "0.5"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SEED) == (9, (3, 6), 2)
    assert cfg.MODEL.WEIGHTS == "there/w.pkl" and cfg.SOLVER.BASE_LR == 0.5
    assert arguments[:2] == ["--config-file", "ablations/shapes_P10.yaml"]
    assert cfg.OUTPUT_DIR == str(tmp_path / "out") == arguments[-1]


def test_a_command_names_variables_and_not_their_values(study_file, monkeypatch):
    study = read_study(study_file())
    said = shell_command(study, study.runs[1])
    assert '"${STUDY_W}"' in said and "there" not in said and "SOLVER.STEPS '[3, 6]'" in said
    monkeypatch.delenv("STUDY_W")
    with pytest.raises(ValueError, match="variable STUDY_W is not set"):
        expand(options_of(study, study.runs[0])[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["data"]["shapes"].update(weights="w"), "data shapes: unknown key 'weights'"),
        (lambda c: c["data"]["shapes"].pop("config"), "either 'config' or 'dataset'"),
        (lambda c: c["data"]["shapes"].update(recipe={"epoch": 3}), "unknown key 'epoch'"),
        (lambda c: c["runs"][0].update(settings=["lnog"]), "'lnog' is not there"),
        (lambda c: c["runs"][1].pop("seeds"), "missing key 'seeds'"),
        (lambda c: c["settings"].update({"a/b": {}}), "'a/b' is to be a folder's"),
        (lambda c: c["settings"].update(default=["x"]), "expected KEY: VALUE"),
    ],
)
def test_a_slip_in_the_file_is_named(change, said, study_file):
    with pytest.raises(ValueError, match=said):
        read_study(study_file(change))


def test_the_digest_leaves_out_where_a_data_set_file_lies(study_file, tmp_path):
    study = read_study(study_file())
    cfg, _ = run_config(study, study.runs[0], tmp_path)
    digests = set()
    for name in ("/here/cells.yaml", "/there/cells.yaml", "/there/others.yaml"):
        cfg.DATASETS.TRAIN = (name,)
        digests.add(config_digest(cfg))
    assert len(digests) == 2


def test_baselines_are_those_that_the_model_can_serve(study_file, tmp_path):
    study = read_study(study_file())
    cfg, _ = run_config(study, study.runs[0], tmp_path)
    found = baselines_for(cfg)
    assert {"nearest", "polygon", "point", "full", "distance", "learned"} <= set(found)
    cfg.MODEL.FDD.LABEL_MAKER = "nearest"  # neither branch is built
    rules = baselines_for(cfg)
    assert {"nearest", "full"} <= set(rules) and not {"distance", "learned"} & set(rules)
    assert baselines_for(cfg, ["polygon", "learned"]) == ("polygon",)
    with pytest.raises(ValueError, match="oracle"):
        baselines_for(cfg, ["oracle"])


def test_what_another_config_trained_is_moved_away_and_kept(tmp_path):
    forget_other_config(tmp_path, "one")
    for name in ("model_final.pth", "last_checkpoint", "metrics.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "results.json").write_text(json.dumps({"results": {}, "iteration": 3}))
    forget_other_config(tmp_path, "one")
    assert (tmp_path / "model_final.pth").exists()
    forget_other_config(tmp_path, "two")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["config_digest.txt"]
    assert (tmp_path / "earlier_001" / "model_final.pth").read_text() == "model_final.pth"


def test_the_time_of_a_run_that_was_cut_is_that_of_its_steps(tmp_path):
    """Ten steps of 2 s, cut after a step of 50 s that the run repeats; then twenty of 1 s."""
    entries = [(9, 2.0), (10, 50.0), (10, 1.0), (29, 1.0)]
    lines = [json.dumps({"iteration": n, "total_loss": 1.0, "time": t}) for n, t in entries]
    (tmp_path / "metrics.json").write_text("\n".join([*lines, '{"iteration": 30, "PQ": 3.0}']))
    assert training_time(tmp_path) == (30, 40.0)


def record_of(setting, seed, pq, maker="learned", digest="d"):
    figures = {f"{maker}/PQ": pq, f"{maker}/PQ_th": pq - 1, f"{maker}_free/PQ": pq - 2}
    labels = figures | {"semantic/mIoU": 50.0, "distance/PQ": 7.0 + seed, "nearest/PQ": 4.0}
    return {
        "config_digest": digest, "setting": setting, "seed": seed, "maker": maker,
        "labels": labels, "labels_by_points": {"P1": {"learned/PQ": 1.0}} if seed == 1 else {},
        "val": {"PQ": 11.0}, "train_seconds": 9.0, "label_seconds": 3.0, "commit": "abc",
        "cpu": "C", "cores": 2, "torch": "2",
    }  # fmt: skip


def test_the_table_has_makers_once_with_mean_and_spread(study_file, tmp_path):
    study = read_study(study_file())
    for run in study.runs:
        if run.data == "shapes":
            pq = {"default": 30.0, "long": 40.0}[run.setting] + run.seed
            write_record(run.record(tmp_path), record_of(run.setting, run.seed, pq))
    found = study_records(study, tmp_path, study.runs)
    rows = label_rows(found["shapes"])
    assert [(setting, maker) for setting, maker, _ in rows] == [
        ("default", "learned"), ("long", "learned"),
        ("default", "distance"), ("long", "distance"), ("any", "nearest"),
    ]  # fmt: skip
    text = study_markdown(study, found)
    row = "| default | learned | 2 | 31.5 ± 0.7 | 30.5 ± 0.7 |  | 29.5 ± 0.7 | 50.0 ± 0.0 | 11.0"
    assert row in text
    assert "| any | nearest |  | 4.0 |" in text and text.count("nearest") == 2
    assert "| default | learned | 1.0 |  |" in text  # over the points: P1 of seed 1, nothing of P10
    assert "steps 9 to 9 s" in text and "other" not in text


def test_seeds_of_different_configs_are_not_averaged(study_file, tmp_path):
    study = read_study(study_file())
    for seed in (1, 2):
        run = StudyRun("shapes", "default", seed)
        write_record(run.record(tmp_path), record_of("default", seed, 3.0, digest=str(seed)))
    with pytest.raises(ValueError, match="config 2, other seeds of default have 1"):
        study_records(study, tmp_path, study.runs)


def test_the_command_lists_what_is_to_do_and_reports(study_file, tmp_path, tool, capsys):
    path, output = study_file(), tmp_path / "out"
    assert tool("--study", path, "--dry-run", "--output", output) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("to do  shapes/default-s1: python train_net.py --config-file")
    assert lines[-1] == "5 runs of 3 settings" and not output.exists()
    some = ["--only", "shapes/long", "--seeds", "2"]
    tool("--study", path, "--dry-run", "--output", output, *some)
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs of 1 settings"
    write_record(output / "records/shapes/long-s2.json", record_of("long", 2, 5.0))
    assert tool("--report", "--study", path, "--output", output) == 0
    assert "| long | learned | 1 | 5.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "shapes/lnog"], "no such run; there are other/default"),
        (["--seeds", "9"], r"one of the seeds \[9\]"),
        (["--dry-run", "SOLVER.MAX_ITR", "3"], "SOLVER.MAX_ITR"),
        (["--report"], "no record of"),
    ],
)
def test_the_command_refuses_what_cannot_work(arguments, said, study_file, tmp_path, tool):
    with pytest.raises(ValueError, match=said):
        tool("--study", study_file(), "--output", tmp_path / "out", *arguments)


def test_a_key_without_a_value_is_refused(study_file, tool, capsys):
    with pytest.raises(SystemExit):
        tool("--study", study_file(), "--dry-run", "SOLVER.MAX_ITER")
    assert "KEY VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "opts", "batch"),
    [("cpu", [], 2), ("${STUDY_D}", [], 2), ("cuda", [], 4), ("cuda", ["MODEL.DEVICE", "cpu"], 2)],
)
def test_a_recipe_is_for_the_device_of_the_run(
    device, opts, batch, study_file, tmp_path, monkeypatch
):
    """As `fdd init-config` writes it there; on a GPU a step has more images."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("STUDY_D", "cpu")
    path = write_toy_set(tmp_path)

    def change(content):
        content["data"]["shapes"] = {
            "dataset": str(path),
            "recipe": {"network": "reduced", "short_side": 256},
            "set": {"MODEL.DEVICE": device},
        }

    study = read_study(study_file(change))
    run = StudyRun("shapes", "default", 1)
    try:
        cfg, _ = run_config(study, run, tmp_path / "run", opts)
    finally:
        forget(str(path))
    assert batch == cfg.SOLVER.IMS_PER_BATCH
    said = shell_command(study, run, opts)
    _, init, train = said.split(" && ")
    assert init.endswith(f"MODEL.DEVICE {opts[1] if opts else device}")
    config = "output/shapes_default-s1.yaml"
    assert f"--output {config} " in init and f"--config-file {config} " in train
    assert train.endswith("OUTPUT_DIR output/shapes_default-s1")


def test_a_command_can_be_pasted(study_file):
    """As a shell reads it: each run trains in a folder of its own."""
    study = read_study(study_file())
    folders = set()
    for run in study.runs:
        said = shell_command(study, run, ["SOLVER.BASE_LR", "0.5"])
        words = shlex.split(expand(said))
        assert words[:2] == ["python", "train_net.py"]
        args = parse_args(words[2:])
        cfg, _ = load_cfg(find_config(args.config_file), args.opts)
        assert cfg.SOLVER.BASE_LR == 0.5 and run.seed == cfg.SEED
        folders.add(cfg.OUTPUT_DIR)
    assert len(folders) == len(study.runs) and all(f.startswith("output/") for f in folders)


def test_the_shipped_study_is_sound():
    study = read_study(REPOSITORY / "docs" / "ablations" / "label_study.yaml")
    assert len(study.runs) == len(set(study.runs)) > 10
    configs = {entry.config for entry in study.data.values() if entry.config}
    assert all((REPOSITORY / "configs" / config).is_file() for config in configs)

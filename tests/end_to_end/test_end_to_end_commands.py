"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from run_toys import NUM_TRAIN, NUM_VAL, REPOSITORY, SIZE, TINY, options

CONFIG = REPOSITORY / "configs/quick_schedules/fdd_shapes_instant_test.yaml"
OPTIONS = [str(value) for value in options(TINY)]


def run(*command, root):
    environment = os.environ | {
        "DETECTRON2_DATASETS": str(root),
        "FDD_DATASETS": str(root),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        cwd=root,  # nothing may depend on the folder it is called from
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What ``make demo`` leaves: it trains with train_net.py, resumes, evaluates pseudo labels."""
    root = tmp_path_factory.mktemp("demo with spaces é")
    arguments = ["--train", NUM_TRAIN, "--val", NUM_VAL, "--size", SIZE, "--report-images", 2]
    script = REPOSITORY / "tools/demo_shapes.py"
    folder = root / "out"
    text = run(script, "--output", folder, "--config-file", CONFIG, *arguments, *OPTIONS, root=root)
    return folder, text


def read(path):
    return json.loads(path.read_text())


def test_training_leaves_its_files(demo):
    folder = demo[0] / "train"
    final = torch.load(folder / "model_final.pth")
    assert final["iteration"] == 3
    assert all(torch.isfinite(value).all() for value in final["model"].values())
    results = read(folder / "results.json")
    assert results["iteration"] == 3
    assert {"PQ", "PQ_th", "PQ_st", "SQ", "RQ"} <= set(results["results"]["panoptic_seg"])
    metrics = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        metrics |= json.loads(line)
    assert metrics["panoptic_seg/PQ"] == results["results"]["panoptic_seg"]["PQ"]
    assert {"loss_pse_point", "loss_sem_point", "loss_thing_dice", "grad_norm"} <= set(metrics)
    assert f"Training on {NUM_TRAIN} of {NUM_TRAIN} images" in (folder / "log.txt").read_text()


def test_pseudo_labels_after_resume(demo):
    labels = read(demo[0] / "train" / "pseudo_label_results.json")["results"]["pseudo_labels"]
    makers = ("learned", "learned_free", "nearest", "polygon", "extent")
    assert all(0 <= labels[f"{maker}/PQ"] <= 100 for maker in makers)
    assert 0 <= labels["semantic/mIoU"] <= 100
    # A rule's labels do not depend on weights: stuff near its points is found even here.
    assert labels["nearest/PQ_st"] > 0


def test_demo_reports(demo):
    folder, text = demo
    summary = read(folder / "summary.json")
    assert summary["val_PQ"] == read(folder / "train/results.json")["results"]["panoptic_seg"]["PQ"]
    assert summary["peak_memory_mib"] > 50 and summary["train_seconds"] > 0
    assert f"Report: {folder / 'report.html'}" in text
    page = (folder / "report.html").read_text()
    assert page.count("data:image/") >= 2 and page.count("<article") == 2
    # The run's figures above, the images as `fdd report` shows them below.
    assert "Training time" in page and "Polygon PQ" in page and '<table id="classes">' in page
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert min(sheet.size) > SIZE


def test_evaluate_only(demo, tmp_path):
    """The weights in another folder evaluate to what they did, and predictions can be kept."""
    folder, _ = demo
    weights = tmp_path / "weights.pth"
    shutil.copyfile(folder / "train" / "model_final.pth", weights)
    command = [REPOSITORY / "train_net.py", "--config-file", CONFIG, "--eval-only", *OPTIONS]
    command += ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "out"]
    run(*command, "TEST.KEEP_PREDICTIONS", True, root=folder / "datasets")
    expected = read(folder / "train" / "results.json")["results"]
    assert read(tmp_path / "out" / "eval_results.json")["results"] == expected
    kept = tmp_path / "out/inference/predictions_fdd_shapes_val_panoptic"
    assert len(read(kept / "panoptic.json")["annotations"]) == NUM_VAL
    assert len(list((kept / "panoptic").iterdir())) == NUM_VAL
    assert not (tmp_path / "out" / "model_final.pth").exists(), "nothing was trained"


def test_label_curve(demo, tmp_path):
    """Every periodic checkpoint is scored, and agrees with the evaluation of the finished run."""
    folder, _ = demo
    command = [REPOSITORY / "tools/label_curve.py", "--config-file", CONFIG, "--flat"]
    command += ["--run", folder / "train", "--output", tmp_path, "--images", 2, *OPTIONS]
    text = run(*command, "--masks", "fdd_shapes_train_panoptic", root=folder / "datasets")
    (row,) = read(tmp_path / "label_curve.json")
    final = read(folder / "train" / "pseudo_label_results.json")["results"]["pseudo_labels"]
    assert row["iteration"] == 4 and row["learned/PQ"] == pytest.approx(final["learned/PQ"])
    assert "iteration      4" in text
    for name in ("label_curve.png", "labels_before_after.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > SIZE


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("demo", REPOSITORY / "tools/demo_shapes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(folder, text):
    """What a demo leaves, as far as names go."""
    training = folder / "train"
    training.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "report.html", "contact_sheet.png"):
        (folder / name).write_text(text)
    for name in ("model_final.pth", "last_checkpoint", "metrics.json", "log.txt"):
        (training / name).write_text(text)
    return training


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_demo_replaces_the_one_before(script, tmp_path):
    for _ in range(2):
        training = fill(tmp_path, "of a demo")
        script.write_record(tmp_path, training)
        (tmp_path / "notes.txt").write_text("mine")
        script.clear(tmp_path, training)
        assert names(tmp_path) == ["notes.txt"], "and no folder earlier_001"
        assert [p.name for p in training.iterdir()] == []


def test_a_demo_replaces_nothing_of_others(script, tmp_path):
    training = fill(tmp_path, "of a demo")
    script.write_record(tmp_path, training)
    (training / "model_final.pth").write_text("trained there since")
    (tmp_path / "report.html").write_text("changed since")
    script.clear(tmp_path, training)
    assert names(tmp_path) == ["earlier_001/report.html", "train/earlier_001/model_final.pth"]
    fill(tmp_path, "without a record")
    script.clear(tmp_path, training)
    kept = {f"earlier_002/{name}" for name in script.PRODUCTS}
    assert kept | {"train/earlier_002/metrics.json", "train/log.txt"} <= set(names(tmp_path))


def test_the_demo_remembers_what_it_wrote(demo, script):
    folder, _ = demo
    record = script.read_record(folder)
    assert {*script.PRODUCTS, "train/model_final.pth", "train/config.yaml"} <= set(record)
    assert not [name for name in names(folder) if "earlier_" in name or name.endswith(".lock")]

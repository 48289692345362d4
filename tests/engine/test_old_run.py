"""A run that an earlier version wrote (``old_run``) is still read, evaluated and continued.

``old_run`` holds two steps of a tiny model on two drawn images, written by the code of commit
cd50ab5: the files of the run, ``exported.pth`` made from it, and in ``reference*`` what that code
got from them. The config has the key ``TEST.PSEUDO_LABELS.YARDSTICKS`` of that time.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.hooks import CallbackHook
from PIL import Image

from fdd.data import register_panoptic, register_points
from fdd.engine import (
    Trainer,
    configs,
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
)
from fdd.engine.configs import load_cfg
from fdd.export_formats import FORMATS, Export, ExportedImage, write_formats
from fdd.inference.label_export import export_labels
from fdd.inference.predictor import Predictor
from fdd.inference.trained_model import load_trained
from fdd.points.coco_panoptic import load_segment_ids

OLD_RUN = Path(__file__).parent / "old_run"
POINTS, MASKS = "old_run_points", "old_run_masks"


@pytest.fixture(scope="module")
def old_run(tmp_path_factory) -> Any:
    """A copy of the run, its checkpoints unpacked and its data sets registered."""
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(OLD_RUN, folder)
    for packed in folder.glob("*.pth.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    data = folder / "data"
    masks = data / "panoptic.json", data / "panoptic"
    register_points(POINTS, data / "images", data / "points.json", *masks)
    register_panoptic(MASKS, data / "images", *masks)
    yield folder
    for name in (POINTS, MASKS):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def reference() -> Any:
    return json.loads((OLD_RUN / "reference.json").read_text())


def assert_close(found: Any, wanted: Any, tolerance: float, where: str = "") -> None:
    """The same keys and texts, and numbers that differ by rounding at most."""
    if isinstance(wanted, dict):
        assert sorted(found) == sorted(wanted), where
        for key, value in wanted.items():
            assert_close(found[key], value, tolerance, f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert_close(a, b, tolerance, f"{where}/{number}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=tolerance), where
    else:
        assert found == wanted, where


def config(old_run: Path, output: Path, *opts: Any) -> Any:
    cfg, _ = load_cfg(old_run / "config.yaml", [*map(str, opts), "OUTPUT_DIR", str(output)])
    return cfg


def test_the_config_is_read_with_a_warning_about_the_old_key(old_run, tmp_path, caplog) -> None:
    configs._warn_of_name.cache_clear()  # it warns once a file
    cfg = config(old_run, tmp_path)
    assert cfg.TEST.PSEUDO_LABELS.BASELINES == ("nearest",)
    assert "TEST.PSEUDO_LABELS.YARDSTICKS is now called" in caplog.text


@pytest.mark.parametrize("name", ["", "model_final.pth", "exported.pth"])
def test_predictions_are_those_of_before(old_run, reference, tmp_path, name: str) -> None:
    model = old_run / name
    if name == "exported.pth":  # without anything beside it
        model = shutil.copy(model, tmp_path)
    trained = load_trained(model)
    assert trained.named and [c["name"] for c in trained.categories] == ["cell", "dog", "sky"]
    predictor = Predictor(trained)
    for number, segments in reference["predictions"].items():
        image = np.asarray(Image.open(old_run / "data" / "images" / f"{number}.png"))
        ids, found = predictor(image)
        assert_close(predictor.describe(ids, found), segments, 2e-4)
        old = load_segment_ids(OLD_RUN / "reference" / f"prediction_{number}.png", *ids.shape)
        np.testing.assert_array_equal(ids, old)


def test_labels_are_those_of_before(old_run, tmp_path) -> None:
    summary = export_labels(old_run, POINTS, tmp_path / "labels")
    assert summary.complete and summary.images == 2 and summary.segments == 6
    folders = tmp_path / "labels", OLD_RUN / "reference" / "labels"
    found, wanted = (json.loads((folder / "panoptic.json").read_text()) for folder in folders)
    wanted["info"]["contributor"] = found["info"]["contributor"]
    assert_close(found, wanted, 2e-4)
    for image in wanted["images"]:
        size = image["height"], image["width"]
        name = f"panoptic/{image['file_name']}"
        new, old = (load_segment_ids(folder / name, *size) for folder in folders)
        np.testing.assert_array_equal(new, old)


def test_the_files_of_every_form_are_those_of_before(old_run, reference, tmp_path) -> None:
    """From the labels of before, so that nothing depends on rounding."""
    shutil.copytree(OLD_RUN / "reference" / "labels" / "panoptic", tmp_path / "panoptic")
    document = json.loads((OLD_RUN / "reference" / "labels" / "panoptic.json").read_text())
    images = [
        ExportedImage(
            image["id"],
            image["file_name"],
            image["height"],
            image["width"],
            str(old_run / "data" / "images" / image["file_name"]),
            annotation["file_name"],
            annotation["segments_info"],
        )
        for image, annotation in zip(document["images"], document["annotations"], strict=True)
    ]
    write_formats(Export(tmp_path, document["categories"], images, document["info"]), FORMATS)
    found = {
        path.relative_to(tmp_path).as_posix(): digest(path)
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert found == reference["labels"]


def digest(path: Path) -> str:
    """Of a file's bytes; of a PNG's pixels, whose compression is the library's."""
    content = np.asarray(Image.open(path)).tobytes() if path.suffix == ".png" else path.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def test_results_are_those_of_before(old_run, reference, tmp_path) -> None:
    weights = ("MODEL.WEIGHTS", old_run / "model_final.pth")
    cfg = config(old_run, tmp_path, "DATASETS.TEST", (MASKS,), *weights)
    evaluate_predictions(Trainer, cfg)
    evaluate_pseudo_labels(cfg)
    evaluate_label_quality(cfg)
    for name, wanted in reference["evaluation"].items():
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert list(found) == ["iteration", "results"]
        for row in found["results"].get("worst_images", ()):
            row["file_name"] = Path(row["file_name"]).name
        for results in found["results"].values():  # figures that came since
            if isinstance(results, dict):
                for key in [k for k in results if "/trimap" in k]:
                    del results[key]
        assert_close(found["results"], wanted, 1e-3, name)


def test_the_training_is_resumed(old_run, reference, tmp_path) -> None:
    shutil.copytree(old_run, tmp_path / "run")
    cfg = config(old_run, tmp_path / "run", "SOLVER.MAX_ITER", 4, "DATASETS.TEST", (MASKS,))
    trainer, losses = Trainer(cfg), []

    def record(running: Any) -> None:
        running._trainer.settle()
        latest = running.storage.latest()
        losses.append({k: v for k, (v, at) in latest.items() if at == running.iter and "loss" in k})

    trainer.register_hooks([CallbackHook(after_step=record)])
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    trainer.train()
    assert_close(losses, reference["losses"], 1e-5)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert_close(results, reference["resumed"], 1e-3)
    assert torch.load(tmp_path / "run" / "model_final.pth")["iteration"] == 3

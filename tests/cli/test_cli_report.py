"""`fdd report` from the command line: a tiny real model on a few images, with masks and without."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from fdd.cli.main import main
from fdd.data import FDDDatasetMapper
from fdd.data.dataset_files import resolve_name
from fdd.evaluation import PanopticEvaluator, PseudoLabelEvaluator
from fdd.inference.report import write_label_report
from fdd.inference.report_text import read_iteration
from fdd.inference.trained_model import load_trained
from fdd.points import Category, PointDataset, PointImage, PointSegment, write_points
from fdd.visualization.report import spread
from modeling_toys import small_cfg, small_model

CATEGORIES = [Category(3, "cell", True), Category(7, "nucleus", True), Category(9, "ground", False)]
SIZES = [(48, 40), (40, 48), (64, 32), (32, 32)]


def write_files(root: Path) -> None:
    """Four images: the left third a cell, the rest ground; the last has no point."""
    generator = np.random.default_rng(0)
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True)
    images, annotations, pointed = [], [], []
    for n, (width, height) in enumerate(SIZES):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"im{n}.png")
        ids = np.full((height, width), 2, np.uint8)
        ids[:, : width // 3] = 1
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1)).save(root / f"panoptic/im{n}.png")
        segments = [
            {"id": k, "category_id": c, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]}
            for k, c in ((1, 3), (2, 9))
        ]
        images.append({"id": n, "file_name": f"im{n}.png", "height": height, "width": width})
        annotations.append({"image_id": n, "file_name": f"im{n}.png", "segments_info": segments})
        points = [
            PointSegment(1, 3, [(4.5, 9.5 + n), (5.5, 20.5)]),
            PointSegment(2, 9, [(width - 4.5, 20.5), (width - 9.5, 4.5)]),
        ]
        labelled = points if n < len(SIZES) - 1 else []
        pointed.append(PointImage(n, f"im{n}.png", height, width, labelled))
    categories = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(content))
    write_points(root / "points.json", PointDataset(CATEGORIES, pointed, {}))
    text = "name: toy set\nimages: images\npoints: points.json\n"
    (root / "plain.yaml").write_text(text)
    masks = "masks: {json: panoptic.json, folder: panoptic}"
    (root / "masked.yaml").write_text(f"{text}{masks}\n")
    (root / "validated.yaml").write_text(f"{text}validation:\n  {masks}\n  images: images\n")
    bare = [replace(image, segments=[]) for image in pointed]
    write_points(root / "none.json", PointDataset(CATEGORIES, bare, {}))
    (root / "pointless.yaml").write_text(text.replace("points.json", "none.json"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report_toy")
    write_files(root)
    changes = {
        "NUM_THINGS": 2,
        "NUM_STUFF": 1,
        "INPUT.MIN_SIZE_TEST": 32,
        "SOLVER.MAX_ITER": 50,
    }
    model = small_model(changes)
    run = root / "run"
    run.mkdir()
    torch.save({"model": model.state_dict(), "iteration": 41}, run / "model_final.pth")
    cfg = small_cfg(changes)
    cfg.DATASETS.TRAIN = (str(root / "plain.yaml"),)
    cfg.DATASETS.TEST = ()
    (run / "config.yaml").write_text(cfg.dump())
    line = {"iteration": 9, "total_loss": 3.0, "loss_box_l1": 1.0}
    (run / "metrics.json").write_text(json.dumps(line) + "\n")
    return root


def report(root: Path, dataset: str, output: Path, *more: str) -> int:
    words = ["--model", str(root / "run"), "--dataset", str(root / dataset)]
    return main(["report", *words, "--output", str(output), *more])


def rows_of(page: Path) -> list[str]:
    return re.findall(r'<article [^>]*data-name="([^"]*)"', page.read_text(encoding="utf-8"))


def titles(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r'class="panels"[^>]*>.*?</article>', text, re.S) and re.findall(
        r"</button><figcaption>([^<]*)<", text
    )


def test_with_masks(root: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "new" / "report.html"
    assert report(root, "masked.yaml", page) == 0
    said = capsys.readouterr().out
    assert f"Wrote {page}: 4 images" in said and "Label PQ" in said and "Lowest label PQ" in said
    text = page.read_text(encoding="utf-8")
    assert sorted(rows_of(page)) == [f"im{n}.png" for n in range(4)]
    assert "(by rule " in said and "Rule PQ" in text and "Rule finds" in text
    first = titles(page)[:8]
    assert first == [
        *("Image", "Points", "Pseudo label", "By rule", "Confidence"),
        *("Auxiliary semantics", "Prediction", "Ground truth"),
    ]
    for shown in ("toy set", "Label PQ", "Point recall", "42 of 50 iterations", "no points"):
        assert shown in text
    assert "total_loss" in text and "loss_box_l1" not in text  # what a person looks at
    assert "The model has learned from these points" not in text
    assert "nucleus" in text and "Not in these images: nucleus" in text
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]


def test_without_masks(root: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "report.html"
    assert report(root, "plain.yaml", page, "--no-training-curves", "--title", "Mine & yours") == 0
    said = capsys.readouterr().out
    assert "Lowest label score" in said
    assert re.search(r"left-out points found [\d.]+ % \(by rule [\d.]+ %\)", said)
    text = page.read_text(encoding="utf-8")
    assert "Ground truth" not in text and "Prediction PQ" not in text and "total_loss" not in text
    assert "Mine &amp; yours" in text and "The model has learned from these points" in text
    assert rows_of(page)[-1] == "im3.png"  # no points, no score
    scores = re.findall(r'data-score="([\d.e-]+)"', text)
    assert len(scores) == 3 and [*map(float, scores)] == sorted(map(float, scores))


@pytest.mark.parametrize("part", ["masked.yaml#masks", "validated.yaml#validation"])
def test_masks_without_points_show_predictions_beside_them(root, tmp_path, capsys, part) -> None:
    page = tmp_path / "report.html"
    dataset = str(root / part)
    trained = load_trained(root / "run", full=True)
    name = resolve_name(dataset, "points")
    evaluator = PanopticEvaluator(name)
    evaluator.reset()
    mapper = FDDDatasetMapper(trained.cfg, is_train=False)
    for record in DatasetCatalog.get(name):
        x = mapper(record)
        with torch.no_grad():
            evaluator.process([x], trained.model([x]))
    expected = evaluator.evaluate()["panoptic_seg"]["PQ"]
    assert report(root, part, page, "--no-training-curves") == 0
    said = capsys.readouterr().out
    assert "Prediction PQ" in said and "no points in the data set" in said
    assert "Label PQ" not in said and "unknown" not in said and "Point recall" not in said
    assert f"Prediction PQ {expected:.1f}," in said
    assert sorted(rows_of(page)) == [f"im{n}.png" for n in range(4)]
    assert titles(page)[:3] == ["Image", "Prediction", "Ground truth"]
    text = page.read_text(encoding="utf-8")
    assert "Predictions: toy set" in text and "Label score" not in text
    assert "no points" not in re.sub("has no points, so", "", text)  # not said of every image


def test_figures_are_those_of_the_evaluators(root: Path, tmp_path: Path) -> None:
    """Backbone and encoder run once for label and prediction; nothing else may come out."""
    trained = load_trained(root / "run", full=True)
    dataset = str(root / "masked.yaml")
    found = write_label_report(tmp_path / "r.html", trained, dataset)
    # Without a mask it is seen that a net which has learned next to nothing makes bad labels.
    assert 0 <= found.figures["score"] < 30
    name = resolve_name(dataset, "points")
    labels, predictions = PseudoLabelEvaluator(name), PanopticEvaluator(name)
    mapper = FDDDatasetMapper(trained.cfg, is_train=False)
    single = {}
    for record in DatasetCatalog.get(name):
        inputs = [mapper(dict(record))]
        with torch.no_grad():
            predictions.process(inputs, trained.model(inputs))
            outputs = trained.model.estimate_labels(inputs)
        labels.process(inputs, outputs)
        quality = labels.image_quality(record["image_id"], outputs[0])
        single[Path(record["file_name"]).name] = quality["learned"]["PQ"]
    assert found.figures["label_pq"] == pytest.approx(
        labels.evaluate()["pseudo_labels"]["learned/PQ"]
    )
    assert found.figures["prediction_pq"] == pytest.approx(
        predictions.evaluate()["panoptic_seg"]["PQ"]
    )
    assert dict(found.worst) == pytest.approx(single)


def test_point_and_class_recall_are_of_the_label_that_is_not_forced(root, tmp_path) -> None:
    trained = load_trained(root / "run", full=True)
    dataset = str(root / "plain.yaml")
    found = write_label_report(tmp_path / "r.html", trained, dataset).figures
    mapper = FDDDatasetMapper(trained.cfg, is_train=False)
    held = classed = points = 0
    for record in DatasetCatalog.get(resolve_name(dataset, "points")):
        x = mapper(dict(record))
        with torch.no_grad():
            label = trained.model.estimate_labels([x])[0]["pseudo_labels"]["learned_free"]
        ordered = sorted(record["points"], key=lambda p: not p["isthing"])
        for n, segment in enumerate(ordered):
            for px, py in segment["coords"]:
                at = int(label[int(py), int(px)])
                held += at == n
                classed += at >= 0 and int(x["classes"][at]) == segment["category_id"]
                points += 1
    assert found["points"] == points == 12
    assert found["point_recall"] == pytest.approx(100 * held / points)
    assert found["class_recall"] == pytest.approx(100 * classed / points)


def test_left_out_points_are_those_of_the_evaluation_of_label_quality(root, tmp_path) -> None:
    trained = load_trained(root / "run", full=True)
    dataset = str(root / "plain.yaml")
    found = write_label_report(tmp_path / "r.html", trained, dataset).figures
    mapper = FDDDatasetMapper(trained.cfg, is_train=False)
    count, right = 0, {"learned": 0, "extent": 0}
    for record in DatasetCatalog.get(resolve_name(dataset, "points")):
        quality = trained.model.label_quality([mapper(dict(record))], max_rounds=2)[0]
        count += int(quality["left_out"].sum())
        for name in right:
            right[name] += int(quality["makers"][name]["left_out_right"].sum())
    assert found["left_out"] == count == 12
    assert found["found"] == pytest.approx(100 * right["learned"] / count)
    assert found["rule_found"] == pytest.approx(100 * right["extent"] / count)


def test_fewer_and_smaller(root: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "r.html"
    assert report(root, "plain.yaml", page, "--max-images", "2", "--thumbnail", "20") == 0
    text = page.read_text(encoding="utf-8")
    assert len(rows_of(page)) == 2 and "Of 4 in the data set, evenly spread" in text
    sizes = re.findall(r'<img [^>]*width="(\d+)" height="(\d+)" src', text)
    assert sizes and max(int(n) for size in sizes for n in size) == 20


def test_spread_is_even_and_whole() -> None:
    assert spread("abcdefgh", 2) == ["c", "g"]
    assert spread("abc", 3) == spread("abc", None) == spread("abc", 9) == ["a", "b", "c"]
    for count in range(1, 50):
        chosen = spread(range(50), count)
        assert len(set(chosen)) == count and chosen == sorted(chosen)
        assert max(np.diff([-1, *chosen, 50])) <= 50 / count + 1


@pytest.mark.parametrize(
    ("dataset", "more", "message"),
    [
        ("plain.yaml", ["--max-images", "0"], "max_images is 0; expected at least 1"),
        ("plain.yaml", ["--thumbnail", "3"], "thumbnail is 3"),
        ("none.yaml", [], "none.yaml, which is not there"),
        ("pointless.yaml", [], "no image has a point"),
        ("plain.yaml#validation", [], "no validation in it"),
        ("plain.yaml", ["MODEL.FDD.NUM_THINGS", "3"], "does not fit the model"),
        ("plain.yaml", ["--config-file", "no.yaml"], "no.yaml"),
    ],
)
def test_mistakes_are_one_line(root, tmp_path, capsys, dataset, more, message) -> None:
    page = tmp_path / "r.html"
    assert report(root, dataset, page, *more) == 2
    error = capsys.readouterr().err
    assert "fdd report: error: " in error and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes(root: Path, tmp_path: Path, capsys) -> None:
    assert report(root, "plain.yaml", tmp_path) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    words = ["report", "--dataset", str(root / "plain.yaml"), "--output", str(tmp_path / "r.html")]
    assert main([*words, "--model", str(tmp_path / "nothing")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    checkpoint = tmp_path / "alone.pth"
    checkpoint.write_bytes((root / "run" / "model_final.pth").read_bytes())
    config = ["--config-file", str(root / "run" / "config.yaml"), "--training-curves"]
    assert main([*words, "--model", str(checkpoint), *config]) == 2
    assert "metrics.json" in capsys.readouterr().err


def test_unreadable_images_are_named_and_the_others_shown(root, tmp_path, capsys) -> None:
    write_files(tmp_path / "set")
    (tmp_path / "set" / "images" / "im2.png").write_bytes(b"no picture")
    page = tmp_path / "r.html"
    words = ["--model", str(root / "run"), "--output", str(page)]
    assert main(["report", *words, "--dataset", str(tmp_path / "set" / "masked.yaml")]) == 1
    said = capsys.readouterr()
    assert "im2.png" in said.err and "3 images," in said.out
    assert sorted(rows_of(page)) == ["im0.png", "im1.png", "im3.png"]


def test_without_a_readable_image_the_old_page_stays(root, tmp_path, capsys) -> None:
    write_files(tmp_path / "set")
    for image in (tmp_path / "set" / "images").iterdir():
        image.write_bytes(b"no picture")
    page = tmp_path / "r.html"
    page.write_text("<!DOCTYPE html>old")
    words = ["--model", str(root / "run"), "--output", str(page)]
    assert main(["report", *words, "--dataset", str(tmp_path / "set" / "plain.yaml")]) == 2
    assert "not one image can be read" in capsys.readouterr().err
    assert page.read_text() == "<!DOCTYPE html>old" and not list(tmp_path.glob(".tmp*"))


def test_an_image_that_the_masks_lack_is_shown_last(root, tmp_path) -> None:
    write_files(tmp_path / "set")
    path = tmp_path / "set" / "panoptic.json"
    content = json.loads(path.read_text())
    content["annotations"].pop(0)
    content["images"].pop(0)
    path.write_text(json.dumps(content))
    page = tmp_path / "r.html"
    words = ["--model", str(root / "run"), "--output", str(page)]
    assert main(["report", *words, "--dataset", str(tmp_path / "set" / "masked.yaml")]) == 0
    assert rows_of(page)[-1] == "im0.png"
    assert "Of the 3 images with masks" in page.read_text(encoding="utf-8")


def test_masks_that_are_all_void_give_no_pq(root, tmp_path, capsys) -> None:
    write_files(tmp_path / "set")
    path = tmp_path / "set" / "panoptic.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"] = []
        mask = tmp_path / "set" / "panoptic" / annotation["file_name"]
        with Image.open(mask) as picture:
            Image.new("RGB", picture.size).save(mask)
    path.write_text(json.dumps(content))
    page = tmp_path / "r.html"
    words = ["--model", str(root / "run"), "--output", str(page)]
    assert main(["report", *words, "--dataset", str(tmp_path / "set" / "masked.yaml")]) == 0
    said = capsys.readouterr().out
    assert "Label PQ unknown (by rule unknown), prediction PQ unknown, point" in said
    text = page.read_text(encoding="utf-8")
    assert "nan" not in re.sub(r'"data:[^"]*"', "", text).split("<script>")[0].lower()


@pytest.mark.parametrize("maker", ["extent", "nearest", "dnn"])
def test_a_rule_that_makes_labels_has_no_confidence(root, tmp_path, maker) -> None:
    page = tmp_path / "r.html"
    options = ["MODEL.FDD.LABEL_MAKER", maker, "MODEL.FDD.PSEUDO.FORCE_POINTS", "True"]
    run = tmp_path / "run"
    run.mkdir()
    changes = {"NUM_THINGS": 2, "NUM_STUFF": 1, "LABEL_MAKER": maker}
    torch.save({"model": small_model(changes).state_dict()}, run / "model_final.pth")
    (run / "config.yaml").write_text((root / "run" / "config.yaml").read_text())
    words = ["--model", str(run), "--output", str(page), "--dataset", str(root / "plain.yaml")]
    assert main(["report", *words, *options]) == 0
    assert "Confidence" not in titles(page) and "Pseudo label" in titles(page)
    # Points are set in labels that a network has a part in.
    assert ("by force" in page.read_text(encoding="utf-8")) == (maker == "dnn")


def test_iterations_of_a_checkpoint(root: Path, tmp_path: Path) -> None:
    assert read_iteration(root / "run" / "model_final.pth") == 42
    other = tmp_path / "x.pkl"
    other.write_bytes(b"\x80\x04K\x01.")
    assert read_iteration(other) is None

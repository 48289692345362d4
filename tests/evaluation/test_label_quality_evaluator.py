"""Averages over images of what labels tell of their own quality."""

from __future__ import annotations

import json
import logging
import math
import pickle
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from fdd.data.catalog import register_points
from fdd.evaluation import LabelQualityEvaluator
from fdd.points import Category, PointDataset, PointImage, PointSegment, write_points

NAN = math.nan
CLASSES = ["cat", "dog", "sky"]


def evaluator(**options: Any) -> LabelQualityEvaluator:
    return LabelQualityEvaluator(class_names=CLASSES, num_things=2, **options)


def quality(
    classes: list[int],
    right: list[int],
    left_out: list[int],
    points: list[int],
    held: list[int],
    confidence: list[float],
    empty: list[bool] | None = None,
    swallowing: list[bool] | None = None,
    others: dict[str, Any] | None = None,
) -> dict[str, Any]:
    none = [False] * len(classes)
    learned = {
        "share": torch.zeros(len(classes)),
        "confidence": torch.tensor(confidence),
        "empty": torch.tensor(none if empty is None else empty, dtype=torch.bool),
        "swallowing": torch.tensor(none if swallowing is None else swallowing, dtype=torch.bool),
        "points_held": torch.tensor(held),
        "left_out_right": torch.tensor(right),
    }
    return {
        "classes": torch.tensor(classes, dtype=torch.long),
        "points": torch.tensor(points),
        "left_out": torch.tensor(left_out),
        "makers": {"learned": learned, **(others or {})},
    }


def add(e: LabelQualityEvaluator, image_id: Any, output: dict[str, Any]) -> None:
    e.process([{"image_id": image_id, "file_name": f"{image_id}.jpg"}], [output])


FIRST = quality([0, 1, 2], [3, 0, 2], [4, 0, 2], [4, 1, 2], [4, 0, 1], [0.9, NAN, 0.5],
                [False, True, False], [False, False, True])  # fmt: skip
SECOND = quality([0, 0], [1, 1], [2, 4], [2, 6], [2, 6], [0.7, 0.8])
NOTHING = quality([], [], [], [], [], [])


def test_two_images_by_hand() -> None:
    e = evaluator()
    add(e, "a", FIRST)
    add(e, "b", SECOND)
    add(e, "c", NOTHING)
    results = e.evaluate()
    r = {k.removeprefix("learned/"): v for k, v in results["label_quality"].items()}
    assert r["agreement"] == pytest.approx(100 * 7 / 12)
    assert r["agreement_th"] == pytest.approx(100 * 5 / 10) and r["agreement_st"] == 100
    assert r["points_held"] == pytest.approx(100 * 13 / 15)
    assert r["points_held_st"] == pytest.approx(100 * 1 / 2)
    assert r["confidence"] == pytest.approx(100 * (0.9 + 0.5 + 0.7 + 0.8) / 4)
    assert r["confidence_th"] == pytest.approx(100 * (0.9 + 0.7 + 0.8) / 3)
    assert r["empty"] == pytest.approx(100 / 5) and r["empty_st"] == 0
    assert r["swallowing"] == pytest.approx(100 / 2), "of the two labelled images"
    by_class = results["label_quality_by_class"]
    assert by_class["learned/agreement/cat"] == pytest.approx(100 * 5 / 10)
    assert math.isnan(by_class["learned/agreement/dog"])  # its only point cannot be left out
    assert by_class["learned/empty/dog"] == 100 and by_class["learned/points_held/dog"] == 0
    assert results["label_counts"] == {
        "images": 3, "instances": 5, "points": 15, "left_out": 12,
        "learned/empty": 1, "learned/swallowing": 1,
    }  # fmt: skip
    assert results["worst_images"] == [
        {"image_id": "b", "file_name": "b.jpg", "agreement": pytest.approx(100 / 3),
         "left_out": 6, "instances": 2, "empty": 0, "swallowing": 0},
        {"image_id": "a", "file_name": "a.jpg", "agreement": pytest.approx(500 / 6),
         "left_out": 6, "instances": 3, "empty": 1, "swallowing": 1},
    ]  # fmt: skip


def test_makers_stand_beside_each_other() -> None:
    e = evaluator()
    nearest = FIRST["makers"]["learned"] | {
        "left_out_right": torch.tensor([1, 0, 0]),
        "confidence": torch.full((3,), NAN),
    }
    output = FIRST | {"makers": {"nearest": nearest, **FIRST["makers"]}}
    add(e, 1, output)
    results = e.evaluate()
    assert results["label_quality"]["nearest/agreement"] == pytest.approx(100 / 6)
    assert results["label_quality"]["learned/agreement"] == pytest.approx(500 / 6)
    assert math.isnan(results["label_quality"]["nearest/confidence"])
    assert results["label_counts"]["instances"] == 3, "counted once"
    # The worst images are those of the maker that comes first.
    assert results["worst_images"][0]["agreement"] == pytest.approx(100 / 6)


def test_lone_points_and_unlabelled_images(caplog: Any) -> None:
    e = evaluator()
    add(e, 1, quality([0, 2], [0, 0], [0, 0], [1, 1], [1, 0], [0.5, 0.5]))
    with caplog.at_level(logging.INFO, "fdd"):
        results = e.evaluate()
    assert math.isnan(results["label_quality"]["learned/agreement"])
    assert results["label_quality"]["learned/points_held"] == 50
    assert results["worst_images"] == []
    assert "no segment has two points" in caplog.text
    e.reset()
    add(e, 1, NOTHING)
    results = e.evaluate()
    assert all(math.isnan(v) for v in results["label_quality"].values())
    assert results["label_counts"]["images"] == 1


def test_the_log_has_tables(caplog: Any) -> None:
    e = evaluator()
    add(e, "a", FIRST)
    with caplog.at_level(logging.INFO, "fdd"):
        e.evaluate()
    assert "1 image (3 segments, 7 points; 6 points left out in turn)" in caplog.text
    assert "| learned |       83.33 |" in caplog.text
    assert "| cat " in caplog.text and "a.jpg" in caplog.text
    caplog.clear()
    many = LabelQualityEvaluator(class_names=[f"class {n}" for n in range(31)], num_things=2)
    add(many, "a", FIRST)
    with caplog.at_level(logging.INFO, "fdd"):
        many.evaluate()
    assert "class 2" not in caplog.text and "a.jpg" in caplog.text


def test_the_worst_images_are_bounded_and_in_order() -> None:
    e = evaluator(max_worst=3)
    for n in range(40):
        right = (n * 7) % 40
        add(e, n, quality([0], [right], [40], [40], [40], [0.5]))
    worst = e.evaluate()["worst_images"]
    assert [row["agreement"] for row in worst] == pytest.approx([0, 2.5, 5])
    # Of equals the one with more evidence comes first.
    e.reset()
    for n, count in ((1, 2), (2, 5), (3, 2)):
        add(e, n, quality([0], [0], [count], [count], [count], [0.5]))
    assert [row["image_id"] for row in e.evaluate()["worst_images"]] == [2, 1, 3]


def test_processes_put_their_sums_together(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, first, second, idle = (evaluator(max_worst=1) for _ in range(4))
    for e in (alone, first):
        add(e, "a", FIRST)
    for e in (alone, second):
        add(e, "b", SECOND)
        add(e, "c", NOTHING)
    want = alone.evaluate()
    sent: list[bytes] = []

    def on_another(data: Any) -> list[Any]:
        sent.append(pickle.dumps(data))
        return []

    with monkeypatch.context() as m:
        m.setattr(comm, "gather", on_another)
        m.setattr(comm, "is_main_process", lambda: False)
        assert second.evaluate() is None and idle.evaluate() is None
    monkeypatch.setattr(comm, "gather", lambda data: [data, *map(pickle.loads, sent)])
    got = first.evaluate()
    assert got.keys() == want.keys()
    for task in ("label_quality", "label_quality_by_class", "label_counts"):
        assert got[task] == pytest.approx(want[task], nan_ok=True)
    assert got["worst_images"] == want["worst_images"] and len(got["worst_images"]) == 1


def test_refusals() -> None:
    with pytest.raises(ValueError, match="class_names and num_things"):
        LabelQualityEvaluator()
    e = evaluator()
    with pytest.raises(ValueError, match="nothing to evaluate"):
        e.evaluate()
    add(e, "a", FIRST)
    with pytest.raises(ValueError, match=r"'a' \(a\.jpg\): a second time"):
        add(e, "a", FIRST)
    with pytest.raises(ValueError, match=r"'b'.*makers \['other'\].*\['learned'\]"):
        add(e, "b", SECOND | {"makers": {"other": SECOND["makers"]["learned"]}})
    with pytest.raises(ValueError, match=r"'b'.*classes from 0 to 3.*0 to 2"):
        add(e, "b", SECOND | {"classes": torch.tensor([0, 3])})
    with pytest.raises(ValueError, match=r"'b'.*expected \(3,\)"):
        add(e, "b", SECOND | {"classes": torch.tensor([0, 1, 2])})
    with pytest.raises(
        ValueError, match=r"'b'.*left_out_right is \[1\.0, 1\.0\] of \[0\.0, 4\.0\]"
    ):
        add(e, "b", SECOND | {"left_out": torch.tensor([0, 4])})
    # A refused image leaves no trace.
    assert e.evaluate()["label_counts"]["images"] == 1


def test_the_classes_of_a_point_set_without_masks(tmp_path: Any) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "a.png")
    categories = [Category(7, "sky", False), Category(3, "cat", True)]
    segments = [PointSegment(1, 3, [(4.5, 4.5)]), PointSegment(2, 7, [(9.5, 9.5)])]
    images = [PointImage("a", "a.png", 16, 16, segments)]
    write_points(tmp_path / "points.json", PointDataset(categories, images, {}))
    name = "quality_toy_points"
    register_points(name, tmp_path / "images", tmp_path / "points.json")
    try:
        e = LabelQualityEvaluator(name)
        add(e, "a", quality([0, 1], [1, 0], [1, 1], [2, 2], [2, 2], [0.5, 0.5]))
        results = e.evaluate()
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["label_quality"]["learned/agreement_th"] == 100
    assert results["label_quality_by_class"]["learned/agreement/cat"] == 100
    assert results["label_quality_by_class"]["learned/agreement/sky"] == 0
    json.dumps(results)


def test_classes_of_one_name_lose_no_figure() -> None:
    e = LabelQualityEvaluator(class_names=["cat", "cat", "sky"], num_things=2)
    add(e, "a", FIRST)
    by_class = e.evaluate()["label_quality_by_class"]
    assert by_class["learned/empty/cat"] == 0 and by_class["learned/empty/cat#1"] == 100

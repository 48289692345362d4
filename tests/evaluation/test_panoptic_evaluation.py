"""Figures: panopticapi's, and those counted by hand."""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from panopticapi.evaluation import pq_compute_single_core

from evaluation_sets import (
    PanopticSet,
    predict,
    random_prediction,
    random_truth,
    read_png,
    segments_of,
)
from fdd.evaluation import PanopticEvaluator
from fdd.evaluation.panoptic_quality import QualityTotals

A = 1e-12


def arbiter(truth_json, truth_root, kept):
    """panopticapi's own figures for predictions on disk."""
    truth = json.loads(Path(truth_json).read_text())
    predicted = json.loads((kept / "panoptic.json").read_text())
    by_id = {a["image_id"]: a for a in predicted["annotations"]}
    pairs = []
    for annotation in copy.deepcopy(truth["annotations"]):
        id_map = read_png(f"{truth_root}/{annotation['file_name']}")
        for segment in annotation["segments_info"]:  # what panopticapi needs and does not count
            segment.setdefault("iscrowd", 0)
            segment["area"] = int((id_map == segment["id"]).sum())
        pairs.append((annotation, by_id[annotation["image_id"]]))
    categories = {c["id"]: c for c in truth["categories"]}
    stat = pq_compute_single_core(0, pairs, truth_root, str(kept / "panoptic"), categories)
    return stat, categories


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_panopticapi_on_random_maps(panoptic_set, tmp_path, seed):
    rng = np.random.default_rng(seed)
    random_truth(rng, panoptic_set, 12)
    paths = panoptic_set.save()
    evaluator = PanopticEvaluator(**paths, output_dir=str(tmp_path), keep_predictions=True)
    for annotation in panoptic_set.annotations:
        true_map = read_png(panoptic_set.root / annotation["file_name"])
        id_map, segments = random_prediction(rng, true_map, segments_of(annotation))
        predict(evaluator, annotation["image_id"], id_map, segments)
    results = evaluator.evaluate()["panoptic_seg"]

    stat, categories = arbiter(
        paths["panoptic_json"], paths["panoptic_root"], tmp_path / "predictions"
    )
    assert sum(stat[c].tp for c in categories) > 5  # or the comparison would be empty
    assert sum(stat[c].fp for c in categories) > 5
    for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
        mean, per_class = stat.pq_average(categories, isthing=isthing)
        for key in ("pq", "sq", "rq"):
            assert results[key.upper() + suffix] == pytest.approx(100 * mean[key], abs=A, rel=0)
        for label, values in per_class.items():
            got = results[f"PQ_{categories[label]['name']}"]
            assert got == pytest.approx(100 * values["pq"], abs=A, rel=0)


def test_small_example_by_hand(panoptic_set):
    # cat 1: 8 px, cat 2: 4 px, sky 3: 4 px, crowd of dogs 4: 4 px, void: 4 px.
    true_map = [[1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2], [3, 3, 3, 3, 0, 0], [4, 4, 4, 4, 0, 0]]
    panoptic_set.add("a", true_map, [(1, 0), (2, 0), (3, 2), (4, 1, True)])
    # Segment 5 takes 6 of cat 1's 8 pixels and two void ones, which leave the union: 6 / 8.
    # Segment 6 takes 2 of cat 2's 4 pixels: IoU 0.5 is no match, so a miss and an extra.
    # Segment 7 covers the sky whole; 8, a dog on the crowd, is forgiven.
    id_map = [[5, 5, 5, 0, 6, 6], [5, 5, 5, 0, 0, 0], [7, 7, 7, 7, 5, 5], [8, 8, 8, 0, 0, 0]]
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, "a", id_map, [(5, 0), (6, 0), (7, 2), (8, 1)])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ_cat"] == pytest.approx(100 * 0.75 / (1 + 0.5 + 0.5))
    assert results["PQ_sky"] == pytest.approx(100)
    assert results["PQ_th"] == pytest.approx(37.5)
    assert results["SQ_th"] == pytest.approx(75)
    assert results["RQ_th"] == pytest.approx(50)
    assert results["PQ_st"] == results["SQ_st"] == results["RQ_st"] == pytest.approx(100)
    assert results["PQ"] == pytest.approx((37.5 + 100) / 2)
    # A class that occurs nowhere, or only forgiven, has no figure and no part in the mean.
    assert math.isnan(results["PQ_dog"]) and math.isnan(results["PQ_grass"])
    assert list(results)[:9] == [k + s for s in ("", "_th", "_st") for k in ("PQ", "SQ", "RQ")]


@pytest.mark.parametrize(
    ("isthing", "present", "absent"), [(True, "th", "st"), (False, "st", "th")]
)
def test_sets_of_one_kind(tmp_path, isthing, present, absent):
    categories = [{"id": i, "name": f"c{i}", "isthing": isthing} for i in (4, 5)]
    one_kind = PanopticSet(tmp_path / "truth", categories)
    one_kind.add(1, [[9, 9], [0, 0]], [(9, 1)])
    evaluator = PanopticEvaluator(**one_kind.save())
    predict(evaluator, 1, [[1, 1], [1, 0]], [(1, 1)])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ"] == results[f"PQ_{present}"] == pytest.approx(100)
    assert all(math.isnan(results[f"{k}_{absent}"]) for k in ("PQ", "SQ", "RQ"))


def test_stale_area_and_missing_keys_change_nothing(panoptic_set):
    annotation = panoptic_set.add(1, [[9, 9], [8, 8]], [(9, 0), (8, 2)])
    annotation["segments_info"][0]["area"] = 1
    annotation["segments_info"][1] |= {"area": -3, "bbox": None}
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, 1, [[1, 1], [2, 2]], [(1, 0), (2, 2)])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_nothing_predicted_is_a_miss(panoptic_set):
    panoptic_set.add(1, [[9, 9], [8, 8]], [(9, 0), (8, 2)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, 1, np.zeros((2, 2), dtype=np.int64), [])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ_cat"] == results["PQ"] == 0
    assert math.isnan(results["PQ_dog"])


def test_by_data_set_name_and_label_divisor(panoptic_set):
    panoptic_set.add("2007_000032", [[9, 9], [8, 0]], [(9, 1), (8, 2)])
    paths = panoptic_set.save()
    name = "evaluation_test_named"
    MetadataCatalog.get(name).set(**paths, label_divisor=10)
    try:
        evaluator = PanopticEvaluator(name)
        output = torch.tensor([[11, 11], [20, -1]])
        evaluator.process([{"image_id": "2007_000032"}], [{"panoptic_seg": (output, None)}])
        assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)
        assert output.tolist() == [[11, 11], [20, -1]]  # the model's tensor is left alone
    finally:
        MetadataCatalog.remove(name)


def test_without_label_divisor_segments_info_is_needed(panoptic_set):
    panoptic_set.add(1, [[9]], [(9, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    with pytest.raises(ValueError, match=r"image 1.*label_divisor"):
        evaluator.process([{"image_id": 1}], [{"panoptic_seg": (torch.tensor([[1]]), None)}])


def test_categories_of_the_json_are_put_in_contiguous_order(panoptic_set):
    panoptic_set.add(1, [[9, 9], [8, 8]], [(9, 1), (8, 3)])  # dog and grass
    paths = panoptic_set.save() | {"categories": None}
    evaluator = PanopticEvaluator(**paths)
    # The file lists grass, dog, cat, sky; things first makes dog 0, cat 1, grass 2, sky 3.
    predict(evaluator, 1, [[1, 1], [2, 2]], [(1, 0), (2, 2)])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ_dog"] == results["PQ_grass"] == pytest.approx(100)


def test_table_shows_groups_and_classes(panoptic_set, caplog):
    panoptic_set.add(1, [[9]], [(9, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, 1, [[1]], [(1, 0)])
    with caplog.at_level(logging.INFO, logger="fdd.evaluation"):
        evaluator.evaluate()
    for word in ("All", "Things", "Stuff", "cat", "dog", "sky", "grass", "100.000"):
        assert word in caplog.text


def test_class_names_never_hide_a_figure():
    categories = [{"id": i, "name": n, "isthing": True} for i, n in enumerate(["th", "cup", "cup"])]
    results = QualityTotals(categories).results()
    assert len(results) == 9 + 3


# ------------------------------------------------------------------------- single images


def test_quality_of_one_image_leaves_the_sums_alone(panoptic_set):
    panoptic_set.add("a", [[1, 1, 1, 1], [3, 3, 0, 0]], [(1, 0), (3, 2)])
    panoptic_set.add("b", [[1, 1, 1, 1], [3, 3, 3, 3]], [(1, 1), (3, 2)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    # The cat is found with 3 of its 4 pixels, the sky whole; a dog on void is forgiven.
    predictions = {
        "a": ([[5, 5, 5, 0], [7, 7, 8, 8]], [(5, 0), (7, 2), (8, 1)]),
        "b": ([[5, 5, 5, 5], [0, 0, 0, 0]], [(5, 0)]),
    }

    def quality(image_id):
        id_map, segments = predictions[image_id]
        infos = [{"id": i, "category_id": c} for i, c in segments]
        return evaluator.image_quality(image_id, {"panoptic_seg": (torch.tensor(id_map), infos)})

    first = quality("a")
    assert list(first) == [k + s for s in ("", "_th", "_st") for k in ("PQ", "SQ", "RQ")]
    assert first["PQ_th"] == first["SQ_th"] == pytest.approx(75)
    assert first["PQ_st"] == first["RQ_th"] == pytest.approx(100)
    assert first["PQ"] == pytest.approx(87.5)
    # A cat in the dog's place and no sky: three classes without a match.
    assert quality("b")["PQ"] == quality("b")["PQ_st"] == 0
    assert quality("a") == first

    # Neither counted nor remembered: the run that follows is that of both images alone.
    for image_id, prediction in predictions.items():
        predict(evaluator, image_id, *prediction)
    assert quality("a") == first
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ_cat"] == pytest.approx(100 * 0.75 / 1.5)
    assert results["PQ_sky"] == pytest.approx(100 / 1.5)
    assert results["PQ_dog"] == 0


def test_quality_of_one_image_refuses_what_process_refuses(panoptic_set):
    panoptic_set.add(17, [[5, 5], [5, 6]], [(5, 0), (6, 2)])
    evaluator = PanopticEvaluator(**panoptic_set.save())

    def quality(image_id, id_map, *segments):
        infos = [{"id": i, "category_id": c} for i, c in segments]
        return evaluator.image_quality(image_id, {"panoptic_seg": (np.array(id_map), infos)})

    with pytest.raises(ValueError, match="image 17, segment 1: category_id 4"):
        quality(17, [[1, 1], [1, 1]], (1, 4))
    with pytest.raises(ValueError, match=r"image 17: the map has ids \[2\]"):
        quality(17, [[1, 1], [1, 2]], (1, 0))
    with pytest.raises(ValueError, match="image 17 is 1 x 2"):
        quality(17, [[1, 1]], (1, 0))
    with pytest.raises(ValueError, match=r"image '17' \(str\)"):
        quality("17", [[1, 1], [1, 1]], (1, 0))

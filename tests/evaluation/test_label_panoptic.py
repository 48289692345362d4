from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from fdd.data.catalog import register_points
from fdd.evaluation import PanopticEvaluator, PseudoLabelEvaluator

A = 1e-12


def label(evaluator, image_id, maps, classes, semantic=None):
    output = {
        "pseudo_labels": {k: torch.as_tensor(np.array(v, dtype=np.int32)) for k, v in maps.items()},
        "classes": torch.tensor(classes, dtype=torch.int64),
        "instance_ids": list(range(100, 100 + len(classes))),
    }
    if semantic is not None:
        output["semantic"] = torch.as_tensor(np.array(semantic, dtype=np.int32))
    evaluator.process([{"image_id": image_id}], [output])


def two_images(panoptic_set):
    # Image a: cat 11 (4 px), cat 12 (2 px, without a point), sky 13 (4 px), void (2 px).
    panoptic_set.add(
        "a", [[11, 11, 12, 13], [11, 11, 12, 13], [0, 0, 13, 13]], [(11, 0), (12, 0), (13, 2)]
    )
    # Image b: dog 21 (3 px), grass 22 (3 px), a crowd of dogs (2 px).
    panoptic_set.add("b", [[21, 21, 21, 23], [22, 22, 22, 23]], [(21, 1), (22, 3), (23, 1, True)])
    return panoptic_set.save()


def test_two_images_by_hand(panoptic_set):
    evaluator = PseudoLabelEvaluator(**two_images(panoptic_set))
    label(
        evaluator,
        "a",
        {
            # Cat 3 of 4 px; both sky instances together 4 of 4 plus one of cat 12: 4 / 5.
            "learned": [[0, 0, 1, 2], [0, -1, -1, 2], [0, 0, 1, 1]],
            # Cat 4 of 4 with two void px; no sky at all.
            "nearest": [[0, 0, -1, -1], [0, 0, -1, -1], [0, 0, -1, -1]],
        },
        [0, 2, 2],
        semantic=[[0, 0, 0, 2], [0, 2, -1, 2], [1, 1, 2, 2]],
    )
    label(
        evaluator,
        "b",
        {
            "learned": [[0, 0, 0, 0], [1, 1, 1, 0]],  # crowd is void to its own class: both whole
            "nearest": [[0, 1, 1, 1], [1, 1, 1, 1]],  # dog 1 / 3, grass 3 of 3, union 3 + 2 + 2
        },
        [1, 3],
        semantic=[[1, 1, 1, 0], [3, 3, 1, 0]],
    )
    r = evaluator.evaluate()["pseudo_labels"]
    # learned: cat 3/4 with the pointless cat 12 missed; sky 4/5; dog: union 3 + 5 - 3 = 5, since
    # crowd is not void in a match (panopticapi): 3/5; grass 1.
    assert r["learned/PQ_th"] == pytest.approx(100 * (0.75 / 1.5 + 0.6) / 2)
    assert r["learned/PQ_st"] == pytest.approx(100 * (0.8 + 1) / 2)
    assert r["learned/PQ"] == pytest.approx(100 * (0.5 + 0.6 + 0.8 + 1) / 4)
    assert r["learned/SQ_th"] == pytest.approx(100 * (0.75 + 0.6) / 2)
    assert r["learned/empty"] == 0
    # nearest: cat 4/4 with one miss; dog missed and its pixel an extra; sky missed; grass 3/7.
    assert r["nearest/PQ_th"] == pytest.approx(100 * (1 / 1.5 + 0) / 2)
    assert r["nearest/PQ_st"] == 0
    assert r["nearest/empty"] == pytest.approx(100 * 2 / 5)
    # Semantics over labelled, uncrowded pixels. cat: 4 right of 6 true, 4 predicted -> 4/6.
    # sky: 4 right, 4 true, 5 predicted -> 4/5. dog: 3 right, 3 true, 4 predicted -> 3/4.
    # grass: 2 right of 3 true -> 2/3.
    assert r["semantic/mIoU"] == pytest.approx(100 * (4 / 6 + 4 / 5 + 3 / 4 + 2 / 3) / 4)


def test_agrees_with_the_panoptic_evaluator(panoptic_set):
    rng = np.random.default_rng(0)
    for n in range(6):
        ids = np.arange(1, 7)
        true_map = np.kron(rng.choice(ids, (6, 8)), np.ones((4, 4), dtype=np.int64))
        classes = np.sort(np.append(rng.integers(0, 2, 4), [2, 3]))
        present = np.unique(true_map)
        panoptic_set.add(n, true_map, [(int(i), int(classes[i - 1])) for i in present])
    paths = panoptic_set.save()
    pseudo, panoptic = PseudoLabelEvaluator(**paths), PanopticEvaluator(**paths)
    order = [c["id"] for c in panoptic_set.categories]
    for n, annotation in enumerate(panoptic_set.annotations):
        infos = annotation["segments_info"]
        classes = [order.index(s["category_id"]) for s in infos]
        true_map = pseudo._truth.read(n)
        index_map = np.full(true_map.shape, -1)
        for i, s in enumerate(infos):
            index_map[(true_map == s["id"]) & (rng.random(true_map.shape) < 0.75)] = i
        label(pseudo, n, {"m": index_map}, classes)
        segments = [{"id": i + 1, "category_id": c} for i, c in enumerate(classes)]
        panoptic.process([{"image_id": n}], [{"panoptic_seg": (index_map + 1, segments)}])
    got, expected = pseudo.evaluate()["pseudo_labels"], panoptic.evaluate()["panoptic_seg"]
    assert got["m/PQ"] > 10
    for suffix in ("", "_th", "_st"):
        for key in ("PQ", "SQ", "RQ"):
            assert got[f"m/{key}{suffix}"] == pytest.approx(expected[key + suffix], abs=A, rel=0)
    assert "semantic/mIoU" not in got


def test_image_without_points_and_a_part_of_the_set(panoptic_set):
    evaluator = PseudoLabelEvaluator(**two_images(panoptic_set))
    label(evaluator, "b", {"m": np.full((2, 4), -1)}, [])
    results = evaluator.evaluate()["pseudo_labels"]
    assert results["m/PQ"] == 0  # dog and grass missed; image a was not asked for
    assert math.isnan(results["m/empty"])


def test_nothing_processed_and_reset(panoptic_set):
    evaluator = PseudoLabelEvaluator(**two_images(panoptic_set))
    label(evaluator, "b", {"m": np.full((2, 4), -1)}, [])
    with pytest.raises(ValueError, match="pseudo labels of image 'b': a second time"):
        label(evaluator, "b", {"m": np.full((2, 4), -1)}, [])
    evaluator.reset()
    with pytest.raises(ValueError, match="No pseudo labels"):
        evaluator.evaluate()


def test_a_set_without_masks_is_refused():
    name = "evaluation_test_points_only"
    MetadataCatalog.get(name).set(points_json="points.json", categories=[])
    try:
        with pytest.raises(ValueError, match=f"{name}.*no panoptic masks"):
            PseudoLabelEvaluator(name)
    finally:
        MetadataCatalog.remove(name)


def test_classes_of_a_point_set_are_in_the_order_of_its_points(panoptic_set, tmp_path):
    paths = two_images(panoptic_set)
    points = tmp_path / "points.json"
    # The masks' file lists dog before cat, the points' cat before dog.
    content = {"format": "fdd-points", "version": 1, "info": {}, "images": []}
    points.write_text(json.dumps(content | {"categories": panoptic_set.categories}))
    name = "evaluation_test_points_and_masks"
    masks = (paths["panoptic_json"], paths["panoptic_root"])
    register_points(name, str(tmp_path), str(points), *masks)
    try:
        evaluator = PseudoLabelEvaluator(name)
        label(evaluator, "b", {"m": [[0, 0, 0, 0], [1, 1, 1, 0]]}, [1, 3])
        assert evaluator.evaluate()["pseudo_labels"]["m/RQ"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": "c"}, "image 'c'"),
        ({"maps": {"m": [[0, 1, 2, 0], [1, 1, 1, 1]]}}, "image 'b' by 'm': values from 0 to 2"),
        ({"maps": {"m": [[0, 1, -2, 0], [1, 1, 1, 1]]}}, "image 'b' by 'm': values from -2"),
        ({"maps": {"m": [[0, 1, 1]]}}, "image 'b' is 1 x 3"),
        ({"maps": {"other": [[0, 1, 1, 0], [1, 1, 1, 1]]}}, "image 'b': makers"),
        ({"maps": {}}, "image 'b': makers"),
        ({"semantic": None}, "image 'b': makers"),
        ({"semantic": [[0, 1, 1, 4], [1, 1, 1, 1]]}, "semantic pseudo labels of image 'b': values"),
        ({"semantic": [[0]]}, "semantic pseudo labels of image 'b' is 1 x 1"),
        ({"classes": [1, 4]}, "image 'b': classes from 1 to 4"),
    ],
)
def test_refusals(panoptic_set, changes, message):
    evaluator = PseudoLabelEvaluator(**two_images(panoptic_set))
    label(evaluator, "a", {"m": np.zeros((3, 4))}, [0], semantic=np.zeros((3, 4)))
    good = {
        "image_id": "b",
        "maps": {"m": [[0, 0, 0, 0], [1, 1, 1, 1]]},
        "classes": [1, 3],
        "semantic": [[1, 1, 1, 1], [3, 3, 3, 3]],
    }
    with pytest.raises(ValueError, match=message):
        label(evaluator, **good | changes)


def test_one_image_alone_and_nothing_is_added(panoptic_set):
    evaluator = PseudoLabelEvaluator(**two_images(panoptic_set))
    output = {
        "pseudo_labels": {"learned": torch.tensor([[0, 0, 1, 2], [0, -1, -1, 2], [0, 0, 1, 1]])},
        "classes": torch.tensor([0, 2, 2]),
    }
    quality = evaluator.image_quality("a", output)["learned"]
    # Cat 3/4 with cat 12 missed; sky 4/5: see the two images above.
    assert quality["PQ_th"] == pytest.approx(100 * 0.75 / 1.5)
    assert quality["PQ"] == pytest.approx(100 * (0.5 + 0.8) / 2)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluator.evaluate()

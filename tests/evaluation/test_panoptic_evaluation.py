from __future__ import annotations

import copy
import gc
import json
import logging
import math
import multiprocessing
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from evaluation_sets import CATEGORIES, PanopticSet
from panopticapi.evaluation import pq_compute_single_core

from fdd.evaluation import PanopticEvaluator
from fdd.evaluation import workers as workers_module
from fdd.evaluation.quality import QualityTotals

A = 1e-12


def predict(evaluator, image_id, id_map, segments, **extra):
    """``segments`` are (id, contiguous class)."""
    infos = [{"id": i, "category_id": c, **extra} for i, c in segments]
    evaluator.process(
        [{"image_id": image_id}], [{"panoptic_seg": (torch.as_tensor(np.asarray(id_map)), infos)}]
    )


def blocks(rng, size, ids):
    """Random label map of patches, with ragged edges, on ``ids``."""
    coarse = rng.choice(ids, size=(size[0] // 4, size[1] // 4))
    fine = np.kron(coarse, np.ones((4, 4), dtype=np.int64))
    noise = rng.random(size) < 0.05
    return np.where(noise, rng.choice(ids, size=size), fine)


def random_truth(rng, panoptic_set, count, size=(24, 32)):
    """Images with void and crowd, some classes absent, ids up to the last byte."""
    for n in range(count):
        ids = rng.choice(np.arange(1, 256**3), size=7, replace=False)
        id_map = blocks(rng, size, np.append(ids, 0))
        # Two crowds of one class: only the last listed forgives, in panopticapi as here.
        segments = [(int(i), int(c)) for i, c in zip(ids, rng.integers(0, 4, 7), strict=True)]
        segments = [(*s, j in (0, 3)) for j, s in enumerate(segments)]
        segments[3] = (segments[3][0], segments[0][1], True)
        present = set(np.unique(id_map).tolist())
        panoptic_set.add(n, id_map, [s for s in segments if s[0] in present])


def random_prediction(rng, true_map, true_segments):
    """A disturbed copy of the truth, so that some segments match, and some void."""
    id_map = np.zeros(true_map.shape, dtype=np.int64)
    segments = []
    for new_id, (old_id, label, *_) in enumerate(true_segments, start=1):
        id_map[(true_map == old_id) & (rng.random(true_map.shape) < 0.9)] = new_id
        segments.append((new_id, label if rng.random() < 0.7 else int(rng.integers(0, 4))))
    id_map[: true_map.shape[0] // 4] = 50  # over everything: matches nothing, partly forgiven
    segments.append((50, int(rng.integers(0, 4))))
    present = set(np.unique(id_map).tolist())
    return id_map, [s for s in segments if s[0] in present]


def segments_of(annotation):
    """(id, contiguous class) of an annotation."""
    order = [c["id"] for c in CATEGORIES]
    return [(s["id"], order.index(s["category_id"])) for s in annotation["segments_info"]]


def read_png(path):
    from panopticapi.utils import rgb2id
    from PIL import Image

    return rgb2id(np.array(Image.open(path), dtype=np.uint32)).astype(np.int64)


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


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("segments", "id_map", "message"),
    [
        ([(0, 0), (5, 2)], [[5, 5]], "image 17.*segment id 0"),
        ([(5, 0), (5, 2)], [[5, 5]], "image 17.*5 are listed more than once"),
        ([(2**24, 0)], [[5, 5]], "image 17.*segment id 16777216"),
    ],
)
def test_bad_json_is_refused_at_the_start(panoptic_set, segments, id_map, message):
    panoptic_set.add(17, id_map, segments)
    paths = panoptic_set.save()
    with pytest.raises(ValueError, match=message) as caught:
        PanopticEvaluator(**paths)
    assert paths["panoptic_json"] in str(caught.value)


def test_unknown_category_of_the_ground_truth(panoptic_set):
    annotation = panoptic_set.add(17, [[5]], [(5, 0)])
    annotation["segments_info"][0]["category_id"] = 99
    with pytest.raises(ValueError, match="image 17, segment 5: category 99"):
        PanopticEvaluator(**panoptic_set.save())


def test_an_image_annotated_twice(panoptic_set):
    panoptic_set.add(17, [[5]], [(5, 0)])
    panoptic_set.add(17, [[5]], [(5, 0)])
    with pytest.raises(ValueError, match="image 17: the image is annotated twice"):
        PanopticEvaluator(**panoptic_set.save())


def test_file_names_may_not_leave_the_folder(panoptic_set):
    panoptic_set.add(17, [[5]], [(5, 0)])["file_name"] = "../masks/17.png"
    with pytest.raises(ValueError, match=r"image 17.*\.\./masks"):
        PanopticEvaluator(**panoptic_set.save())


def test_missing_png_json_and_folder(panoptic_set, tmp_path):
    panoptic_set.add(17, [[5]], [(5, 0)])
    paths = panoptic_set.save()
    (panoptic_set.root / "17.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image 17.*17\.png"):
        PanopticEvaluator(**paths)
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        PanopticEvaluator(**paths | {"panoptic_json": str(tmp_path / "no.json")})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PanopticEvaluator(**paths | {"panoptic_root": str(tmp_path / "nowhere")})


def test_other_json_and_empty_set(panoptic_set):
    paths = panoptic_set.save()
    with pytest.raises(ValueError, match="no annotations"):
        PanopticEvaluator(**paths)
    panoptic_set.json.write_text('{"format": "fdd-points", "categories": []}')
    with pytest.raises(ValueError, match="no annotations; expected the COCO panoptic format"):
        PanopticEvaluator(**paths)
    panoptic_set.json.write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        PanopticEvaluator(**paths)


def refused_png(panoptic_set, id_map, segments, message, change=None):
    panoptic_set.add(17, id_map, segments)
    if change is not None:
        change()
    evaluator = PanopticEvaluator(**panoptic_set.save())
    with pytest.raises(ValueError, match=message) as caught:
        predict(evaluator, 17, np.ones(np.shape(id_map), dtype=np.int64), [(1, 0)])
    assert "17.png (image 17)" in str(caught.value)


@pytest.mark.parametrize("points", [1, 10])
def test_point_png_as_ground_truth_is_refused(panoptic_set, points):
    rng = np.random.default_rng(points)
    id_map = np.zeros((60, 80), dtype=np.int64)
    places = rng.choice(id_map.size, size=3 * points, replace=False)
    id_map.flat[places] = np.repeat([5, 6, 7], points)
    refused_png(panoptic_set, id_map, [(5, 0), (6, 1), (7, 2)], "looks like point labels")


def test_small_objects_alone_are_no_point_labels(panoptic_set):
    id_map = np.zeros((100, 100), dtype=np.int64)
    id_map[10:12, 10:12], id_map[50, 50:53], id_map[70, 70] = 5, 6, 7
    panoptic_set.add(17, id_map, [(5, 0), (6, 0), (7, 1)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, 17, id_map, [(5, 0), (6, 0), (7, 1)])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_json_segment_without_pixels(panoptic_set):
    refused_png(panoptic_set, [[5, 5]], [(5, 0), (6, 1)], "segments 6 .*no pixel")


def test_png_id_not_in_the_json(panoptic_set):
    refused_png(panoptic_set, [[5, 9]], [(5, 0)], "ids 9 of the PNG are not in segments_info")


def test_png_of_another_mode(panoptic_set):
    from PIL import Image

    def grey():
        Image.fromarray(np.full((1, 2), 5, np.uint8)).save(panoptic_set.root / "17.png")

    refused_png(panoptic_set, [[5, 5]], [(5, 0)], "mode 'L'", grey)


GOOD = ([[1, 1], [2, 0]], [(1, 0), (2, 2)])


@pytest.mark.parametrize(
    ("id_map", "segments", "message"),
    [
        ([[1, 1, 1]], [(1, 0)], "image 17 is 1 x 3 .*17.png 2 x 2"),
        ([[1, 1], [2, 3]], GOOD[1], r"image 17: the map has ids \[3\]"),
        ([[1, 1], [2, -1]], GOOD[1], r"image 17: the map has ids \[-1\]"),
        (GOOD[0], [*GOOD[1], (4, 1)], r"image 17: segments_info lists ids \[4\]"),
        (GOOD[0], [(1, 0), (2, 4)], "image 17, segment 2: category_id 4; .* 0 to 3"),
        (GOOD[0], [(1, 0), (2, -1)], "image 17, segment 2: category_id -1"),
        (GOOD[0], [(1, 0), (2, 0), (2, 2)], "image 17: segments_info lists an id twice"),
        (GOOD[0], [(1, 0), (2, 0), (0, 2)], r"image 17: segment ids from 0 to 2"),
        ([[0.5, 1], [2, 0]], GOOD[1], "image 17: a map of .* float64"),
        ([1, 2], GOOD[1], r"image 17: a map of shape \(2,\)"),
    ],
)
def test_bad_predictions_are_refused(panoptic_set, id_map, segments, message):
    panoptic_set.add(17, [[5, 5], [5, 6]], [(5, 0), (6, 2)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    with pytest.raises(ValueError, match=message):
        predict(evaluator, 17, id_map, segments)


def test_ids_of_another_numbering_are_refused(panoptic_set):
    panoptic_set.add(17, [[5, 5]], [(5, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    with pytest.raises(ValueError, match=r"isthing is False, but category_id 0 \(cat\)"):
        predict(evaluator, 17, [[1, 1]], [(1, 0)], isthing=False)


def test_unknown_repeated_and_missing_images(panoptic_set):
    for n in range(8):
        panoptic_set.add(n, [[5, 5]], [(5, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    with pytest.raises(ValueError, match=r"image '3' \(str\).*look like 0 \(int\)"):
        predict(evaluator, "3", [[1, 1]], [(1, 0)])
    predict(evaluator, 3, [[1, 1]], [(1, 0)])
    with pytest.raises(ValueError, match="second prediction for image 3"):
        predict(evaluator, 3, [[1, 1]], [(1, 0)])
    with pytest.raises(ValueError, match=r"7 of 8 images .*: 0, 1, 2, 4, 5, \.\.\."):
        evaluator.evaluate()
    evaluator.reset()
    predict(evaluator, 3, [[1, 1]], [(1, 0)])  # forgotten, so welcome again


def test_constructor_arguments(panoptic_set):
    panoptic_set.add(1, [[5]], [(5, 0)])
    paths = panoptic_set.save()
    with pytest.raises(ValueError, match="not both"):
        PanopticEvaluator("some_set", **paths)
    with pytest.raises(ValueError, match="dataset_name, or both"):
        PanopticEvaluator(panoptic_json=paths["panoptic_json"])
    with pytest.raises(ValueError, match="output_dir"):
        PanopticEvaluator(**paths, keep_predictions=True)
    with pytest.raises(ValueError, match="num_workers is -1"):
        PanopticEvaluator(**paths, num_workers=-1)
    with pytest.raises(ValueError, match="has no panoptic masks"):
        PanopticEvaluator("evaluation_test_never_registered")
    MetadataCatalog.remove("evaluation_test_never_registered")


# -------------------------------------------------------------------- workers and files


def evaluation_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fdd-evaluation")]


@pytest.fixture
def always_parallel(monkeypatch):
    monkeypatch.setattr(workers_module, "PARALLEL_FROM", 1)
    monkeypatch.setattr(workers_module.os, "cpu_count", lambda: 2)


def test_workers_agree_with_none_and_are_gone_afterwards(panoptic_set, always_parallel):
    rng = np.random.default_rng(5)
    random_truth(rng, panoptic_set, 20)
    paths = panoptic_set.save()
    alone = PanopticEvaluator(**paths, num_workers=0)
    helped = PanopticEvaluator(**paths, num_workers=64)
    most = 0
    for annotation in panoptic_set.annotations:
        true_map = read_png(panoptic_set.root / annotation["file_name"])
        id_map, segments = random_prediction(rng, true_map, segments_of(annotation))
        predict(alone, annotation["image_id"], id_map, segments)
        predict(helped, annotation["image_id"], id_map, segments)
        most = max(most, len(evaluation_threads()))
    assert 1 <= most <= 2
    first, second = alone.evaluate()["panoptic_seg"], helped.evaluate()["panoptic_seg"]
    np.testing.assert_array_equal(list(first.values()), list(second.values()))
    assert first["PQ"] > 0
    assert evaluation_threads() == [] and multiprocessing.active_children() == []


def test_an_error_in_a_worker_comes_out_and_ends_the_workers(panoptic_set, always_parallel):
    panoptic_set.add(1, [[5, 5]], [(5, 0)])
    panoptic_set.add(2, [[5, 5]], [(5, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, 1, [[1, 1]], [(1, 0)])
    predict(evaluator, 2, [[1]], [(1, 0)])
    with pytest.raises(ValueError, match="image 2 is 1 x 1"):
        evaluator.evaluate()
    assert evaluation_threads() == []


def test_caller_may_reuse_its_buffer(panoptic_set, always_parallel):
    panoptic_set.add(1, [[5, 5]], [(5, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    buffer = torch.ones((1, 2), dtype=torch.int64)
    evaluator.process(
        [{"image_id": 1}], [{"panoptic_seg": (buffer, [{"id": 1, "category_id": 0}])}]
    )
    buffer.fill_(0)
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_nothing_is_written_unless_asked(panoptic_set, tmp_path):
    panoptic_set.add(1, [[5, 5]], [(5, 0)])
    folder = tmp_path / "out"
    evaluator = PanopticEvaluator(**panoptic_set.save(), output_dir=str(folder))
    predict(evaluator, 1, [[1, 1]], [(1, 0)])
    evaluator.evaluate()
    assert not folder.exists()


def test_kept_predictions_are_coco_panoptic_and_replace_older_ones(panoptic_set, tmp_path):
    panoptic_set.add("a", [[5, 5], [6, 0]], [(5, 1), (6, 2)])
    paths = panoptic_set.save()
    for last_id in (70000, 80000):
        evaluator = PanopticEvaluator(**paths, output_dir=str(tmp_path), keep_predictions=True)
        predict(evaluator, "a", [[last_id, last_id], [2, 0]], [(last_id, 1), (2, 2)])
        first = evaluator.evaluate()["panoptic_seg"]
        assert evaluator.evaluate()["panoptic_seg"]["PQ"] == first["PQ"]  # and files survive
    kept = tmp_path / "predictions"
    content = json.loads((kept / "panoptic.json").read_text())
    assert content["annotations"] == [
        {
            "image_id": "a",
            "file_name": "a.png",
            "segments_info": [{"id": 80000, "category_id": 3}, {"id": 2, "category_id": 9}],
        }
    ]
    assert content["images"] == [{"id": "a", "file_name": "x.jpg"}]
    assert {c["id"] for c in content["categories"]} == {1, 3, 7, 9}
    assert read_png(kept / "panoptic" / "a.png").tolist() == [[80000, 80000], [2, 0]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions", "truth"]


def test_a_failure_leaves_no_new_files_and_spares_the_old(panoptic_set, tmp_path):
    panoptic_set.add(1, [[5, 5]], [(5, 0)])
    panoptic_set.add(2, [[5, 5]], [(5, 0)])
    arguments = panoptic_set.save() | {"output_dir": str(tmp_path), "keep_predictions": True}

    def names():
        return sorted(p.name for p in tmp_path.iterdir())

    evaluator = PanopticEvaluator(**arguments)
    predict(evaluator, 1, [[1, 1]], [(1, 0)])
    assert "predictions" not in names() and len(names()) == 2  # hidden until whole
    with pytest.raises(ValueError, match="1 of 2 images"):
        evaluator.evaluate()
    assert names() == ["truth"]

    evaluator = PanopticEvaluator(**arguments)
    predict(evaluator, 1, [[1, 1]], [(1, 0)])
    with pytest.raises(ValueError, match="image 2"):
        predict(evaluator, 2, [[7, 7]], [(1, 0)])
    assert names() == ["truth"]

    evaluator = PanopticEvaluator(**arguments)
    predict(evaluator, 1, [[1, 1]], [(1, 0)])
    predict(evaluator, 2, [[1, 1]], [(1, 0)])
    evaluator.evaluate()
    before = (tmp_path / "predictions" / "panoptic.json").read_text()
    evaluator = PanopticEvaluator(**arguments)
    predict(evaluator, 1, [[9, 9]], [(9, 0)])
    del evaluator  # the model crashed
    gc.collect()
    assert names() == ["predictions", "truth"]
    assert (tmp_path / "predictions" / "panoptic.json").read_text() == before


# ------------------------------------------------------------------------ several processes


def test_parts_of_several_processes_add_up(panoptic_set, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    random_truth(rng, panoptic_set, 6)
    arguments = panoptic_set.save() | {"output_dir": str(tmp_path), "keep_predictions": True}
    whole, left, right = (
        PanopticEvaluator(**arguments | {"keep_predictions": k}) for k in (False, True, True)
    )
    for n, annotation in enumerate(panoptic_set.annotations):
        true_map = read_png(panoptic_set.root / annotation["file_name"])
        id_map, segments = random_prediction(rng, true_map, segments_of(annotation))
        for evaluator in (whole, (left, right)[n % 2]):
            predict(evaluator, annotation["image_id"], id_map, segments)
    expected = whole.evaluate()["panoptic_seg"]

    from detectron2.utils import comm

    sent = []

    def on_second(data):
        sent.append(pickle.dumps(data))
        return []

    with monkeypatch.context() as m:
        m.setattr(comm, "gather", on_second)
        m.setattr(comm, "is_main_process", lambda: False)
        m.setattr(right, "_clean_up", lambda: None)  # it waits for the main process in truth
        assert right.evaluate() is None
    monkeypatch.setattr(comm, "gather", lambda data: [data, pickle.loads(sent[0])])
    got = left.evaluate()["panoptic_seg"]
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=0, atol=A)
    assert len(list((tmp_path / "predictions" / "panoptic").iterdir())) == 6
    content = json.loads((tmp_path / "predictions" / "panoptic.json").read_text())
    assert {a["image_id"] for a in content["annotations"]} == set(range(6))


def test_failure_of_another_process_is_told(panoptic_set, monkeypatch):
    panoptic_set.add(1, [[5, 5]], [(5, 0)])
    evaluator = PanopticEvaluator(**panoptic_set.save())
    predict(evaluator, 1, [[1, 1]], [(1, 0)])
    from detectron2.utils import comm

    monkeypatch.setattr(comm, "gather", lambda data: [data, (None, "ValueError: image 9")])
    with pytest.raises(RuntimeError, match="process 1: ValueError: image 9"):
        evaluator.evaluate()

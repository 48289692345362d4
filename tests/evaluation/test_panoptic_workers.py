"""Threads, kept files and several processes of the panoptic evaluator."""

from __future__ import annotations

import gc
import json
import multiprocessing
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
import torch

from evaluation_sets import predict, random_prediction, random_truth, read_png, segments_of
from fdd.evaluation import PanopticEvaluator
from fdd.evaluation import mask_evaluator as workers_module

A = 1e-12


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_does_not_grow_with_the_images(panoptic_set, always_parallel, num_workers):
    """Of 40 more images not even half a map stays."""
    true_map = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((100, 150), np.int64))
    for n in range(60):
        panoptic_set.add(n, true_map, [(int(i), int(i) % 4) for i in range(1, 5)])
    evaluator = PanopticEvaluator(**panoptic_set.save(), num_workers=num_workers)
    size = true_map.size * 4
    held = []
    tracemalloc.start()
    try:
        for n in range(60):
            predict(evaluator, n, np.roll(true_map, n), [(i, i % 4) for i in range(1, 5)])
            if n in (19, 59):
                evaluator._workers.drain()  # at most two maps a thread wait at any time
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < size / 2
    assert peak - held[0] < 24 * size
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] > 10


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
    assert content["images"] == panoptic_set.images and len(content["images"]) == 1
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

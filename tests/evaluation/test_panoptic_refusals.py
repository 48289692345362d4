"""What the panoptic evaluator refuses, and how it says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from evaluation_sets import predict
from fdd.evaluation import PanopticEvaluator


@pytest.mark.parametrize(
    ("segments", "id_map", "message"),
    [
        ([(0, 0), (5, 2)], [[5, 5]], "image 17, segment 0: the id is not"),
        ([(5, 0), (5, 2)], [[5, 5]], "image 17, segment 5: the id is listed twice"),
        ([(2**24, 0)], [[5, 5]], "image 17, segment 16777216: the id is not"),
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
    with pytest.raises(ValueError, match="image 17, segment 5: category_id 99"):
        PanopticEvaluator(**panoptic_set.save())


def test_an_image_annotated_twice(panoptic_set):
    panoptic_set.add(17, [[5]], [(5, 0)])
    paths = panoptic_set.save()
    content = json.loads(panoptic_set.json.read_text())
    content["annotations"] *= 2
    panoptic_set.json.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="image 17 is annotated twice"):
        PanopticEvaluator(**paths)


def test_file_names_may_not_leave_the_folder(panoptic_set):
    panoptic_set.add(17, [[5]], [(5, 0)])["file_name"] = "../masks/17.png"
    assert (panoptic_set.root / "../masks/17.png").exists()
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
    with pytest.raises(ValueError, match="no images, annotations; expected the COCO panoptic"):
        PanopticEvaluator(**paths)
    panoptic_set.json.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
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
    refused_png(panoptic_set, [[5, 5]], [(5, 0), (6, 1)], "segment 6 .*no pixel")


def test_png_id_not_in_the_json(panoptic_set):
    refused_png(panoptic_set, [[5, 9]], [(5, 0)], "id 9 of the PNG is not in segments_info")


def test_png_of_another_mode(panoptic_set):
    from PIL import Image

    def grey():
        Image.fromarray(np.full((1, 2), 5, np.uint8)).save(panoptic_set.root / "17.png")

    refused_png(panoptic_set, [[5, 5]], [(5, 0)], "mode 'L'", grey)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_broken_png(panoptic_set, share):
    def cut():
        path = panoptic_set.root / "17.png"
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    noise = np.random.default_rng(0).integers(5, 7, (40, 50))
    refused_png(panoptic_set, noise, [(5, 0), (6, 2)], "not a readable picture", cut)


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
    with pytest.raises(ValueError, match="prediction for image 3: a second time"):
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

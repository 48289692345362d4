"""A trained model as a function of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from export_toys import write_run
from fdd.data import FDDDatasetMapper
from fdd.inference.predictor import Predictor, fit_into
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.points.coco_panoptic import measure_segments


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sizes = {"INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 96}
    return write_run(tmp_path_factory.mktemp("predictor") / "run", sizes)


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor(load_trained(run))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 9), -(-width // 9), 3))
    return blocks.repeat(9, 0).repeat(9, 1)[:height, :width].astype(np.uint8)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [(50, 70), (131, 40), (300, 200)])
def test_equals_the_test_mapper_and_the_model(run, tmp_path, image_format, size) -> None:
    trained = load_trained(run, opts=["INPUT.FORMAT", image_format])
    image = picture(*size)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    record = {"file_name": str(path), "image_id": "a", "height": size[0], "width": size[1]}
    mapped = FDDDatasetMapper(trained.cfg, is_train=False)(record)
    with torch.no_grad():
        expected, info = trained.model([mapped])[0]["panoptic_seg"]
    ids, segments = Predictor(trained)(image)
    assert ids.dtype == np.int64 and ids.shape == size
    assert len(segments) > 1, "the toy finds nothing: the test compares nothing"
    np.testing.assert_array_equal(ids, expected.numpy())
    assert segments == info


def test_channel_order_matters(run) -> None:
    image = picture(60, 60)
    rgb, bgr = (Predictor(load_trained(run, opts=["INPUT.FORMAT", f])) for f in ("RGB", "BGR"))
    np.testing.assert_array_equal(rgb(image)[0], bgr(image[:, :, ::-1])[0])
    assert (rgb(image)[0] != bgr(image)[0]).any()


def test_leaves_the_image_alone_and_takes_views(predictor) -> None:
    image = picture(60, 80)
    view = np.asfortranarray(image)
    view.flags.writeable = False
    np.testing.assert_array_equal(predictor(view)[0], predictor(image)[0])
    np.testing.assert_array_equal(image, picture(60, 80))


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (70, 1)])
def test_takes_the_smallest_images(predictor, size) -> None:
    ids, segments = predictor(picture(*size))
    assert ids.shape == size
    assert sum(s["area"] for s in predictor.describe(ids, segments)) == np.count_nonzero(ids)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 6), np.uint8),
        np.zeros((5, 6, 4), np.uint8),
        np.zeros((5, 6, 3), np.float32),
        np.zeros((0, 6, 3), np.uint8),
    ],
)
def test_refuses_what_is_no_rgb_image(predictor, image) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        predictor(image)


def described() -> Predictor:
    """Only what does not need a model."""
    predictor = Predictor.__new__(Predictor)
    predictor.categories = [
        {"id": 11, "name": "cat", "isthing": True},
        {"id": 5, "name": "grass", "isthing": False},
    ]
    return predictor


def test_describes_segments_by_hand() -> None:
    ids = np.zeros((6, 8), np.int64)
    ids[1:3, 2:7] = 1
    ids[2, 2] = 70_000
    ids[5, 0] = ids[4, 7] = 2
    segments = [
        {"id": 2, "category_id": 1, "isthing": False, "score": 0.123456},
        {"id": 70_000, "category_id": 0, "isthing": True, "score": 1.25},
        {"id": 9, "category_id": 0, "isthing": True, "score": 0.5},  # painted over
        {"id": 1, "category_id": 0, "isthing": True},
    ]
    cat = {"category_id": 11, "category_name": "cat", "isthing": 1, "iscrowd": 0}
    grass = {"category_id": 5, "category_name": "grass", "isthing": 0, "iscrowd": 0}
    assert described().describe(ids, segments) == [
        {"id": 2, **grass, "area": 2, "bbox": [0, 4, 8, 2], "score": 0.1235},
        {"id": 70_000, **cat, "area": 1, "bbox": [2, 2, 1, 1], "score": 1.25},
        {"id": 1, **cat, "area": 9, "bbox": [2, 1, 5, 2]},
    ]
    assert described().describe(ids, []) == []


def test_measures_segments_as_numpy_does() -> None:
    ids = np.random.default_rng(0).choice([0, 3, 17, 16_777_215], (9, 12))
    for (area, box), n in zip(measure_segments(ids, [17, 4, 3]), [17, 4, 3], strict=True):
        rows, cols = np.nonzero(ids == n)
        assert area == len(rows)
        if n == 4:
            assert box == [0, 0, 0, 0]
            continue
        corner = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        assert box == corner and all(type(v) is int for v in [area, *box])


def test_draws_readable_pictures_of_a_bounded_size(predictor: Predictor) -> None:
    image = picture(100, 300)
    ids, segments = predictor(image)
    assert predictor.draw(image, ids, segments).shape == (200, 600, 3), "enlarged by two"
    assert predictor.draw(image, ids, segments, max_side=120).shape == (40, 120, 3)
    bare = predictor.draw(image, np.zeros_like(ids), [], alpha=0.0)
    assert (bare != predictor.draw(image, ids, segments)).any()


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((10, 20), 20, (10, 20)), ((10, 20), 10, (5, 10)), ((1, 999), 16, (1, 16))],
)
def test_fits_images_into_a_side(size, side, expected) -> None:
    assert fit_into(picture(*size), side).shape == (*expected, 3)


def test_class_names_are_those_of_the_model(predictor: Predictor) -> None:
    assert isinstance(predictor.trained, TrainedModel)
    ids, segments = predictor(picture(64, 64))
    for entry, segment in zip(predictor.describe(ids, segments), segments, strict=True):
        assert entry["category_name"].startswith("thing" if segment["isthing"] else "stuff")


@pytest.mark.parametrize("pixels", [1, 7, 40, 1 << 20])
def test_segments_are_measured_a_few_rows_at_a_time(monkeypatch, pixels):
    monkeypatch.setattr("fdd.points.coco_panoptic.png._MEASURED", pixels)
    ids = np.random.default_rng(0).choice(
        [0, 3, 5, 900, 17], (13, 7), p=[0.4, 0.3, 0.2, 0.05, 0.05]
    )
    ids = ids.astype(np.int32)
    wanted = [17, 3, 900, 4]
    for n, (area, box) in zip(wanted, measure_segments(ids, wanted), strict=True):
        y, x = np.nonzero(ids == n)
        assert area == len(y)
        expected = [0, 0, 0, 0]
        if len(y):
            expected = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        assert box == expected and all(type(side) is int for side in box)

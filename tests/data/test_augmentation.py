"""Resize and flip by OpenCV against Detectron2's own."""

# Detectron2's augmentations draw from numpy's global generator.
# ruff: noqa: NPY002

from __future__ import annotations

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from fdd.data.augmentation import (
    HFlipTransform,
    RandomFlip,
    ResizeShortestEdge,
    ResizeTransform,
    VFlipTransform,
    build_augmentation,
)
from mapper_toys import config


def smooth(height, width, channels=3):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / (5 + c)) * np.cos(y / 6 + c) for c in range(channels)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize("size", [(80, 120), (41, 61), (40, 60), (77, 130)])
def test_enlarging_equals_pillow_but_for_rounding(size):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    ours = ResizeTransform(40, 60, *size).apply_image(image)
    theirs = T.ResizeTransform(40, 60, *size).apply_image(image)
    assert ours.shape == theirs.shape == (*size, 3) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_shrinking_is_opencvs_and_not_pillows():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    transform = ResizeTransform(40, 60, 20, 30)
    # Half size: each new centre lies between four pixels, and is their mean. Pillow takes twelve.
    mean = image.astype(float).reshape(20, 2, 30, 2, 3).mean((1, 3))
    np.testing.assert_allclose(transform.apply_image(image), mean, atol=1)
    pillow = T.ResizeTransform(40, 60, 20, 30).apply_image(image)
    assert np.abs(pillow - mean).max() > 5


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 4)])
def test_resizing_keeps_the_number_of_dimensions(shape):
    image = smooth(40, 60, 4)[..., 0].copy() if len(shape) == 2 else smooth(40, 60, shape[2])
    transform = ResizeTransform(40, 60, 20, 90)
    assert transform.apply_image(image).shape == (20, 90, *shape[2:])
    back = transform.inverse()
    assert isinstance(back, ResizeTransform)
    assert back.apply_image(transform.apply_image(image)).shape == shape


def test_what_is_no_picture_goes_detectron2s_way():
    transform, theirs = ResizeTransform(40, 60, 80, 90), T.ResizeTransform(40, 60, 80, 90)
    labels = np.random.default_rng(0).integers(0, 9, (40, 60)).astype(np.uint8)
    np.testing.assert_array_equal(
        transform.apply_segmentation(labels), theirs.apply_segmentation(labels)
    )
    floats = smooth(40, 60).astype(np.float32)
    np.testing.assert_array_equal(transform.apply_image(floats), theirs.apply_image(floats))
    coords = np.array([[0.0, 0.0], [60.0, 40.0], [7.5, 3.25]])
    np.testing.assert_array_equal(
        transform.apply_coords(coords.copy()), theirs.apply_coords(coords.copy())
    )
    for mine, original in ((HFlipTransform(60), T.HFlipTransform(60)), (VFlipTransform(40), None)):
        original = original or T.VFlipTransform(40)
        for array in (labels > 4, floats, np.stack([labels[..., None]] * 2)):
            np.testing.assert_array_equal(mine.apply_image(array), original.apply_image(array))


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_flips_mirror_into_new_memory(channels):
    image = smooth(7, 10, channels)
    before = image.copy()
    for transform, expected in (
        (HFlipTransform(10), image[:, ::-1]),
        (VFlipTransform(7), image[::-1]),
    ):
        flipped = transform.apply_image(image)
        np.testing.assert_array_equal(flipped, expected)
        assert flipped.flags.c_contiguous and not np.shares_memory(flipped, image)
        np.testing.assert_array_equal(transform.apply_image(image[..., 0]), expected[..., 0])
        crop = image[1:6, 2:7]  # a view
        np.testing.assert_array_equal(transform.apply_image(crop), transform.apply_image(crop + 0))
    np.testing.assert_array_equal(image, before)


def test_flip_and_resize_commute():
    image = smooth(40, 60)
    for size in ((80, 120), (53, 81), (21, 33)):
        one = HFlipTransform(size[1]).apply_image(ResizeTransform(40, 60, *size).apply_image(image))
        two = ResizeTransform(40, 60, *size).apply_image(HFlipTransform(60).apply_image(image))
        assert np.abs(one.astype(int) - two).max() <= 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            ResizeShortestEdge((30, 50), 90, "range"),
            T.ResizeShortestEdge((30, 50), 90, "range"),
        ),
        (
            ResizeShortestEdge((16, 32, 64), 70, "choice"),
            T.ResizeShortestEdge((16, 32, 64), 70, "choice"),
        ),
        (RandomFlip(), T.RandomFlip()),
        (
            RandomFlip(0.3, horizontal=False, vertical=True),
            T.RandomFlip(0.3, horizontal=False, vertical=True),
        ),
    ],
)
def test_draws_are_detectron2s(ours, theirs):
    image = smooth(40, 60)
    coords = np.random.default_rng(0).random((5, 2)) * [60, 40]
    kinds = set()
    for seed in range(20):
        np.random.seed(seed)
        mine = ours.get_transform(image)
        after = np.random.rand()
        np.random.seed(seed)
        original = theirs.get_transform(image)
        assert np.random.rand() == after
        moved = mine.apply_coords(coords.copy())
        np.testing.assert_array_equal(moved, original.apply_coords(coords.copy()))
        assert mine.apply_image(image).shape == original.apply_image(image).shape
        kinds.add(moved.tobytes())
        assert isinstance(mine, type(original))
        if isinstance(original, T.ResizeTransform):
            assert type(mine) is ResizeTransform
    assert len(kinds) > 1


def test_a_size_of_zero_keeps_the_image():
    transform = ResizeShortestEdge(0).get_transform(smooth(40, 60))
    assert isinstance(transform, T.NoOpTransform)


def test_from_config():
    kinds = [type(a) for a in build_augmentation(config(), True)]
    assert kinds == [RandomFlip, ResizeShortestEdge]
    kinds = [type(a) for a in build_augmentation(config(**{"INPUT.CROP.ENABLED": True}), True)]
    assert kinds == [T.RandomCrop, RandomFlip, ResizeShortestEdge]
    (only,) = build_augmentation(config(**{"INPUT.CROP.ENABLED": True}), False)
    assert type(only) is ResizeShortestEdge
    upside_down, resize = build_augmentation(config(**{"INPUT.RANDOM_FLIP": "vertical"}), True)
    assert upside_down.vertical and not upside_down.horizontal
    (resize,) = build_augmentation(
        config(
            **{
                "INPUT.RANDOM_FLIP": "none",
                "INPUT.MIN_SIZE_TRAIN": (20, 24),
                "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
                "INPUT.MAX_SIZE_TRAIN": 33,
            }
        ),
        True,
    )
    sides = {resize.get_transform(smooth(40, 60)).new_h for _ in range(60)}
    assert sides == {20, 21, 22}  # 22 x 33 is as much as the long side allows


def test_one_thread_gives_the_same_picture_as_many():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    transform, threads = ResizeTransform(300, 400, 611, 807), cv2.getNumThreads()
    many = transform.apply_image(image)
    try:
        cv2.setNumThreads(0)
        one = transform.apply_image(image)
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(one, many)

"""Mappers for the tests, and what their examples must be."""

import torch
from detectron2.config import get_cfg

from fdd.config import add_fdd_config
from fdd.data import FDDDatasetMapper

SHAPES = {
    "classes": (torch.int64, 1),
    "point_coords": (torch.float32, 2),
    "point_index": (torch.int64, 1),
    "point_cells": (torch.int64, 2),
    "point_instance_map": (torch.int32, 2),
    "point_semantic_map": (torch.int32, 2),
}


def make(*augmentations, is_train=True, **options):
    options.setdefault("image_format", "RGB")
    return FDDDatasetMapper(is_train=is_train, augmentations=augmentations, **options)


def config(**changes):
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 48, 64)
    cfg.INPUT.MIN_SIZE_TEST = 80
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
    return cfg


def assert_equal(first, second):
    assert set(first) == set(second)
    for key, value in first.items():
        if torch.is_tensor(value):
            assert value.dtype == second[key].dtype, key
            assert torch.equal(value, second[key]), key
        else:
            assert value == second[key], key


def assert_without_labels(example, size):
    for key, (dtype, _) in SHAPES.items():
        assert example[key].dtype == dtype, key
    assert example["classes"].shape == example["point_index"].shape == (0,)
    assert example["point_coords"].shape == (0, 2)
    assert example["point_cells"].shape == (0, 3)
    assert example["instance_ids"] == []
    for key in ("point_instance_map", "point_semantic_map"):
        assert example[key].shape == size and (example[key] == -1).all()

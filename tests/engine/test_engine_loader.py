"""What the loaders' workers do with threads and memory."""

from __future__ import annotations

import cv2
import pytest
import torch
from torch.utils.data import get_worker_info

from engine_toys import POINTS, toy_cfg
from fdd.data import FDDDatasetMapper
from fdd.engine import build_test_loader, build_train_loader


def nosy(mapper):
    def call(record):
        example = mapper(record)
        example["in_worker"] = get_worker_info() is not None
        example["threads"] = (cv2.getNumThreads(), torch.get_num_threads())
        return example

    return call


@pytest.mark.parametrize("train", [True, False])
def test_workers_use_one_thread_and_send_a_batch_in_one_piece(toy_set, tmp_path, train):
    cfg = toy_cfg(tmp_path, "DATALOADER.NUM_WORKERS", 1)
    threads = cv2.getNumThreads()
    mapper = nosy(FDDDatasetMapper(cfg, is_train=train))
    if train:
        loader = build_train_loader(cfg, mapper=mapper)
        alone = build_train_loader(toy_cfg(tmp_path))
    else:
        loader = build_test_loader(cfg, POINTS, mapper=mapper)
        alone = build_test_loader(toy_cfg(tmp_path), POINTS)
    batch, expected = next(iter(loader)), next(iter(alone))
    assert type(batch) is list and len(batch) == len(expected)
    for got, example in zip(batch, expected, strict=True):
        assert got["in_worker"] and got["threads"] == (1, 1)
        assert got["image_id"] == example["image_id"]
        for key, value in example.items():
            if torch.is_tensor(value):
                assert got[key].dtype == value.dtype and torch.equal(got[key], value), key
                assert got[key].stride() == value.stride(), key
    tensors = [value for got in batch for value in got.values() if torch.is_tensor(value)]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    assert cv2.getNumThreads() == threads


def test_batches_are_pinned_for_a_gpu_only(toy_set, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, pinned in (("cuda", True), ("cuda:1", True), ("cpu", False)):
        cfg = toy_cfg(tmp_path, "MODEL.DEVICE", device)
        assert build_train_loader(cfg).pin_memory is pinned
        assert build_test_loader(cfg, POINTS).pin_memory is pinned
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build_train_loader(toy_cfg(tmp_path, "MODEL.DEVICE", "cuda")).pin_memory is False

"""The training stream, and what the loaders' workers do with threads and memory."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import cv2
import pytest
import torch
from torch.utils.data import get_worker_info

from engine_toys import POINTS, toy_cfg
from fdd.data import FDDDatasetMapper
from fdd.engine import build_test_loader, build_train_loader
from fdd.engine.loader import SeededDataset, TrainingBatchSampler, sample_seed

N, B = 11, 4
GROUPS = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0]


def take(count, **options):
    options = {"num_images": N, "batch_size": B, "seed": 5, **options}
    return list(islice(TrainingBatchSampler(**options), count))


def test_every_image_once_an_epoch():
    keys = [key for batch in take(N) for key in batch]  # B whole epochs
    for epoch in range(B):
        assert sorted(keys[epoch * N : (epoch + 1) * N]) == [(epoch, i) for i in range(N)]
    orders = {tuple(i for e, i in keys if e == epoch) for epoch in range(B)}
    assert len(orders) == B, "every epoch has an order of its own"


def test_same_seed_same_stream_other_seed_other_stream():
    assert take(9) == take(9)
    assert take(9) != take(9, seed=6)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("start", [1, 2, 3, 7, 30])
def test_start_skips_batches(groups, start):
    assert take(6, groups=groups, start=start) == take(start + 6, groups=groups)[start:]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_one(groups, world_size):
    parts = [take(9, groups=groups, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[k for part in batches for k in part] for batches in zip(*parts, strict=True)]
    assert joined == take(9, groups=groups)


def test_two_halves_are_one_double_batch():
    halves, whole = take(10), take(5, batch_size=2 * B)
    assert [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)] == whole


def test_groups_do_not_mix_and_no_image_is_lost():
    batches = take(200, groups=GROUPS)
    assert all(len({GROUPS[i] for _, i in batch}) == 1 for batch in batches)
    counts = Counter(i for batch in batches for _, i in batch)
    # Waiting images belong to at most two unfinished batches.
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len({key for batch in batches for key in batch}) == 200 * B


def test_batch_larger_than_the_set():
    (batch,) = take(1, num_images=3, batch_size=7)
    assert sorted(i for e, i in batch if e == 0) == [0, 1, 2] and len(batch) == 7


@pytest.mark.parametrize(
    "options",
    [
        {"num_images": 0},
        {"batch_size": 0},
        {"batch_size": 3, "world_size": 2},
        {"seed": -1},
        {"start": -1},
        {"groups": [0]},
    ],
)
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError):
        take(1, **options)


def test_sample_seeds_differ_by_visit():
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(10) for i in range(50)}
    assert len(seeds) == 1500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_dataset_hands_the_seed_to_the_mapper():
    dicts = [{"a": 1}, {"a": 2}]
    dataset = SeededDataset(dicts, lambda d: d, seed=5)
    assert dataset[(3, 1)] == {"a": 2, "_seed": sample_seed(5, 3, 1)}
    assert dicts[1] == {"a": 2}, "the source stays as it was"


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

"""Batches that travel in one piece, through a pickle and through a loader's worker."""

from __future__ import annotations

import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fdd.data.packed_batch import PackedBatch, as_batch


def example(n):
    rng = np.random.default_rng(n)
    pixels = rng.integers(0, 256, (5 + n, 7, 3), dtype=np.uint8)
    return {
        "file_name": f"{n}.jpg",
        "image": torch.from_numpy(pixels).permute(2, 0, 1),
        "instance_ids": [n, 70_000],
        "classes": torch.arange(n),  # none in the first
        "point_coords": torch.rand(n, 2),
        "every_other": torch.arange(20, dtype=torch.int32)[::2],
        "flag": torch.tensor(n % 2 == 0),
        "half": torch.full((3, 1), float(n), dtype=torch.bfloat16),
        "array": rng.random(3),
    }


def assert_same(got, expected):
    assert list(got) == list(expected)
    for key, value in expected.items():
        if torch.is_tensor(value):
            assert got[key].dtype == value.dtype and torch.equal(got[key], value), key
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(got[key], value)
        else:
            assert got[key] == value, key


def travel(batch):
    return pickle.loads(bytes(ForkingPickler.dumps(batch)))


def test_examples_arrive_as_they_left():
    batch = [example(n) for n in range(3)]
    arrived = travel(PackedBatch(batch))
    assert type(arrived) is list and len(arrived) == 3
    for got, expected in zip(arrived, batch, strict=True):
        assert_same(got, expected)
        # The image is still rows, columns, channels; nobody has turned it.
        assert got["image"].stride() == expected["image"].stride() == (1, 21, 3)
        assert got["image"].is_shared()


def test_all_tensors_share_one_buffer_and_none_overlaps():
    (first, second) = travel(PackedBatch([example(1), example(2)]))
    tensors = [v for e in (first, second) for v in e.values() if torch.is_tensor(v)]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    before = [t.clone() for t in tensors]
    for n, tensor in enumerate(tensors):
        tensor.zero_()
        before[n].zero_()
        for other, old in zip(tensors, before, strict=True):
            assert torch.equal(other, old)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_what_is_no_plain_tensor_travels_as_always():
    parameter = torch.nn.Parameter(torch.ones(2))
    sparse = torch.eye(3).to_sparse()
    (got,) = travel(PackedBatch([{"p": parameter, "s": sparse, "none": None}]))
    assert isinstance(got["p"], torch.nn.Parameter) and torch.equal(got["p"], parameter)
    assert got["s"].is_sparse and torch.equal(got["s"].to_dense(), torch.eye(3))
    assert got["none"] is None


@pytest.mark.parametrize("batch", [[], [{}], [{"classes": torch.zeros(0, 2)}]])
def test_batches_of_nothing(batch):
    arrived = travel(PackedBatch(batch))
    assert len(arrived) == len(batch)
    for got, expected in zip(arrived, batch, strict=True):
        assert_same(got, expected)


class Examples(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, n):
        return example(n)


@pytest.mark.parametrize("workers", [0, 1])
def test_through_a_loader(workers):
    loader = DataLoader(Examples(), batch_size=2, num_workers=workers, collate_fn=as_batch)
    batches = list(loader)
    assert [type(b) for b in batches] == [list, list]
    for n, got in enumerate(e for b in batches for e in b):
        expected = example(n)
        expected["point_coords"] = got["point_coords"]  # drawn
        assert_same(got, expected)
        assert got["image"].is_shared() == bool(workers)
    storages = {e["image"].untyped_storage().data_ptr() for e in batches[0]}
    assert len(storages) == (1 if workers else 2)


class Nested(torch.utils.data.Dataset):
    """Tensors that lie deeper than in an example, as those of an image's views."""

    def __len__(self):
        return 2

    def __getitem__(self, n):
        return {"index": n, "views": [{"image": torch.full((1000,), n)}, {"text": "a"}]}


def test_nested_tensors_through_a_loader():
    (batch,) = DataLoader(Nested(), batch_size=2, num_workers=1, collate_fn=as_batch)
    for n, got in enumerate(batch):
        assert got["index"] == n and got["views"][1] == {"text": "a"}
        assert got["views"][0]["image"].tolist() == [n] * 1000


_NO_MEMORY = """
import resource, torch
from torch.utils.data import DataLoader
from fdd.data.packed_batch import SharedMemoryError, as_batch
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
plain = {"image": torch.zeros(20_000)}
for example in (plain, {"views": [plain]}):
    try:
        for _ in DataLoader([example] * 4, batch_size=2, num_workers=1, collate_fn=as_batch):
            pass
    except SharedMemoryError as error:
        print(error)
"""


def test_a_worker_without_shared_memory_ends_the_loading_and_says_why():
    """PyTorch's own way is to print an error in a thread and to wait for the batch for ever."""
    command = [sys.executable, "-c", _NO_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    for line in lines:
        for said in ("shared memory", "ulimit -f", "DATALOADER.NUM_WORKERS 0", "--shm-size"):
            assert said in line

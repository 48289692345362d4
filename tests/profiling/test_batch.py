"""Made-up batches: as the mapper gives them, always the same."""

from __future__ import annotations

import pytest
import torch

from fdd.points.raster import num_valid_cells
from fdd.profiling import synthetic_batch


@pytest.mark.parametrize("instances", [0, 1, 4, 50])
def test_labels_fit_the_image(instances: int) -> None:
    (x,) = synthetic_batch(100, 150, num_things=20, num_stuff=5, instances=instances)
    assert x["image"].shape == (3, 100, 150) and x["image"].dtype is torch.uint8
    assert x["classes"].shape == (instances,) and x["classes"].dtype is torch.int64
    assert (
        x["point_instance_map"].shape
        == x["point_semantic_map"].shape
        == (num_valid_cells(100), num_valid_cells(150))
    )
    assert x["point_instance_map"].max() < instances
    points = x["point_coords"]
    assert len(points) == 10 * instances == len(x["point_index"])
    assert (points >= 0).all() and (points <= torch.tensor([150, 100])).all()
    # Every segment has cells of its own.
    assert set(x["point_cells"][:, 0].tolist()) == set(range(instances))


def test_stuff_classes_come_once_and_things_make_the_rest() -> None:
    (x,) = synthetic_batch(64, 64, num_things=3, num_stuff=2, instances=12)
    stuff = x["classes"][x["classes"] >= 3]
    assert sorted(stuff.tolist()) == [3, 4]
    (x,) = synthetic_batch(64, 64, num_things=0, num_stuff=6, instances=6)
    assert sorted(x["classes"].tolist()) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="7 segments of 6 stuff classes"):
        synthetic_batch(64, 64, num_things=0, num_stuff=6, instances=7)


def test_batches_repeat_themselves_and_images_differ() -> None:
    sizes = {"num_things": 3, "num_stuff": 2, "instances": 4, "batch": 2}
    first, second = synthetic_batch(64, 64, **sizes), synthetic_batch(64, 64, **sizes)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["point_coords"], b["point_coords"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_images_can_be_on_the_meta_device() -> None:
    (x,) = synthetic_batch(64, 64, num_things=3, num_stuff=2, instances=4, device="meta")
    assert x["image"].is_meta and not x["classes"].is_meta

"""The argmax by tiles is that over all maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdd.modeling.extents import fit_extents
from fdd.modeling.label_branch.location_prior import ExtentPrior
from fdd.modeling.label_makers import MakerInputs, nearest_labels
from fdd.modeling.label_maps import upsampled_argmax
from fdd.modeling.tiled_argmax import argmax_of_logits, nearest_points

SIZES = [((96, 128), (96, 128)), ((96, 128), (61, 77)), ((40, 72), (200, 360)), ((8, 8), (5, 9))]


def extents_of(count: int, side: float) -> ExtentPrior:
    rng = np.random.default_rng(2)
    index = np.repeat(np.arange(count), 5)
    middles = rng.uniform(0, side, (count, 2))[index]
    coords = (middles + rng.normal(0, 6, (len(index), 2))).astype(np.float32)
    slope = torch.linspace(0, 8, count)
    return ExtentPrior(fit_extents([(coords, index)], count, "cpu")[0], slope)


@pytest.mark.parametrize(("size", "shown"), SIZES)
@pytest.mark.parametrize("count", [1, 2, 23])
@pytest.mark.parametrize("by_extent", [False, True])
@pytest.mark.parametrize("rough", [0.3, 5.0])
def test_it_is_the_argmax_of_all_maps(size, shown, count, by_extent, rough) -> None:
    torch.manual_seed(0)
    grid = (-(-size[0] // 32) * 4, -(-size[1] // 32) * 4)  # padded
    logits = rough * torch.randn(count, *grid)
    scale = (shown[0] / size[0], shown[1] / size[1])
    extents = extents_of(count, size[1]) if by_extent else None
    maps, added = logits, None
    if extents is not None:
        maps = extents.without(logits)
        added = extents[None].to_add(shown, (1 / scale[0], 1 / scale[1]))
    factor = (8 * scale[0], 8 * scale[1])
    expected, _ = upsampled_argmax(maps[None], shown, [count], scale=factor, added=added)
    found = argmax_of_logits(logits, shown, scale, extents)
    assert found.dtype == np.int32 and found.shape == shown
    # Where two values are equal but for rounding, either may win.
    assert (found != expected[0].numpy()).mean() < 2e-4


def test_equal_maps_go_to_the_first() -> None:
    logits = torch.zeros(4, 6, 6)
    logits[0] = -1
    assert (argmax_of_logits(logits, (40, 50), (40 / 48, 50 / 48)) == 1).all()


@pytest.mark.parametrize("count", [1, 2, 60])
@pytest.mark.parametrize("size", [(70, 90), (16, 16), (1, 33)])
def test_the_nearest_point_is_that_of_the_rule(count: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(count)
    coords = torch.from_numpy(rng.integers(0, 2 * size[1], (count, 2)) / 2.0)  # with ties
    coords[:, 1].clamp_(max=size[0])
    index = torch.arange(count)
    expected = nearest_labels(MakerInputs(coords, index, index, size, (1.0, 1.0)))
    assert (nearest_points(coords.numpy(), size) == expected.numpy()).all()

from __future__ import annotations

import itertools
import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from fdd.modeling import refinement
from fdd.modeling.label_maps import resize_maps, upsampled_argmax
from fdd.modeling.refinement import HeldPoints, refine_maps, refined_logits, refined_size
from fdd.points.raster import num_valid_cells


def noise_image(height, width, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.float32)
    )


def two_colors(height, width, column, left=(180.0, 60, 50), right=(50.0, 120, 190)):
    """Image of two colours; those from ``column`` on are the right one."""
    image = torch.tensor(left)[:, None, None].repeat(1, height, width)
    image[:, :, column:] = torch.tensor(right)[:, None, None]
    return image


def left_and_right(height, width, column, sharpness=0.4):
    """(2, h8, w8) logits whose up-sampled boundary is at ``column``."""
    rows, columns = num_valid_cells(height, 8), num_valid_cells(width, 8)
    x = (torch.arange(columns) + 0.5) * 8 - column
    away = (sharpness * x / 2)[None].repeat(rows, 1)
    return torch.stack([-away, away])


def label_of(maps, image):
    return upsampled_argmax(maps[None], tuple(image.shape[1:]), [len(maps)])[0][0].numpy()


def reflected(index, size):
    """Index of a row beyond the border, which is mirrored with its edge."""
    return -1 - index if index < 0 else 2 * size - 1 - index if index >= size else index


def slow_mean(values, radius):
    """Mean over windows, pixel by pixel, in float64."""
    height, width = values.shape[:2]
    out = np.zeros_like(values)
    reach = range(-radius, radius + 1)
    for y, x in np.ndindex(height, width):
        near = [
            values[reflected(y + a, height), reflected(x + b, width)]
            for a, b in itertools.product(reach, reach)
        ]
        out[y, x] = np.mean(near, axis=0)
    return out


def slow_refine(logits, lab):
    """The two steps of the module, worked out per pixel in float64 with numpy's own inverse."""
    prior = logits - np.log(np.exp(logits).sum(0))
    prob = np.exp(prior)

    def twice(values):
        return slow_mean(slow_mean(values, refinement._COLOR_RADIUS), refinement._COLOR_RADIUS)

    for _ in range(refinement._ROUNDS):
        density = np.zeros_like(prior)
        for n, p in enumerate(prob):
            weight = twice(p**2)[..., None]
            mean = twice(lab * p[..., None] ** 2) / weight
            second = twice(lab**2 * p[..., None] ** 2) / weight
            variance = second - mean**2 + refinement._NOISE
            density[n] = -0.5 * ((lab - mean) ** 2 / variance + np.log(variance)).sum(-1)
        score = prior + np.maximum(density - density.max(0), -refinement._CAP)
        prob = np.exp(score) / np.exp(score).sum(0)
    radius = refinement._EDGE_RADIUS
    center = slow_mean(lab, radius)
    outer = slow_mean(lab[..., :, None] * lab[..., None, :], radius)
    spread = outer - center[..., :, None] * center[..., None, :]
    inverse = np.linalg.inv(spread + refinement._EDGE_NOISE * np.eye(3))
    out = []
    for p in prob:
        mean = slow_mean(p, radius)
        covariance = slow_mean(lab * p[..., None], radius) - center * mean[..., None]
        slope = np.einsum("hwij,hwj->hwi", inverse, covariance)
        offset = mean - (slope * center).sum(-1)
        out.append((slow_mean(slope, radius) * lab).sum(-1) + slow_mean(offset, radius))
    return np.log(np.clip(out, 1e-6, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_reference_in_float64(dtype):
    image = two_colors(20, 28, 13) + noise_image(20, 28, 1) / 8
    logits = torch.randn(3, 10, 14, generator=torch.Generator().manual_seed(2)).double() / 2
    rgb = image.permute(1, 2, 0).numpy() / 255
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float64)
    lab = lab.reshape(10, 2, 14, 2, 3).mean((1, 3))
    expected = slow_refine(logits.numpy(), lab)
    found = refine_maps(logits.to(dtype), image)
    assert found.dtype == dtype
    # The colours at half size are float32 in either case.
    tolerance = 2e-3 if dtype == torch.float32 else 1e-4
    np.testing.assert_allclose(found.exp().numpy(), np.exp(expected), atol=tolerance)


@pytest.mark.parametrize("edge", [58, 61, 66, 70])
@pytest.mark.parametrize("horizontal", [False, True])
def test_a_boundary_moves_to_the_edge_of_colours(edge, horizontal):
    image, logits = two_colors(96, 128, edge), left_and_right(96, 128, 64)
    if horizontal:
        image, logits = image.transpose(1, 2), logits.transpose(1, 2)
    label = label_of(refined_logits(logits, image), image)
    label = label.T if horizontal else label
    right = np.arange(128)[None].repeat(96, 0) >= edge
    wrong = (label != right).mean(0) * 128
    assert (label != right).sum(1).max() <= 1, wrong.nonzero()
    plain = upsampled_argmax(logits[None], image.shape[1:], [2])[0][0].numpy()
    plain = plain.T if horizontal else plain
    assert (plain != right).sum(1).min() >= min(2, abs(edge - 64) - 1)


def test_far_colours_do_not_move_it():
    """An edge where the network is sure of one instance is an edge within it."""
    image, logits = two_colors(96, 160, 120), left_and_right(96, 160, 64, sharpness=0.6)
    label = label_of(refined_logits(logits, image), image)
    assert (label == (np.arange(160)[None] >= 64)).all()


def test_one_colour_leaves_a_straight_boundary():
    image, logits = torch.full((3, 96, 128), 90.0), left_and_right(96, 128, 61)
    label = label_of(refined_logits(logits, image), image)
    assert (label == upsampled_argmax(logits[None], (96, 128), [2])[0][0].numpy()).all()


def test_a_thin_part_comes_back():
    """A bar half a cell wide, of which the up-sampled logits make a row of blobs."""
    image = torch.tensor([60.0, 110, 70])[:, None, None].repeat(1, 128, 128)
    image[:, 40:104, 60:64] = torch.tensor([210.0, 190, 60])[:, None, None]
    truth = (image[0] == 210).numpy()
    logits = torch.full((2, 16, 16), 2.0)
    logits[1] = -2.0
    logits[1, 5:13, 7] = 3.0
    logits[1, 5:13, 6] = logits[1, 5:13, 8] = -2.0
    label = label_of(refined_logits(logits, image), image).astype(bool)
    plain = upsampled_argmax(logits[None], (128, 128), [2])[0][0].numpy().astype(bool)

    def iou(found):
        return (found & truth).sum() / (found | truth).sum()

    assert iou(label) > 0.9 and iou(plain) < 0.5


def test_order_of_instances_and_orientation_do_not_matter():
    image = two_colors(64, 96, 37) + noise_image(64, 96) / 5
    logits = torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(0)) * 2
    found = refined_logits(logits, image)
    order = torch.tensor([3, 0, 4, 1, 2])
    again = refined_logits(logits[order], image)
    torch.testing.assert_close(again, found[order], atol=2e-3, rtol=1e-3)
    turned = refined_logits(logits.flip(-1), image.flip(-1)).flip(-1)
    torch.testing.assert_close(turned.exp(), found.exp(), atol=1e-3, rtol=1e-3)
    turned = refined_logits(logits.transpose(1, 2), image.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(turned.exp(), found.exp(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(refined_logits(logits + 3.7, image), found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(61, 83), (64, 96), (9, 8), (1, 3)])
def test_padding_and_odd_sizes(size):
    image = noise_image(*size, seed=3)
    cells = [num_valid_cells(side, 8) for side in size]
    logits = torch.randn(4, *cells, generator=torch.Generator().manual_seed(1))
    found = refined_logits(logits, image)
    assert found.shape[1:] == refined_size(image) == (-(-size[0] // 2), -(-size[1] // 2))
    assert found.isfinite().all()
    padded = torch.nn.functional.pad(logits, (0, 3, 0, 2), mode="replicate")
    torch.testing.assert_close(refined_logits(padded, image), found)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_decide(count):
    image = noise_image(33, 47)
    found = refined_logits(torch.randn(count, 5, 6), image)
    assert found.shape == (count, 17, 24) and (found == 0).all()


def test_every_pixel_has_an_instance_however_many_are_alike():
    """With 300 of equal logits none is likely anywhere; and no pixel may be left without one."""
    logits = torch.zeros(300, 6, 6)
    logits[7] += 1e-3
    found = refined_logits(logits, noise_image(48, 48))
    assert (found.argmax(0) == 7).all()


def test_extreme_logits_and_colours_stay_finite():
    logits = torch.tensor([[[1e4]], [[-1e4]], [[0.0]]]).repeat(1, 4, 4)
    for value in (0.0, 255.0):
        found = refined_logits(logits, torch.full((3, 32, 32), value))
        assert found.isfinite().all() and (found.argmax(0) == 0).all()


def test_many_small_instances_need_no_more_memory_than_their_maps():
    side, each = 48, 16  # 256 things of 3 x 3 cells
    cells = torch.arange(side)
    owner = (cells[:, None] // 3) * each + cells // 3
    logits = torch.stack([8.0 * (owner == n).float() for n in range(each * each)])
    image = noise_image(8 * side, 8 * side)
    maps = resize_maps(logits[None], refined_size(image), (4.0, 4.0))[0]
    tracemalloc.start()
    found = refine_maps(maps, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.argmax(0) == maps.argmax(0)).float().mean() > 0.9
    assert peak < 4 * maps.numel() * 4


def test_no_islands_only_moved_boundaries():
    """Something deep inside an instance that looks like the other one stays where it was."""
    image, logits = two_colors(96, 160, 76), left_and_right(96, 160, 76, sharpness=0.1)
    image[:, 40:52, 104:116] = image[:, :1, :1]  # a spot of the left colour
    image[:, 40:52, 30:42] = image[:, :1, -1:]
    label = label_of(refined_logits(logits, image), image)
    assert (label == (np.arange(160)[None] >= 76)).all()


def test_islands_are_pieces_without_a_pixel_from_before():
    before = np.zeros((5, 9), dtype=int)
    before[:, 6:] = 1
    after = before.copy()
    after[1, 3:6] = 1  # grown from the right: kept
    after[3, 1] = 1  # of its own
    after[4, 7] = 2
    found = refinement._islands(after, before)
    assert np.argwhere(found).tolist() == [[3, 1], [4, 7]]


def test_points_that_only_the_plain_label_holds_are_held():
    """A point on the far side of an edge of colours, and one that nobody holds."""
    image, logits = two_colors(96, 128, 58), left_and_right(96, 128, 64)
    place = torch.tensor([[60.5, 48.5], [10.5, 10.5]])
    points = HeldPoints(place, torch.tensor([0, 1]))
    free = label_of(refined_logits(logits, image), image)
    held = label_of(refined_logits(logits, image, points), image)
    assert free[48, 60] == 1 and held[48, 60] == 0
    assert held[10, 10] == 0, "the refinement gives back what it took, no more"
    far = np.hypot(np.arange(96)[:, None] - 48, np.arange(128)[None] - 60) > 18
    assert (held == free)[far].all() and (held != free).sum() < 60

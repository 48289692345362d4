"""Single parts of the textbook arrangement against hand-made results."""

import math

import pytest
import torch
from torch import nn

from benchmarks.textbook import attention, color, dense_labels, dice, mask_head, optimizer
from benchmarks.textbook import point_targets as targets
from benchmarks.textbook.color import ColorSettings


@pytest.mark.parametrize("form", [color.unfolded, color.sliced])
def test_color_prior_of_flat_images(form):
    grey = torch.full((1, 3, 6, 8), 0.5, dtype=torch.float64)
    valid = torch.ones(1, 6, 8, dtype=torch.bool)
    uniform = torch.zeros(1, 4, 6, 8, dtype=torch.float64)
    assert form(uniform, grey, valid, ColorSettings(), {}).item() == pytest.approx(math.log(4))
    # Two halves with logits 50 apart: 216 of 456 ordered pairs cross.
    halves = torch.zeros(1, 2, 6, 8, dtype=torch.float64)
    halves[:, 0, :, :4], halves[:, 1, :, 4:] = 50, 50
    value = form(halves, grey, valid, ColorSettings(), {}).item()
    assert value == pytest.approx((50 - math.log(2)) * 216 / 456, rel=1e-9)
    # Only one half is inside the image: nothing crosses.
    valid[..., 4:] = False
    assert form(halves, grey, valid, ColorSettings(), {}).item() == pytest.approx(0, abs=1e-9)


def test_lab_of_known_colours():
    rgb = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 1]]).T.reshape(1, 3, 1, 3)
    wanted = [[100, -0.002, 0.005], [53.241, 80.092, 67.203], [32.296, 79.186, -107.857]]
    found = color.rgb_to_lab(rgb)[0, :, 0].T
    torch.testing.assert_close(found, torch.tensor(wanted), atol=6e-3, rtol=0)


@pytest.mark.parametrize("core", [attention.stacked_samples, attention.summed_by_level])
def test_attention_reads_what_it_points_at(core):
    shapes = ((2, 3), (1, 2))
    value = torch.arange(8.0).view(1, 8, 1, 1).repeat(1, 1, 2, 1)
    value[:, :, 1] *= 10
    # Level 0, cell (1, 2) is token 5; level 1, half way between its two cells is 6.5.
    places = torch.tensor([[[5 / 6, 3 / 4]], [[0.5, 0.5]]]).expand(1, 1, 2, 2, 1, 2)
    weights = torch.tensor([[[0.25], [0.75]]]).expand(1, 1, 2, 2, 1)
    expected = 0.25 * 5 + 0.75 * 6.5
    assert core(value, shapes, places, weights).flatten().tolist() == pytest.approx(
        [expected, 10 * expected]
    )
    outside = places + 3
    assert core(value, shapes, outside, weights).abs().max() == 0


class _Head(nn.Module):
    """One head, two levels: mask = relu(1 + 2 a) + 3 up(relu(-b)) - 0.5."""

    mix_weight = torch.tensor([[[2.0]], [[-1.0]]])
    mix_bias = torch.tensor([[1.0], [0.0]])
    fuse_weight = torch.tensor([[1.0], [3.0]])
    fuse_bias = torch.tensor(-0.5)


@pytest.mark.parametrize("form", [mask_head.concatenate_levels, mask_head.project_then_upsample])
def test_mask_head_by_hand(form):
    logits = torch.tensor([[[-1.0, 0, 1, 2, -4, 4]]])
    mask = form(_Head(), logits, ((1, 4), (1, 2)))
    fine, coarse = [0, 1, 3, 5], [4, 3, 1, 0]
    expected = [a + 3 * b - 0.5 for a, b in zip(fine, coarse, strict=True)]
    assert mask.flatten().tolist() == pytest.approx(expected)


def test_point_maps_come_out_as_they_went_in():
    cells = torch.tensor([[0, 0, -1, 2], [1, -1, 2, 1], [-1, 0, 299, 299]])
    assert torch.equal(targets.maps_by_one_hot(cells, 300)[0], cells)
    assert torch.equal(targets.maps_as_given(cells, 300)[0], cells)


def test_own_masks_may_overlap():
    cells = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 1], [2, 2, 3]])
    pooled = targets.own_masks_by_pooling(cells, 4, (3, 4))
    assert torch.equal(pooled, targets.own_masks_by_scatter(cells, 4, (3, 4)))
    assert pooled.sum((1, 2)).tolist() == [2, 1, 1, 0]
    assert pooled[0, 0, 1] and pooled[1, 0, 1] and pooled[2, 2, 3]


def test_forced_cells_stay_inside_and_leave_shared_ones_alone():
    coords = torch.tensor([[3.0, 3.0], [12.0, 3.0], [13.0, 4.0], [21.5, 12.5]])
    owner = torch.tensor([1, 2, 3, 2])
    label = dense_labels.force_own_cells(torch.zeros(16, 24).long(), coords, owner, (13, 22), 1)
    assert (label[:8, :8] == 1).all() and (label[:8, 8:16] == 0).all()
    assert (label == 1).sum() == 64
    assert (label == 2).sum() == 5 * 6 and (label[8:13, 16:22] == 2).all()
    coarse = dense_labels.force_own_cells(torch.zeros(2, 3).long(), coords, owner, (13, 22), 8)
    assert coarse.tolist() == [[1, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize(
    "form", [dense_labels.boxes_by_coordinates, dense_labels.boxes_by_torchvision]
)
def test_boxes(form):
    masks = torch.zeros(3, 5, 7)
    masks[0, 1:3, 2:6], masks[2, 4, 0] = 1, 1
    assert form(masks).tolist() == [[2, 1, 6, 3], [0, 0, 0, 0], [0, 4, 1, 5]]
    assert form(masks[:0]).shape == (0, 4)


def test_dice_by_hand():
    layers = [torch.full((2, 1, 1), 0.5), torch.full((2, 1, 1), 2.0)]
    wanted = torch.zeros(2, 8, 8)
    wanted[0, :4] = 1
    known = torch.ones(8, 8, dtype=torch.bool)
    known[:, 6:] = False
    eps = 1e-3
    # 24 of 48 known pixels.
    one = 1 - 2 * 24 * 0.5 / (48 * 0.25 + 24 + 2 * eps)
    two = 1 - 2 * 24 * 2 / (48 * 4 + 24 + 2 * eps)
    for form in (dice.full_size, dice.present_at_full_size):
        value = form(layers, wanted, known, torch.tensor([1.0, 0.0]), eps)
        assert value.item() == pytest.approx(one + two)
        assert form([m[:0] for m in layers], wanted[:0], known, torch.ones(0), eps) == 0


@pytest.mark.parametrize("make", [optimizer.plain_adamw, optimizer.fused_adamw])
def test_optimizer_clips_the_global_norm_and_steps(make):
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    adamw = make([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}], weight_decay=0.5)
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer.clip_and_step(adamw, clip_norm=1.0)
    assert a.grad.tolist() == pytest.approx([0.6, 0]) and b.grad.tolist() == pytest.approx([0, 0.8])
    # The first step of Adam is the sign of the gradient; the decay is lr * 0.5.
    assert a.tolist() == pytest.approx([1 - 0.05 - 0.1, 1 - 0.05])
    assert b.tolist() == pytest.approx([1 - 0.005, 1 - 0.005 - 0.01])

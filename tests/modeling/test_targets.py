"""Dense labels, boxes and cells against plain forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import masks_to_boxes

from fdd.modeling.label_maps import (
    boxes_from_labels,
    force_points,
    num_valid_cells,
    upsampled_argmax,
    valid_cells,
)
from fdd.points import raster

torch.set_num_threads(1)


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_valid_cells_have_their_centre_inside(stride):
    for side in range(1, 200):
        inside = sum(stride * (u + 0.5) < side for u in range(300))
        assert num_valid_cells(side, stride) == max(1, inside)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 8, 16, 32, 64])
def test_model_and_data_count_the_same_cells(stride):
    for side in [*range(1, 1500), 4096, 12345]:
        assert num_valid_cells(side, stride) == raster.valid_cells(side, stride), side


def test_valid_cells_of_a_batch():
    got = valid_cells([(13, 30), (32, 3)], 8, (4, 4))
    assert got.dtype == torch.bool and got.shape == (2, 4, 4)
    assert got[0].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    assert got[1].tolist() == [[True, False, False, False]] * 4
    assert valid_cells([], 8, (4, 4)).shape == (0, 4, 4)
    # A grid smaller than the image is simply full.
    assert valid_cells([(64, 64)], 8, (2, 2)).all()


def _plain_argmax(logits, out_size, count):
    up = F.interpolate(logits[None, :count], size=out_size, mode="bilinear", align_corners=False)
    prob, label = up.softmax(1).max(1)
    return label[0], prob[0]


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("pad_value", [-math.inf, 0.0, 50.0])
def test_upsampled_argmax_equals_the_plain_form(chunk, pad_value):
    torch.manual_seed(0)
    counts = [7, 1, 4]
    logits = 4 * torch.randn(3, 7, 6, 9)
    for b, count in enumerate(counts):
        logits[b, count:] = pad_value
    labels, prob = upsampled_argmax(logits, (12, 18), counts, chunk=chunk)
    assert labels.dtype == torch.int32 and labels.shape == prob.shape == (3, 12, 18)
    for b, count in enumerate(counts):
        want, want_prob = _plain_argmax(logits[b], (12, 18), count)
        assert torch.equal(labels[b].long(), want)
        torch.testing.assert_close(prob[b], want_prob)
    assert (prob[1] == 1).all()
    again, none = upsampled_argmax(logits, (12, 18), torch.tensor(counts), return_prob=False)
    assert none is None and torch.equal(again, labels)


def test_upsampled_argmax_without_instances():
    logits = torch.randn(2, 3, 4, 4)
    logits[1] = -math.inf
    labels, prob = upsampled_argmax(logits, (8, 8), [3, 0])
    assert (labels[0] >= 0).all() and (labels[1] == -1).all()
    assert (prob[0] > 1 / 3 - 1e-6).all() and (prob[1] == 0).all()
    labels, prob = upsampled_argmax(torch.zeros(2, 0, 4, 4), (8, 8), [0, 0])
    assert (labels == -1).all() and (prob == 0).all()


def test_upsampled_argmax_takes_the_first_of_equals_and_extreme_logits():
    labels, prob = upsampled_argmax(torch.full((1, 5, 2, 2), 3.0), (4, 4), [5], chunk=2)
    assert (labels == 0).all()
    torch.testing.assert_close(prob, torch.full_like(prob, 0.2))
    logits = torch.tensor([-1e4, -2e4]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    labels, prob = upsampled_argmax(logits, (4, 4), [2], chunk=1)
    assert (labels == 0).all() and (prob == 1).all()


def test_upsampled_argmax_follows_a_permutation_of_instances():
    torch.manual_seed(1)
    logits, order = torch.randn(1, 6, 5, 5), torch.randperm(6)
    labels, prob = upsampled_argmax(logits, (10, 10), [6])
    permuted, permuted_prob = upsampled_argmax(logits[:, order], (10, 10), [6])
    assert torch.equal(order[permuted.long()], labels.long())
    torch.testing.assert_close(prob, permuted_prob)


@pytest.mark.parametrize(
    ("out_size", "scale"), [((75, 100), (12.8, 12.8)), ((37, 51), (5.1, 6.3)), ((48, 64), (8, 8))]
)
def test_upsampled_argmax_at_the_original_size_of_a_padded_image(out_size, scale):
    torch.manual_seed(4)
    logits = torch.randn(1, 5, 8, 9)
    # Pixel (Y, X) of the label lies at ((Y + 0.5) / scale, (X + 0.5) / scale) cells.
    y = (torch.arange(out_size[0]) + 0.5) / scale[0] / 8 * 2 - 1
    x = (torch.arange(out_size[1]) + 0.5) / scale[1] / 9 * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    up = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)
    labels, prob = upsampled_argmax(logits, out_size, [5], scale=scale)
    assert labels.shape == (1, *out_size)
    torch.testing.assert_close(prob, up.softmax(1).amax(1), rtol=1e-4, atol=1e-5)
    assert (labels == up.argmax(1)).float().mean() > 0.999
    # The label ends before the last cell's centre in all cases, so further cells do not matter.
    more = F.pad(logits, (0, 6, 0, 3), value=7.0)
    assert torch.equal(upsampled_argmax(more, out_size, [5], scale=scale)[0], labels)


def test_upsampled_argmax_never_makes_all_channels_full_size():
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return out

    with Watch():
        upsampled_argmax(torch.randn(1, 64, 4, 4), (32, 32), [64], chunk=4)
    assert 4 * 32 * 32 <= largest < 64 * 32 * 32 // 4


def _force(labels, points, stride, sizes):
    """``points``: (image, instance, x, y)."""
    table = torch.tensor(points, dtype=torch.float32).view(-1, 4)
    return force_points(labels, table[:, 0].long(), table[:, 1].long(), table[:, 2:], stride, sizes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_forced_points_own_a_block_at_stride_4(dtype):
    labels = torch.zeros((2, 8, 8), dtype=dtype)
    got = _force(labels, [(1, 300, 17.9, 8.0)], 4, [(32, 32), (32, 32)])
    want = labels.clone()
    want[1, 2:4, 4:6] = 300
    assert got.dtype == dtype and torch.equal(got, want)
    assert (labels == 0).all()


def test_forced_points_own_a_cell_at_stride_8():
    labels = torch.full((1, 4, 4), -1)
    got = _force(labels, [(0, 2, 31.9, 0.0), (0, 2, 31.0, 1.0), (0, 0, 9.0, 9.0)], 8, [(32, 32)])
    assert got[0, 0, 3] == 2 and got[0, 1, 1] == 0 and (got >= 0).sum() == 2


def test_cell_of_two_instances_is_left_alone():
    labels = torch.full((1, 4, 4), 5)
    points = [(0, 1, 1.0, 1.0), (0, 2, 7.0, 7.0), (0, 1, 20.0, 20.0), (0, 1, 21.0, 20.0)]
    got = _force(labels, points, 8, [(32, 32)])
    assert got[0, 0, 0] == 5 and got[0, 2, 2] == 1 and (got == 5).sum() == 15


def test_same_cell_in_two_images_is_no_conflict():
    got = _force(torch.full((2, 4, 4), 9), [(0, 1, 1, 1), (1, 2, 1, 1)], 8, [(32, 32)] * 2)
    assert got[:, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("side", [1, 3, 4, 5, 11, 12, 13, 14, 16])
def test_forced_point_at_the_border_stays_inside_and_keeps_a_cell(side):
    labels = torch.full((1, 4, 4), -1)
    sizes = [(side, side)]
    got = _force(labels, [(0, 0, float(side), side - 0.01)], 4, sizes)
    inside = valid_cells(sizes, 4, (4, 4))
    assert (got == 0).any() and not (got[~inside] == 0).any()
    n = max(1, math.ceil((side - 4) / 8))
    assert (
        got[0, 2 * n - 2 : 2 * n, 2 * n - 2 : 2 * n][
            inside[0][2 * n - 2 : 2 * n, 2 * n - 2 : 2 * n]
        ]
        == 0
    ).all()


def test_no_points_and_wrong_stride():
    labels = torch.randint(-1, 3, (2, 4, 4))
    got = _force(labels, [], 8, [(32, 32)] * 2)
    assert torch.equal(got, labels) and got is not labels
    with pytest.raises(ValueError, match="stride is 3"):
        _force(labels, [(0, 0, 1, 1)], 3, [(32, 32)] * 2)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_boxes_equal_torchvision(stride):
    torch.manual_seed(2)
    coarse = torch.randint(-1, 6, (3, 4, 5))
    labels = coarse.repeat_interleave(3, 1).repeat_interleave(2, 2)
    boxes, areas = boxes_from_labels(labels.int(), 8, stride)
    assert boxes.shape == (3, 8, 4) and boxes.dtype == torch.float32
    assert areas.shape == (3, 8) and areas.dtype == torch.int64
    for b in range(3):
        for n in range(8):
            mask = labels[b] == n
            assert areas[b, n] == mask.sum()
            if not mask.any():
                assert (boxes[b, n] == 0).all()
                continue
            want = masks_to_boxes(mask[None])[0]
            want[2:] += 1
            torch.testing.assert_close(boxes[b, n], want * stride)


def test_boxes_are_clipped_to_the_image():
    labels = torch.zeros((2, 2, 3), dtype=torch.int32)
    boxes, _ = boxes_from_labels(labels, 1, 8, sizes=[(13, 21), (16, 24)])
    assert boxes[:, 0].tolist() == [[0, 0, 21, 13], [0, 0, 24, 16]]


def test_boxes_of_nothing():
    boxes, areas = boxes_from_labels(torch.full((2, 3, 3), -1), 2, 8)
    assert (boxes == 0).all() and (areas == 0).all()
    boxes, areas = boxes_from_labels(torch.full((2, 3, 3), -1), 0, 8)
    assert boxes.shape == (2, 0, 4) and areas.shape == (2, 0)


def test_padding_leaves_boxes_alone():
    torch.manual_seed(3)
    labels = torch.randint(-1, 4, (1, 5, 6))
    for a, b in zip(
        boxes_from_labels(labels, 4, 4),
        boxes_from_labels(F.pad(labels, (0, 3, 0, 2), value=-1), 4, 4),
        strict=True,
    ):
        assert torch.equal(a, b)

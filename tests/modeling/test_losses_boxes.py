"""Generalised IoU of boxes."""

import pytest
import torch
from torchvision.ops import generalized_box_iou

from fdd.modeling.losses import (
    generalized_iou,
    pairwise_generalized_iou,
)

torch.set_num_threads(1)


def _boxes(n, seed):
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g, dtype=torch.float64)
    return torch.cat((low, low + 0.01 + torch.rand(n, 2, generator=g, dtype=torch.float64)), 1)


def test_giou_equals_torchvision():
    a, b = _boxes(7, 1), _boxes(5, 2)
    got = pairwise_generalized_iou(a, b)
    torch.testing.assert_close(got, generalized_box_iou(a, b))
    torch.testing.assert_close(generalized_iou(a[:5], b), got[:5].diagonal())
    batched = pairwise_generalized_iou(a.expand(2, 7, 4), b.expand(2, 5, 4))
    assert batched.shape == (2, 7, 5) and torch.equal(batched[1], got)


def test_giou_of_known_boxes():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert generalized_iou(a, a).item() == 1
    apart = torch.tensor([[3.0, 0.0, 5.0, 2.0]])
    assert generalized_iou(a, apart).item() == pytest.approx(-0.2)


def test_giou_of_degenerate_boxes_is_finite_with_a_finite_gradient():
    boxes = torch.tensor(
        [
            [0.3, 0.3, 0.3, 0.3],
            [0.3, 0.2, 0.3, 0.9],
            [0.5, 0.5, 0.2, 0.1],
            [0.0, 0.0, 1.0, 1.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 1e-7, 1e-4],
        ],
        requires_grad=True,
    )
    got = pairwise_generalized_iou(boxes, boxes.detach())
    got.sum().backward()
    assert got.isfinite().all() and (got.abs() <= 1).all()
    assert boxes.grad.isfinite().all() and boxes.grad.abs().max() < 1e4


def test_giou_of_nothing():
    assert pairwise_generalized_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert generalized_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)

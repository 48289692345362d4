"""Focal loss and boxes."""

import pytest
import torch
from torchvision.ops import generalized_box_iou
from torchvision.ops import sigmoid_focal_loss as reference_focal

from fdd.modeling.losses import (
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    generalized_iou,
    pairwise_generalized_iou,
    sigmoid_focal_loss,
)

torch.set_num_threads(1)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.0), (0.5, 1.0)])
def test_focal_equals_torchvision(alpha, gamma):
    torch.manual_seed(2)
    logits = (5 * torch.randn(6, 7, dtype=torch.float64)).requires_grad_()
    targets = torch.rand(6, 7) > 0.7
    got = sigmoid_focal_loss(logits, targets, alpha, gamma)
    want = reference_focal(logits, targets.double(), alpha, gamma)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), logits), torch.autograd.grad(want.sum(), logits)
    )


def test_focal_at_extreme_logits():
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1, 0, 0, 1]))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.0, 150.0, 50.0]))
    assert logits.grad.isfinite().all()
    assert sigmoid_focal_loss(torch.zeros(0, 20), torch.zeros(0, 20)).shape == (0, 20)


def _boxes(n, seed):
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g, dtype=torch.float64)
    return torch.cat((low, low + 0.01 + torch.rand(n, 2, generator=g, dtype=torch.float64)), 1)


def test_box_forms():
    box = torch.tensor([[10.0, 20.0, 4.0, 6.0]])
    assert box_cxcywh_to_xyxy(box).tolist() == [[8.0, 17.0, 12.0, 23.0]]
    boxes = _boxes(9, 0).view(3, 3, 4)
    torch.testing.assert_close(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes)), boxes)


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

"""Dice, focal loss and boxes."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou
from torchvision.ops import sigmoid_focal_loss as reference_focal

from fdd.modeling.losses import (
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    dice_loss,
    generalized_iou,
    pairwise_dice_cost,
    pairwise_generalized_iou,
    sigmoid_focal_loss,
)

torch.set_num_threads(1)


def test_dice_by_hand():
    masks = torch.tensor([[[1.0, 2.0], [0.0, 0.5]]])
    targets = torch.tensor([[[1, 0], [1, 1]]])
    want = 1 - 2 * 1.5 / (5.25 + 3 + 0.02)
    assert dice_loss(masks, targets, eps=0.01).item() == pytest.approx(want)


def test_dice_of_a_perfect_and_of_an_empty_target():
    target = (torch.rand(2, 8, 8) > 0.5).float()
    assert dice_loss(target, target, eps=0.0).abs().max() < 1e-6
    masks = torch.rand(2, 8, 8, requires_grad=True)
    loss = dice_loss(masks, torch.zeros(2, 8, 8))
    loss.sum().backward()
    assert (loss == 1).all() and (masks.grad == 0).all()
    assert dice_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 1


def test_dice_ignores_what_the_weight_mask_hides():
    torch.manual_seed(0)
    masks = (2 * torch.rand(3, 6, 7, dtype=torch.float64)).requires_grad_()
    targets = torch.rand(3, 6, 7) > 0.5
    want = dice_loss(masks, targets)
    padded, padded_t = (
        F.pad(masks, (0, 4, 0, 3), value=0.9),
        F.pad(targets, (0, 4, 0, 3), value=True),
    )
    valid = F.pad(torch.ones(1, 6, 7, dtype=torch.bool), (0, 4, 0, 3))
    torch.testing.assert_close(dice_loss(padded, padded_t, valid), want)
    assert (dice_loss(padded, padded_t) - want).abs().min() > 1e-3
    assert torch.autograd.gradcheck(lambda m: dice_loss(m, targets, valid[:, :6, :7]), (masks,))


def test_pairwise_dice_equals_dice_pair_by_pair():
    torch.manual_seed(1)
    masks, targets = 2 * torch.rand(4, 5, 6), torch.rand(3, 5, 6) > 0.6
    cost = pairwise_dice_cost(masks.flatten(1), targets.flatten(1), eps=1e-3)
    assert cost.shape == (4, 3)
    for q in range(4):
        for g in range(3):
            want = dice_loss(masks[q : q + 1], targets[g : g + 1])
            torch.testing.assert_close(cost[q, g], want[0])


def test_pairwise_dice_ignores_autocast():
    masks, targets = torch.rand(4, 500), torch.rand(3, 500) > 0.6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = pairwise_dice_cost(masks, targets)
    torch.testing.assert_close(cost, pairwise_dice_cost(masks, targets), rtol=0, atol=0)


def test_dice_of_nothing():
    assert dice_loss(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3)).shape == (0,)
    assert pairwise_dice_cost(torch.zeros(0, 9), torch.zeros(2, 9)).shape == (0, 2)
    assert pairwise_dice_cost(torch.zeros(4, 9), torch.zeros(0, 9)).shape == (4, 0)


def test_dice_of_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 3, 2\)"):
        dice_loss(torch.zeros(1, 2, 3), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        pairwise_dice_cost(torch.zeros(1, 2), torch.zeros(1, 3))


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

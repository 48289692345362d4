"""Dice of coarse masks with fine labels, against up-sampling every mask."""

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.losses import FineTargets, fine_targets, pairwise_dice_cost, upsampled_dice_loss

torch.set_num_threads(1)


def up_sampled(masks, labels, known, count, eps=1e-3):
    """The loss as it is written: (layers, N, h, w) masks up-sampled, one full map an instance."""
    fine = F.interpolate(masks, size=labels.shape, mode="bilinear", align_corners=False) * known
    index = torch.arange(count)[:, None, None]
    wanted = ((labels == index) & known).to(masks.dtype)
    overlap, size = (fine * wanted).sum((-2, -1)), fine.square().sum((-2, -1)) + wanted.sum((1, 2))
    return 1 - 2 * overlap / (size + 2 * eps)


def scene(factor, count=4, grid=(5, 7), dtype=torch.float64, known_share=0.7, seed=0):
    torch.manual_seed(seed)
    shape = grid[0] * factor, grid[1] * factor
    labels = torch.randint(-1, count, (2, *shape))
    known = torch.rand(2, *shape) < known_share
    masks = (2 * torch.rand(3, count, *grid, dtype=dtype)).requires_grad_()
    return masks, labels, known


def rows(targets: FineTargets, image, count):
    stencil = targets.stencil[image].expand(count, -1, -1, -1)
    return targets.adjoint[image], stencil, targets.areas[image]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("known_share", [1.1, 0.7, 0.0])
def test_equals_up_sampling(factor, known_share):
    masks, labels, known = scene(factor, known_share=known_share)
    targets = fine_targets(labels, known, 4, masks.shape[2:], torch.float64)
    for image in range(2):
        got = upsampled_dice_loss(masks, *rows(targets, image, 4))
        want = up_sampled(masks, labels[image], known[image], 4)
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
        weight = torch.rand_like(want)
        grads = [torch.autograd.grad((x * weight).sum(), masks)[0] for x in (got, want)]
        torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (7, 1), (2, 2)])
def test_maps_of_one_row_or_column(grid):
    masks, labels, known = scene(4, grid=grid)
    targets = fine_targets(labels, known, 4, grid, torch.float64)
    got = upsampled_dice_loss(masks, *rows(targets, 1, 4))
    torch.testing.assert_close(got, up_sampled(masks, labels[1], known[1], 4))


def test_single_precision_at_a_real_size():
    masks, labels, known = scene(8, count=6, grid=(75, 100), dtype=torch.float32)
    labels = labels[:, ::16, ::16].repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels = labels[:, :600, :800]
    known[:, 590:] = False
    targets = fine_targets(labels, known, 6, (75, 100))
    got = upsampled_dice_loss(masks, *rows(targets, 0, 6))
    exact = masks.detach().double().requires_grad_()
    want = up_sampled(exact, labels[0], known[0], 6)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(x.sum(), m)[0] for x, m in ((got, masks), (want, exact))]
    scale = grads[1].abs().max()
    assert (grads[0].double() - grads[1]).abs().max() < 1e-5 * scale


def test_gradcheck():
    masks, labels, known = scene(2, grid=(3, 4))
    targets = fine_targets(labels, known, 4, (3, 4), torch.float64)
    assert torch.autograd.gradcheck(
        lambda m: upsampled_dice_loss(m, *rows(targets, 0, 4)), (masks,)
    )


def test_by_hand():
    labels = torch.tensor([[[0, -1], [0, 0]]])
    targets = fine_targets(labels, torch.ones_like(labels, dtype=torch.bool), 1, (2, 2))
    masks = torch.tensor([[[[1.0, 2.0], [0.0, 0.5]]]])
    got = upsampled_dice_loss(masks, *rows(targets, 0, 1), eps=0.01)
    assert got.item() == pytest.approx(1 - 2 * 1.5 / (5.25 + 3 + 0.02))


def test_a_perfect_mask_and_an_empty_target():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    targets = fine_targets(labels, labels >= 0, 2, (4, 4))
    masks = torch.ones(1, 2, 4, 4, requires_grad=True)
    loss = upsampled_dice_loss(masks, *rows(targets, 0, 2), eps=1e-6)
    loss.sum().backward()
    assert loss[0, 0].item() == pytest.approx(0, abs=1e-6) and loss[0, 1] == 1
    assert (masks.grad[0, 1] == 0).all()


def test_what_is_unknown_has_no_influence():
    masks, labels, known = scene(4)
    known[:, :, 16:] = False
    other = torch.where(known, labels, 3 - labels.clamp(min=0))
    a, b = (fine_targets(x, known, 4, (5, 7)) for x in (labels, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    loss = upsampled_dice_loss(masks, *rows(a, 0, 4))
    # Cells from column 5 on reach no pixel left of 16.
    spoilt = masks.detach().clone()
    spoilt[..., 5:] = 9.0
    assert torch.equal(loss, upsampled_dice_loss(spoilt, *rows(a, 0, 4)))


def test_flipping_an_image_changes_nothing():
    masks, labels, known = scene(4)
    plain = fine_targets(labels, known, 4, (5, 7), torch.float64)
    mirror = fine_targets(labels.flip(2), known.flip(2), 4, (5, 7), torch.float64)
    a = upsampled_dice_loss(masks, *rows(plain, 0, 4))
    b = upsampled_dice_loss(masks.flip(3), *rows(mirror, 0, 4))
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_pairwise_cost_equals_the_loss_pair_by_pair():
    _, labels, known = scene(2)
    targets = fine_targets(labels, known, 4, (5, 7), torch.float64)
    masks = 2 * torch.rand(2, 3, 5, 7, dtype=torch.float64)
    cost = pairwise_dice_cost(masks, targets)
    assert cost.shape == (2, 3, 4)
    for image in range(2):
        for m in range(3):
            repeated = masks[image, m].expand(1, 4, -1, -1)
            want = upsampled_dice_loss(repeated, *rows(targets, image, 4))[0]
            torch.testing.assert_close(cost[image, m], want)


def test_autocast_is_ignored():
    masks, labels, known = scene(2, dtype=torch.float32)
    targets = fine_targets(labels, known, 4, (5, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = fine_targets(labels, known, 4, (5, 7))
        cost = pairwise_dice_cost(masks[:2], again)
        loss = upsampled_dice_loss(masks, *rows(again, 0, 4))
    assert torch.equal(cost, pairwise_dice_cost(masks[:2], targets))
    assert torch.equal(loss, upsampled_dice_loss(masks, *rows(targets, 0, 4)))


def test_nothing_has_the_size_of_masks_times_pixels():
    """What is kept for the backward pass grows with coarse cells, not with fine pixels."""
    kept = {}
    for factor in (2, 8):
        masks, labels, known = scene(factor, count=5, grid=(6, 8))
        targets = fine_targets(labels, known, 5, (6, 8))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x
        ):
            upsampled_dice_loss(masks, *rows(targets, 0, 5))
        kept[factor] = sum(sizes)
    assert kept[2] == kept[8]


def test_of_nothing():
    labels = torch.full((1, 4, 4), -1)
    targets = fine_targets(labels, labels < 0, 0, (2, 2))
    assert targets.adjoint.shape == (1, 0, 2, 2)
    masks = torch.zeros(2, 0, 2, 2, requires_grad=True)
    loss = upsampled_dice_loss(masks, *rows(targets, 0, 0))
    loss.sum().backward()
    assert loss.shape == (2, 0) and masks.grad.shape == masks.shape
    assert pairwise_dice_cost(torch.zeros(1, 3, 2, 2), targets).shape == (1, 3, 0)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"5 x 6 are not a whole multiple of masks of \(2, 3\)"):
        fine_targets(torch.zeros(1, 5, 6, dtype=torch.long), torch.ones(1, 5, 6) > 0, 1, (2, 3))
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 3\), \(2, 3, 4\) and \(2,\)"):
        upsampled_dice_loss(
            torch.zeros(1, 2, 3, 3), torch.zeros(2, 3, 4), torch.zeros(2, 4, 3, 4), torch.zeros(2)
        )

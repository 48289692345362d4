"""The colour prior against its oracles and against the plain unfolded form."""

import math

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.losses import color_affinity, color_prior_loss, rgb_to_lab

torch.set_num_threads(1)


def _unfold(x, kernel, dilation):
    """(B, C, h, w) -> (B, C, k*k - 1, h, w), the neighbours of every cell, zero outside."""
    b, c, h, w = x.shape
    cols = F.unfold(x, kernel, dilation=dilation, padding=kernel // 2 * dilation)
    cols = cols.view(b, c, kernel * kernel, h, w)
    middle = kernel * kernel // 2
    return torch.cat((cols[:, :, :middle], cols[:, :, middle + 1 :]), dim=2)


def _naive_loss(logits, lab, valid, num_images, kernel=5, dilation=2, threshold=0.3):
    """All ordered pairs, in log space, by unfolding."""
    log_p = logits.log_softmax(1)
    neighbour = _unfold(log_p, kernel, dilation)
    same = (log_p.unsqueeze(2) + neighbour).logsumexp(1)
    distance = (lab.unsqueeze(2) - _unfold(lab, kernel, dilation)).norm(dim=1)
    both = valid.unsqueeze(1) & (_unfold(valid[:, None].to(lab), kernel, dilation)[:, 0] > 0)
    pairs = (torch.exp(-0.5 * distance) > threshold) & both
    total = -(same * pairs).sum((1, 2, 3)) / pairs.sum((1, 2, 3)).clamp(min=1)
    return total.sum() / num_images


def _photo(batch, height, width, seed=0):
    """A smooth image of little contrast, so that a good part of the pairs is affine."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 5, generator=g)
    image = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return 0.4 + 0.06 * image.double()


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 1.0, 1.0), (100.0, -0.002, 0.005)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.241, 80.092, 67.203)),
        ((0.0, 1.0, 0.0), (87.735, -86.183, 83.180)),
        ((0.0, 0.0, 1.0), (32.296, 79.186, -107.857)),
        ((0.485, 0.456, 0.406), (49.261, 0.514, 8.070)),
    ],
)
def test_lab_of_known_colours(rgb, lab):
    got = rgb_to_lab(torch.tensor(rgb).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(got, torch.tensor(lab), atol=1.5e-3, rtol=0)


def test_lab_clips_and_never_carries_a_gradient():
    image = torch.tensor([-0.5, 0.0, 1.7]).view(1, 3, 1, 1).requires_grad_()
    got = rgb_to_lab(image)
    assert not got.requires_grad
    torch.testing.assert_close(got, rgb_to_lab(torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)))


def test_affinity_threshold_is_a_distance_of_2_4079456():
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    for distance, expected in ((2.4079, True), (2.4080, False)):
        lab = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
        lab[0, 1, 0, 2] = distance
        pairs = color_affinity(lab, valid)
        assert pairs.shape == (1, 12, 1, 3)
        assert pairs.sum() == int(expected)


def test_affinity_is_strict():
    # exp(-0.5 * 2) is the threshold itself.
    step = torch.tensor([0.0, 2.0]).expand(1, 3, 1, 2) * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    two = torch.ones(1, 1, 2, dtype=torch.bool)
    assert not color_affinity(step, two, 3, 1, threshold=math.exp(-1)).any()
    assert color_affinity(0.999 * step, two, 3, 1, threshold=math.exp(-1)).sum() == 1
    lab = torch.zeros(1, 3, 3, 3)
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    assert not color_affinity(lab, valid, 3, 1, threshold=1.0).any()
    assert color_affinity(lab + torch.rand(1, 3, 3, 3), valid, 3, 1, threshold=0.0).sum() == 20


@pytest.mark.parametrize(
    ("kernel", "dilation", "count"), [(3, 1, 4), (5, 2, 12), (7, 3, 24), (1, 1, 0)]
)
def test_affinity_equals_brute_force(kernel, dilation, count):
    lab = rgb_to_lab(_photo(2, 9, 7))
    valid = torch.ones(2, 9, 7, dtype=torch.bool)
    valid[0, 6:] = False
    valid[1, :, 5:] = False
    got = color_affinity(lab, valid, kernel, dilation)
    r = kernel // 2
    offsets = [
        (dy * dilation, dx * dilation)
        for dy in range(-r, r + 1)
        for dx in range(-r, r + 1)
        if (dy, dx) > (0, 0)
    ]
    assert got.shape == (2, count, 9, 7) and len(offsets) == count
    assert count == 0 or (got.any() and not got[:, :, :4, :3].all())
    for b in range(2):
        for o, (dy, dx) in enumerate(offsets):
            for y in range(9):
                for x in range(7):
                    y2, x2 = y + dy, x + dx
                    expected = False
                    if 0 <= y2 < 9 and 0 <= x2 < 7 and valid[b, y, x] and valid[b, y2, x2]:
                        distance = (lab[b, :, y, x] - lab[b, :, y2, x2]).norm().item()
                        expected = math.exp(-0.5 * distance) > 0.3
                    assert got[b, o, y, x].item() == expected


def _flat_affinity(height, width):
    lab = rgb_to_lab(torch.full((1, 3, height, width), 0.5))
    return color_affinity(lab, torch.ones(1, height, width, dtype=torch.bool))


def test_uniform_probabilities_on_a_flat_image_give_ln_k():
    loss = color_prior_loss(torch.zeros(1, 4, 11, 9), _flat_affinity(11, 9), 1)
    assert loss.item() == pytest.approx(math.log(4), abs=1e-5)


def test_two_confident_halves():
    affinity = _flat_affinity(6, 8)
    assert affinity.sum() == 228
    logits = torch.zeros(1, 2, 6, 8)
    logits[:, 0, :, :4] = 50
    logits[:, 1, :, 4:] = 50
    loss = color_prior_loss(logits, affinity, 1)
    assert loss.item() == pytest.approx((50 - math.log(2)) * 108 / 228, abs=1e-4)
    assert loss.item() == pytest.approx(23.35588, abs=1e-4)


@pytest.mark.parametrize(("kernel", "dilation"), [(5, 2), (3, 1)])
def test_equals_the_unfolded_form(kernel, dilation):
    torch.manual_seed(1)
    lab = rgb_to_lab(_photo(3, 12, 15))
    valid = torch.ones(3, 12, 15, dtype=torch.bool)
    valid[1, 9:] = False
    valid[2, :, 4:] = False
    affinity = color_affinity(lab, valid, kernel, dilation)
    share = affinity.float().mean()
    assert 0.02 < share < 0.9
    logits = (5 * torch.randn(3, 6, 12, 15, dtype=torch.float64)).requires_grad_()
    want = _naive_loss(logits, lab, valid, 3, kernel, dilation)
    (want_grad,) = torch.autograd.grad(want, logits)
    got = color_prior_loss(logits, affinity, 3, kernel=kernel, dilation=dilation)
    (got_grad,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grad, want_grad)


@pytest.mark.parametrize("gap", [5, 30, 60])
def test_float32_is_exact_to_1e_6_up_to_logit_gaps_of_60(gap):
    torch.manual_seed(2)
    lab = rgb_to_lab(_photo(1, 12, 15))
    valid = torch.ones(1, 12, 15, dtype=torch.bool)
    winner = torch.randint(0, 4, (1, 12, 15))
    logits = gap * F.one_hot(winner, 4).permute(0, 3, 1, 2) + 0.1 * torch.rand(1, 4, 12, 15)
    single = logits.requires_grad_()
    double = logits.detach().double().requires_grad_()  # the very same numbers
    want = _naive_loss(double, lab, valid, 1)
    (want_grad,) = torch.autograd.grad(want, double)
    got = color_prior_loss(single, color_affinity(lab, valid), 1)
    (got_grad,) = torch.autograd.grad(got, single)
    assert want > 0.2 * gap
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)
    scale = want_grad.abs().max()
    torch.testing.assert_close(got_grad.double() / scale, want_grad / scale, rtol=0, atol=1e-6)


def test_saturated_pairs_stay_finite_and_keep_learning():
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 2] = 500.0
    logits.requires_grad_()
    affinity = color_affinity(torch.zeros(1, 3, 1, 3), torch.ones(1, 1, 3, dtype=torch.bool))
    loss = color_prior_loss(logits, affinity, 1)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert logits.grad[0, 0, 0, 0] > 0 and logits.grad[0, 1, 0, 2] > 0


def test_gradcheck():
    torch.manual_seed(3)
    lab = rgb_to_lab(_photo(2, 6, 7))
    valid = torch.ones(2, 6, 7, dtype=torch.bool)
    valid[0, 4:] = False
    affinity = color_affinity(lab, valid)
    assert affinity.any()
    logits = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: color_prior_loss(z, affinity, 2), (logits,))


def test_padding_of_space_and_channels_changes_nothing():
    torch.manual_seed(4)
    image = _photo(1, 8, 9)
    valid = torch.ones(1, 8, 9, dtype=torch.bool)
    logits = torch.randn(1, 3, 8, 9, dtype=torch.float64, requires_grad=True)
    want = color_prior_loss(logits, color_affinity(rgb_to_lab(image), valid), 1)
    (want_grad,) = torch.autograd.grad(want, logits)

    lab = rgb_to_lab(F.pad(image, (0, 7, 0, 5)))
    affinity = color_affinity(lab, F.pad(valid, (0, 7, 0, 5)))
    assert affinity.any()
    padded = F.pad(logits, (0, 7, 0, 5), value=3.0)
    padded = F.pad(padded, (0, 0, 0, 0, 0, 2), value=-math.inf)
    got = color_prior_loss(padded, affinity, 1)
    (got_grad,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grad, want_grad)


def test_image_without_channels_has_no_loss_and_no_nan():
    torch.manual_seed(5)
    affinity = _flat_affinity(6, 8).repeat(2, 1, 1, 1)
    logits = torch.randn(2, 3, 6, 8)
    alone = color_prior_loss(logits[:1], affinity[:1], 2)
    logits[1] = -math.inf
    logits.requires_grad_()
    loss = color_prior_loss(logits, affinity, 2)
    loss.backward()
    torch.testing.assert_close(loss, alone)
    assert logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all() and (logits.grad[0] != 0).any()


def test_one_channel_costs_nothing():
    logits = torch.randn(1, 1, 6, 8, requires_grad=True)
    loss = color_prior_loss(logits, _flat_affinity(6, 8), 1)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_normalisers_and_empty_inputs():
    logits = torch.randn(2, 3, 6, 8, requires_grad=True)
    affinity = _flat_affinity(6, 8).repeat(2, 1, 1, 1)
    whole = color_prior_loss(logits, affinity, 2)
    halves = [color_prior_loss(logits[i : i + 1], affinity[:1], torch.tensor(2.0)) for i in (0, 1)]
    torch.testing.assert_close(whole, sum(halves))
    assert color_prior_loss(logits, affinity, 0) == color_prior_loss(logits, affinity, 1)
    none = color_prior_loss(logits, torch.zeros_like(affinity), 2)
    none.backward()
    assert none.item() == 0 and (logits.grad == 0).all()
    empty = torch.zeros(2, 0, 6, 8, requires_grad=True)
    loss = color_prior_loss(empty, affinity, 2)
    assert loss.item() == 0 and loss.requires_grad


def test_permuting_channels_permutes_the_gradient():
    torch.manual_seed(6)
    order = torch.tensor([2, 0, 3, 1])
    affinity = _flat_affinity(6, 8)
    a = torch.randn(1, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    b = a.detach()[:, order].requires_grad_()
    loss_a, loss_b = color_prior_loss(a, affinity, 1), color_prior_loss(b, affinity, 1)
    loss_a.backward()
    loss_b.backward()
    torch.testing.assert_close(loss_a, loss_b)
    torch.testing.assert_close(a.grad[:, order], b.grad)


def test_half_precision_input_is_computed_in_float32():
    logits = 30 * torch.randn(1, 3, 6, 8)
    low = logits.bfloat16()
    got = color_prior_loss(low, _flat_affinity(6, 8), 1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, color_prior_loss(low.float(), _flat_affinity(6, 8), 1))


def test_wrong_arguments_are_named():
    logits = torch.zeros(1, 2, 6, 8)
    with pytest.raises(ValueError, match="kernel 3"):
        color_prior_loss(logits, _flat_affinity(6, 8), 1, kernel=3)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        color_prior_loss(logits, _flat_affinity(6, 8).float(), 1)
    with pytest.raises(ValueError, match="must be odd"):
        color_affinity(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), kernel=4)
    with pytest.raises(ValueError, match="expected"):
        color_affinity(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 5, dtype=torch.bool))

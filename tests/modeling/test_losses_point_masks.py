"""Masks at labelled cells: the stated cross-entropy, and what goes on where its gradient ends."""

import math

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.losses import point_mask_loss

torch.set_num_threads(1)
EPS = 0.05
OWN = torch.tensor([[True, False, False, False], [False, True, True, False]])
ALL = torch.tensor([[True, True, True, False], [True, True, True, True]])


def _values(*shape, seed=0, low=-2.0, high=3.0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def test_by_hand():
    values = torch.tensor([[[0.8, 0.3, 0.5, 9.0], [0.1, 0.6, 0.9, 0.5]]], dtype=torch.float64)
    got = point_mask_loss(values, OWN, ALL, EPS)
    first = -(math.log(0.8) + math.log(0.7) + math.log(0.5)) / 3
    second = -(math.log(0.9) + math.log(0.6) + math.log(0.9) + math.log(0.5)) / 4
    assert got.shape == (1, 2) and got.dtype == torch.float64
    assert got[0].tolist() == pytest.approx([first, second], abs=1e-12)


def test_values_inside_are_the_cross_entropy_of_the_clamped_relu():
    values = _values(3, 2, 4, low=EPS, high=1 - EPS).requires_grad_()
    own = OWN.expand(3, 2, 4)
    plain = F.binary_cross_entropy(
        values.relu().clamp(EPS, 1 - EPS), own.double(), reduction="none"
    )
    want = (plain * ALL).sum(2) / ALL.sum(1)
    got = point_mask_loss(values, OWN, ALL, EPS)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    mine, theirs = (torch.autograd.grad(x.sum(), values)[0] for x in (got, want))
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_gradient_is_the_loss_s_own():
    values = _values(2, 2, 4).requires_grad_()  # far below 0 and far above 1, too
    assert torch.autograd.gradcheck(lambda v: point_mask_loss(v, OWN, ALL, EPS), values)


@pytest.mark.parametrize(
    ("value", "own", "gradient"),
    [
        (0.0, True, -1 / EPS),  # behind ReLU and clamp: pulled up all the same
        (-7.0, True, -1 / EPS),
        (0.5, True, -2.0),
        (1.0, True, 0.0),
        (4.0, True, 0.0),  # done: not drawn on without end
        (0.0, False, 0.0),
        (-7.0, False, 0.0),
        (0.5, False, 2.0),
        (1.0, False, 1 / EPS),
        (4.0, False, 1 / EPS),  # too large is pulled down
    ],
)
def test_gradient_beyond_the_clamp(value, own, gradient):
    values = torch.tensor([[[value, 0.5]]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[own, True]])
    point_mask_loss(values, labels, torch.ones_like(labels), EPS).sum().backward()
    assert values.grad[0, 0, 0].item() == pytest.approx(gradient / 2)


def test_the_loss_is_convex_and_has_no_step():
    line = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    for own in (True, False):
        labels = torch.tensor([[own, True]]).expand(1, 2)
        cells = torch.stack([line, torch.ones_like(line)], 1)[:, None]
        loss = point_mask_loss(cells, labels, torch.ones_like(labels), EPS)[:, 0] * 2
        slope = loss.diff() / 1e-3
        assert (slope.diff() >= -1e-9).all()
        assert slope.abs().max() <= 1 / EPS * (1 + 1e-9)


def test_masks_that_begin_as_all_zero_learn():
    """A mask below zero everywhere is zero behind its ReLU: the stated loss would never move it."""
    values = torch.full((1, 2, 4), -1.0, requires_grad=True)
    stated = values.relu().clamp(EPS, 1 - EPS)[0, OWN].log().sum()
    assert (torch.autograd.grad(stated, values)[0] == 0).all()
    optimizer = torch.optim.SGD([values], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        point_mask_loss(values, OWN, ALL, EPS).sum().backward()
        optimizer.step()
    assert (values[0][OWN] > 0.5).all() and (values[0][~OWN] < 0.5).all()


@pytest.mark.parametrize("junk", [1e6, -1e6, math.inf, -math.inf, math.nan])
def test_cells_that_do_not_count_have_no_influence(junk):
    values = _values(2, 2, 4)
    want = point_mask_loss(values, OWN, ALL, EPS)
    values = values.masked_fill(~ALL, junk).requires_grad_()
    # A label where nothing counts is none.
    got = point_mask_loss(values, OWN | ~ALL, ALL, EPS)
    assert torch.equal(got, want)
    got.sum().backward()
    assert values.grad.isfinite().all() and (values.grad[:, ~ALL] == 0).all()


def test_a_mask_without_own_cells_is_not_taught_to_be_empty():
    values = _values(2, 2, 4).requires_grad_()
    own = OWN.clone()
    own[0] = False
    got = point_mask_loss(values, own, ALL, EPS)
    got.sum().backward()
    assert (got[:, 0] == 0).all() and (got[:, 1] > 0).all()
    assert (values.grad[:, 0] == 0).all() and (values.grad[:, 1] != 0).any()


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0), (0, 2, 3)])
def test_nothing_to_learn_from(shape):
    values = torch.randn(shape, requires_grad=True)
    none = torch.zeros(shape[1:], dtype=torch.bool)
    got = point_mask_loss(values, none, none)
    assert got.shape == shape[:2] and (got == 0).all()
    got.sum().backward()
    assert values.grad is not None and (values.grad == 0).all()


def test_half_precision_is_computed_in_full():
    values = _values(2, 2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = point_mask_loss(values, OWN, ALL, EPS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, point_mask_loss(values.float(), OWN, ALL, EPS))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 3\).*\(2, 4\).*expected \(layers, R, M\)"):
        point_mask_loss(torch.zeros(2, 2, 3), OWN, ALL)
    for eps in (0.0, 0.5, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"eps is .*; expected a number between 0 and 1/2"):
            point_mask_loss(torch.zeros(2, 2, 4), OWN, ALL, eps)

"""Cross-entropy against what a cell is known not to be."""

import pytest
import torch

from fdd.modeling.losses.exclusion import exclusion_loss

torch.set_num_threads(1)


def _toy(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    return logits, torch.rand(2, 4, 5, 6, generator=generator) < 0.3


def test_is_the_logarithm_of_what_is_left():
    logits, excluded = _toy()
    excluded[0, :, 0, 0] = True
    left = (logits.softmax(1) * ~excluded).sum(1)
    left[0, 0, 0] = 1
    torch.testing.assert_close(exclusion_loss(logits, excluded, 7.0), -left.log().sum() / 7)


def test_the_gradient_takes_from_what_is_excluded():
    logits, excluded = _toy()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: exclusion_loss(z, excluded, 3.0), logits)
    exclusion_loss(logits, excluded, 3.0).backward()
    some = excluded & ~excluded.all(1, keepdim=True)
    assert (logits.grad[some] > 0).all()
    assert (logits.grad[~excluded & ~excluded.all(1, keepdim=True)] <= 0).all()


def test_padded_channels_change_nothing():
    logits, excluded = _toy()
    more = torch.cat([logits, torch.full_like(logits[:, :2], -torch.inf)], 1).requires_grad_()
    wider = torch.cat([excluded, torch.zeros_like(excluded[:, :2])], 1)
    loss = exclusion_loss(more, wider, 5.0)
    torch.testing.assert_close(loss, exclusion_loss(logits, excluded, 5.0))
    loss.backward()
    assert more.grad.isfinite().all() and (more.grad[:, 4:] == 0).all()


@pytest.mark.parametrize("fill", [False, True])
def test_where_nothing_or_all_is_excluded_it_says_nothing(fill):
    logits, excluded = _toy()
    logits.requires_grad_()
    loss = exclusion_loss(logits, torch.full_like(excluded, fill), 0.0)
    assert loss == 0
    loss.backward()
    assert logits.grad is not None and (logits.grad.abs() < 1e-12).all()

"""Dropout: rate, scale, gradients, and what it keeps."""

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.layers import Dropout, FeedForward
from fdd.modeling.layers.transformer import keep_mask

torch.set_num_threads(1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for(rate):
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1000, 1001), rate)
    assert mask.dtype == torch.bool and mask.shape == (1000, 1001)
    deviation = (rate * (1 - rate) / mask.numel()) ** 0.5
    assert abs(mask.float().mean().item() - (1 - rate)) < 5 * deviation + 2**-17
    # Neighbours, which come out of one draw, are independent of each other.
    flat = ~mask.flatten()[:1_000_000].view(-1, 4)
    for a in range(4):
        for b in range(a):
            both = (flat[:, a] & flat[:, b]).float().mean().item()
            assert both == pytest.approx(rate * rate, abs=0.005)


def test_draws_follow_the_seed():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(keep_mask(torch.empty(50, 3), 0.5))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_values_and_gradients():
    torch.manual_seed(0)
    x = torch.randn(40, 30, requires_grad=True)
    y = Dropout(0.2).train()(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / 0.8)
    y.backward(torch.full_like(y, 3.0))
    torch.testing.assert_close(x.grad, kept * 3.0 / 0.8)


def test_after_a_relu():
    torch.manual_seed(0)
    x = torch.randn(200, 30, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = Dropout(0.2).train().after_relu(x)
    assert len(saved) == 1 and saved[0].data_ptr() == y.data_ptr(), "only the result is kept"
    kept = y > 0
    assert (x[kept] > 0).all() and 0.7 < kept.sum() / (x > 0).sum() < 0.9
    torch.testing.assert_close(y[kept], x[kept] / 0.8)
    y.backward(torch.full_like(y, 3.0))
    torch.testing.assert_close(x.grad, kept * 3.0 / 0.8)


def test_nothing_is_dropped_outside_training_or_at_rate_0():
    x = torch.randn(9, 9)
    for dropout in (Dropout(0.5).eval(), Dropout(0.0).train()):
        assert torch.equal(dropout(x), x) and torch.equal(dropout.after_relu(x), F.relu(x))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_make_no_sense(rate):
    with pytest.raises(ValueError, match="0 <= p < 1"):
        Dropout(rate)


def test_feed_forward_keeps_one_hidden_map():
    ffn = FeedForward(dim=4, hidden=64, dropout=0.1).train()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.data_ptr(), t) is None or t, lambda t: t
    ):
        out = ffn(torch.randn(50, 4, requires_grad=True))
    assert sum(t.numel() == 50 * 64 for t in kept.values()) == 1
    out.sum().backward()

"""Partial and self-training cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.losses import partial_cross_entropy, self_training_ce

torch.set_num_threads(1)
LOSSES = [partial_cross_entropy, self_training_ce]


def _sample(seed=0, batch=2, channels=4, height=5, width=6):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, channels, height, width, generator=g, dtype=torch.float64) * 3
    labels = torch.randint(-1, channels, (batch, height, width), generator=g)
    return logits.requires_grad_(), labels


def _by_hand(logits, labels):
    total = torch.zeros((), dtype=torch.float64)
    for b, y, x in (labels >= 0).nonzero().tolist():
        z = logits[b, :, y, x]
        total = total + z.exp().sum().log() - z[labels[b, y, x]]
    return total


@pytest.mark.parametrize("loss_fn", LOSSES)
@pytest.mark.parametrize("label_dtype", [torch.int32, torch.int64])
def test_equals_the_definition(loss_fn, label_dtype):
    logits, labels = _sample()
    want = _by_hand(logits, labels) / 7
    (want_grad,) = torch.autograd.grad(want, logits)
    for normalizer in (7, 7.0, torch.tensor(7), torch.tensor([7.0])):
        got = loss_fn(logits, labels.to(label_dtype), normalizer)
        assert got.dim() == 0
        torch.testing.assert_close(got, want)
        (got_grad,) = torch.autograd.grad(got, logits)
        torch.testing.assert_close(got_grad, want_grad)


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_gradcheck(loss_fn):
    logits, labels = _sample(1, height=3, width=3)
    assert torch.autograd.gradcheck(lambda z: loss_fn(z, labels, 5), (logits,))


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_uniform_probabilities_give_ln_k(loss_fn):
    labels = torch.randint(0, 7, (2, 4, 4))
    loss = loss_fn(torch.zeros(2, 7, 4, 4), labels, labels.numel())
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)


def test_self_training_equals_logsumexp_minus_max_on_the_own_argmax():
    logits, _ = _sample(2)
    loss = self_training_ce(logits, logits.argmax(1), 60)
    torch.testing.assert_close(loss, (logits.logsumexp(1) - logits.amax(1)).mean())


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_nothing_labelled_is_an_exact_zero_on_the_graph(loss_fn):
    logits, labels = _sample(3)
    logits = F.pad(logits.detach(), (0, 0, 0, 0, 0, 2), value=-math.inf).requires_grad_()
    loss = loss_fn(logits, torch.full_like(labels, -1), 0)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_no_channel_at_all(loss_fn):
    weight = torch.ones(1, requires_grad=True)
    logits = torch.zeros(2, 0, 3, 3) * weight
    loss = loss_fn(logits, torch.full((2, 3, 3), -1), 0)
    loss.backward()
    assert loss.item() == 0 and weight.grad.item() == 0


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_padding_of_space_and_channels_changes_nothing(loss_fn):
    logits, labels = _sample(4)
    want = loss_fn(logits, labels, 11)
    (want_grad,) = torch.autograd.grad(want, logits)
    padded = F.pad(F.pad(logits, (0, 3, 0, 2), value=9.0), (0, 0, 0, 0, 0, 3), value=-math.inf)
    got = loss_fn(padded, F.pad(labels, (0, 3, 0, 2), value=-1), 11)
    (got_grad,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grad, want_grad)


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_image_of_padded_channels_only_is_harmless(loss_fn):
    logits, labels = _sample(5)
    logits = logits.detach()
    logits[1] = -math.inf
    labels[1] = -1
    logits.requires_grad_()
    loss = loss_fn(logits, labels, 3)
    loss.backward()
    torch.testing.assert_close(loss, loss_fn(logits[:1], labels[:1], 3))
    assert logits.grad.isfinite().all() and (logits.grad[1] == 0).all()


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_permuting_instances_changes_nothing(loss_fn):
    logits, labels = _sample(6)
    order = torch.tensor([3, 1, 0, 2])
    renamed = torch.where(labels >= 0, order.argsort()[labels.clamp(min=0)], -1)
    torch.testing.assert_close(loss_fn(logits[:, order], renamed, 5), loss_fn(logits, labels, 5))


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_one_instance_costs_nothing(loss_fn):
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = loss_fn(logits, torch.zeros(1, 4, 4, dtype=torch.int32), 16)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_accumulated_halves_equal_one_batch(loss_fn):
    logits, labels = _sample(7)
    count = torch.tensor(float((labels >= 0).sum()))
    halves = sum(loss_fn(logits[i : i + 1], labels[i : i + 1], count) for i in range(2))
    torch.testing.assert_close(halves, loss_fn(logits, labels, count))


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_half_precision_input_is_computed_in_float32(loss_fn):
    logits, labels = _sample(8)
    low = (logits.detach() * 10).half()
    got = loss_fn(low, labels, 1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, loss_fn(low.float(), labels, 1))


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_more_than_254_instances(loss_fn):
    labels = torch.full((1, 2, 2), -1, dtype=torch.int32)
    labels[0, 0, 0] = 299
    logits = torch.zeros(1, 300, 2, 2)
    logits[0, 299] = 4
    want = math.log(299 + math.exp(4)) - 4
    assert loss_fn(logits, labels, 1).item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_wrong_label_maps_are_named(loss_fn):
    with pytest.raises(ValueError, match=r"expected an integer map of shape \(1, 3, 4\)"):
        loss_fn(torch.zeros(1, 2, 3, 4), torch.zeros(1, 4, 4, dtype=torch.long), 1)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        loss_fn(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4), 1)

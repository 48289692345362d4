"""Agreement of the instances' class totals with the semantic branch."""

import math

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.losses import class_agreement_loss, class_distribution, present_classes

torch.set_num_threads(1)
CLASSES = torch.tensor([[2, 0, 2, -1], [1, -1, -1, -1]])


def _sample(seed=0, classes=CLASSES, num_classes=4, height=3, width=4):
    g = torch.Generator().manual_seed(seed)
    size = (len(classes), height, width)
    logits = torch.randn(size[0], classes.shape[1], *size[1:], generator=g, dtype=torch.float64)
    logits = (3 * logits).masked_fill((classes < 0)[:, :, None, None], -math.inf)
    semantic = torch.randn(size[0], num_classes, *size[1:], generator=g, dtype=torch.float64)
    keep = torch.rand(size, generator=g) < 0.7
    return logits.requires_grad_(), class_distribution(2 * semantic, classes), keep


def _by_hand(logits, classes, target, keep):
    total = torch.zeros((), dtype=torch.float64)
    for b, y, x in keep.nonzero().tolist():
        real = [n for n in range(logits.shape[1]) if classes[b, n] >= 0]
        weight = {n: logits[b, n, y, x].exp() for n in real}
        for c in {int(classes[b, n]) for n in real}:
            share = sum(weight[n] for n in real if classes[b, n] == c) / sum(weight.values())
            total = total - target[b, c, y, x] * share.log()
    return total


def test_equals_the_definition():
    logits, target, keep = _sample()
    want = _by_hand(logits, CLASSES, target, keep) / 9
    for normalizer in (9, torch.tensor([9.0])):
        got = class_agreement_loss(logits, CLASSES, target, keep, normalizer)
        torch.testing.assert_close(got, want)
    (want_grad,) = torch.autograd.grad(want, logits)
    (got_grad,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(got_grad, want_grad)


def test_gradcheck():
    classes = torch.tensor([[0, 1, 1]])
    logits, target, keep = _sample(1, classes)
    assert torch.autograd.gradcheck(
        lambda z: class_agreement_loss(z, classes, target, keep, 5), (logits,)
    )


def test_says_nothing_of_which_instance_of_a_class():
    """Swapping the maps of two instances of a class changes nothing, of two classes it does."""
    logits, target, keep = _sample(2)
    loss = class_agreement_loss(logits, CLASSES, target, keep, 1)
    same = class_agreement_loss(logits[:, [2, 1, 0, 3]][:1], CLASSES[:1], target[:1], keep[:1], 1)
    other = class_agreement_loss(logits[:, [1, 0, 2, 3]][:1], CLASSES[:1], target[:1], keep[:1], 1)
    first = class_agreement_loss(logits[:1], CLASSES[:1], target[:1], keep[:1], 1)
    torch.testing.assert_close(same, first)
    assert (other - first).abs() > 0.1
    assert loss >= first


def test_is_least_where_the_totals_are_the_target():
    """Then it is the target's entropy, and nothing pulls."""
    classes = torch.tensor([[0, 2, 3]])
    _, target, keep = _sample(3, classes)
    logits = target[:, [0, 2, 3]].log().requires_grad_()
    loss = class_agreement_loss(logits, classes, target, keep, 1)
    torch.testing.assert_close(loss, (torch.special.entr(target).sum(1) * keep).sum())
    loss.backward()
    assert logits.grad.abs().max() < 1e-12


def test_padding_and_cells_left_out_have_no_influence():
    logits, target, keep = _sample(4)
    loss = class_agreement_loss(logits, CLASSES, target, keep, 1)
    loss.backward()
    assert (logits.grad[CLASSES < 0] == 0).all()
    assert (logits.grad.movedim(1, -1)[~keep] == 0).all()
    wider = F.pad(logits.detach(), (0, 0, 0, 0, 0, 2), value=-math.inf)
    more = F.pad(CLASSES, (0, 2), value=-1)
    torch.testing.assert_close(class_agreement_loss(wider, more, target, keep, 1), loss.detach())


def test_hopeless_instances_are_finite_and_still_pulled():
    """Where all of a class's instances are sure to be wrong, in float32."""
    classes = torch.tensor([[0, 1]])
    logits = torch.tensor([[50.0, 0.0]]).view(1, 2, 1, 1).requires_grad_()
    target = torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1)
    loss = class_agreement_loss(logits, classes, target, torch.ones(1, 1, 1, dtype=torch.bool), 1)
    loss.backward()
    assert loss.item() == pytest.approx(50, rel=1e-4)
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("count", [0, 3])
def test_without_instances_it_is_an_attached_zero(count):
    classes = torch.full((2, count), -1)
    logits = torch.zeros(2, count, 3, 4, requires_grad=True)
    target = class_distribution(torch.randn(2, 4, 3, 4), classes)
    keep = torch.zeros(2, 3, 4, dtype=torch.bool)
    loss = class_agreement_loss(logits, classes, target, keep, 0)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_the_distribution_is_over_the_classes_of_the_image():
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    got = class_distribution(logits, CLASSES)
    torch.testing.assert_close(got[0, [0, 2]], logits[0, [0, 2]].softmax(0))
    assert (got[0, [1, 3]] == 0).all()
    assert (got[1, 1] == 1).all()
    want = [[True, False, True, False], [False, True, False, False]]
    assert present_classes(CLASSES, 4).tolist() == want
    none = class_distribution(logits, torch.full((2, 2), -1))
    torch.testing.assert_close(none, logits.softmax(1))

"""Labels are corrected for what segments have of the area."""

import numpy as np
import pytest
import torch

from fdd.modeling.pseudo_labels.shares import share_offsets
from fdd.modeling.structures import batch_points
from modeling_toys import permuted, small_model, toy_input

torch.set_num_threads(1)
NUM_THINGS = 3


def _offsets(logits, classes, number, held=None, valid=None):
    logits, classes = torch.as_tensor(logits)[None], torch.tensor(classes)[None]
    held = (
        torch.zeros(classes.shape, dtype=torch.bool) if held is None else torch.tensor(held)[None]
    )
    valid = torch.ones(1, *logits.shape[2:], dtype=torch.bool) if valid is None else valid[None]
    return share_offsets(
        logits.float(), classes, torch.tensor(number)[None], held, valid, NUM_THINGS
    )[0]


def _logits(n=4, height=9, width=12, seed=0):
    return torch.randn(n, height, width, generator=torch.Generator().manual_seed(seed)) * 2


def test_the_shares_of_known_distributions_are_found():
    """Places of two kinds of segments, seen by a signal of which the branch knows the densities,
    but for which it expects as many of one as of the other."""
    rng = np.random.default_rng(0)
    truth = rng.random((200, 200)) < 0.1
    signal = rng.normal(np.where(truth, 1.0, -1.0))
    logits = torch.from_numpy(np.stack([signal, -signal]))  # log-densities, up to a constant
    offset = _offsets(logits, [0, 4], [1, 1])
    odds = float(offset[0] - offset[1])
    assert odds == pytest.approx(np.log(0.1 / 0.9), abs=0.1)
    wrong = (logits.argmax(0).numpy() == truth).mean()
    corrected = ((logits + offset[:, None, None]).argmax(0).numpy() == truth).mean()
    assert corrected < 0.75 * wrong


def test_it_is_the_fixed_point_of_its_equation():
    logits, number = 3 * _logits().double(), np.array([1, 1, 5, 5])
    offset = _offsets(logits, [0, 1, 3, 4], number.tolist()).double()
    share = (logits + offset[:, None, None]).softmax(0).mean((1, 2))
    want = share.log() - torch.from_numpy(np.log(number))
    difference = want - offset
    torch.testing.assert_close(difference, difference[:1].expand(4), atol=5e-2, rtol=0)


def test_only_how_many_points_things_and_stuff_have_counts():
    logits = _logits()
    same = _offsets(logits, [0, 1, 3, 4], [2, 2, 5, 5])
    torch.testing.assert_close(_offsets(logits, [0, 1, 3, 4], [1, 3, 9, 1]), same)
    assert (_offsets(logits, [0, 1, 3, 4], [1, 1, 5, 5]) - same).abs().max() > 0.05
    # A constant in a cell is nobody's.
    torch.testing.assert_close(_offsets(logits + 40 * logits[:1], [0, 1, 3, 4], [2, 2, 5, 5]), same)


def test_things_of_a_class_share_evenly():
    offset = _offsets(3 * _logits(), [1, 1, 2, 4], [1, 1, 1, 5])
    assert offset[0] == offset[1] and offset[0] != offset[2]


def _stuff_share(logits, offset, first):
    return float((logits + offset[:, None, None]).softmax(0).mean((1, 2))[first:].sum())


def test_what_is_held_keeps_its_odds_against_the_stuff_as_a_whole():
    logits = 3 * _logits(6, seed=3) + torch.tensor([0.0, 0, 0, 2, 0, -1])[:, None, None]
    held = [True, True, False, False, False, False]
    offset = _offsets(logits, [0, 0, 1, 3, 4, 5], [9] * 6, held=held)
    assert (offset[:2] == 0).all() and offset[2:].abs().max() > 0.1
    before = _stuff_share(logits, torch.zeros(6), 3)
    assert _stuff_share(logits, offset, 3) == pytest.approx(before, abs=0.01)
    alone = _offsets(logits[:2], [0, 1], [9, 9], held=[True, True])
    assert (alone == 0).all()


def test_a_thing_beside_held_ones_of_its_class_is_left_alone():
    offset = _offsets(_logits(), [0, 0, 1, 4], [10, 1, 1, 10], held=[True, False, False, False])
    assert offset[0] == offset[1] == 0 and offset[2] != 0


def test_logits_that_say_too_little_leave_the_stuff_its_cells():
    owner = torch.full((20, 20), 10)
    for n in range(10):
        owner[n // 5 * 10 + 2 : n // 5 * 10 + 5, n % 5 * 4 : n % 5 * 4 + 2] = n
    masks = torch.stack([owner == n for n in range(11)]).float()
    noise = torch.randn(masks.shape, generator=torch.Generator().manual_seed(0))
    classes, number = [0] * 10 + [4], [1] * 10 + [5]
    for gain in (0.5, 1, 2, 4, 8):
        logits = gain * masks + noise
        offset = _offsets(logits, classes, number)
        before, after = (
            ((logits + o[:, None, None]).argmax(0) == 10).sum() for o in (torch.zeros(11), offset)
        )
        assert after >= before / 2
    assert offset.abs().max() > 1


def test_no_share_is_below_a_cell():
    logits = torch.zeros(2, 10, 10)
    logits[0] = -60
    offset = _offsets(logits, [0, 4], [1, 1])
    assert float(offset[1] - offset[0]) == pytest.approx(np.log(100), abs=0.1)


def test_padding_and_order_change_nothing():
    logits, classes, number = _logits(), [0, 1, 3, 4], [1, 1, 5, 5]
    alone = _offsets(logits, classes, number)
    wide = torch.full((6, 12, 20), 7.0)
    wide[:4, :9, :12] = logits
    wide[4:] = -torch.inf
    valid = torch.zeros(12, 20, dtype=torch.bool)
    valid[:9, :12] = True
    padded = _offsets(wide, [*classes, -1, -1], [*number, 0, 0], valid=valid)
    torch.testing.assert_close(padded[:4], alone, rtol=1e-4, atol=1e-5)
    assert (padded[4:] == 0).all()
    order = [2, 0, 3, 1]
    turned = _offsets(logits[order], [classes[i] for i in order], [number[i] for i in order])
    torch.testing.assert_close(turned, alone[order], rtol=1e-4, atol=1e-5)


def test_images_without_instances_or_stuff():
    assert (_offsets(torch.zeros(2, 4, 4), [-1, -1], [0, 0]) == 0).all()
    assert torch.isfinite(_offsets(_logits(2), [0, 1], [1, 1])).all()
    assert torch.isfinite(_offsets(_logits(2), [3, 4], [0, 5])).all()


def test_labels_have_it_and_the_joint_training_has_not():
    batch = [
        toy_input(64, 96, [0, 0, 2, 3]),
        toy_input(60, 44, [1, 4], seed=1),
        toy_input(24, 32, []),
    ]
    plain, shares = (small_model({"PSEUDO.SHARES": value}).eval() for value in (False, True))

    def outputs(model, how):
        images = model.preprocess(batch)
        points = batch_points(batch, tuple(images.tensor.shape[-2:]), model.device)
        return getattr(model, how)(model.encode(images), points).instance

    for a, b in zip(outputs(plain, "estimate"), outputs(shares, "estimate"), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    [before], [after] = outputs(plain, "estimate_final"), outputs(shares, "estimate_final")
    offset = (after - before)[:2, :, 0, 0].nan_to_num()
    assert offset[0].abs().max() > 0.01 and (before.isinf() == after.isinf()).all()
    torch.testing.assert_close(
        (after - before)[0].nan_to_num(),
        offset[0][:, None, None].expand_as(before[0]),
        atol=1e-5,
        rtol=0,
    )
    labels = [m.estimate_labels(batch)[0]["pseudo_labels"]["learned"] for m in (plain, shares)]
    assert (labels[0] != labels[1]).any()


def test_the_order_of_the_instances_does_not_matter():
    model = small_model({"PSEUDO.SHARES": True}).eval()
    x, order = toy_input(64, 64, [0, 3, 1, 0]), [2, 0, 3, 1]
    first, second = (
        model.estimate_labels([y])[0]["pseudo_labels"]["learned"] for y in (x, permuted(x, order))
    )
    assert (torch.tensor(order)[second.long()] == first).float().mean() > 0.99


def _of_batch(batch, changes, autocast=False):
    model = small_model(changes).eval()
    images = model.preprocess(batch)
    points = batch_points(batch, tuple(images.tensor.shape[-2:]), model.device)
    memory = model.encode(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        final, [plain] = (
            f(memory, points) for f in (model.estimate_final, lambda m, p: _last(model, m, p))
        )
    return final, plain


def _last(model, memory, points):
    return model.estimate(memory, points, last_only=True).instance


def test_a_neighbour_with_other_numbers_of_points_changes_nothing():
    x, other = (
        toy_input(64, 64, [0, 1, 3], points=2),
        toy_input(64, 64, [2, 4, 3], points=9, seed=1),
    )
    x |= {
        k: x[k][torch.arange(len(x["point_index"])) != 0] for k in ("point_coords", "point_index")
    }
    changes = {"PSEUDO.SHARES": True}
    alone, _ = _of_batch([x], changes)
    for batch, place in (([x, other], 0), ([other, x], 1)):
        beside, _ = _of_batch(batch, changes)
        torch.testing.assert_close(
            beside.instance[-1][place], alone.instance[-1][0], rtol=1e-4, atol=1e-4
        )


def test_things_with_extents_keep_their_logits_and_stuff_with_points_does_not():
    changes = {
        "PSEUDO.SHARES": True,
        "LOCATION_PRIOR.ENABLED": True,
        "LOCATION_PRIOR.EXTENT": True,
    }
    final, plain = _of_batch([toy_input(64, 96, [0, 2, 3, 4], points=6)], changes)
    assert final.extents.extents.known[0].all()
    torch.testing.assert_close(final.instance[-1][0, :2], plain[0, :2], rtol=0, atol=0)
    assert (final.instance[-1][0, 2:] - plain[0, 2:]).abs().amin((1, 2)).min() > 1e-3


def test_half_precision_sums_in_full():
    batch = [toy_input(64, 96, [0, 2, 3, 4])]
    half, _ = _of_batch(batch, {"PSEUDO.SHARES": True}, autocast=True)
    full, _ = _of_batch(batch, {"PSEUDO.SHARES": True})
    assert half.instance[-1].isfinite().all()
    torch.testing.assert_close(half.instance[-1].float(), full.instance[-1], atol=0.3, rtol=0.1)

"""Sizes of things by class: measured, expected of others, and what they do to labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fdd.modeling.extents import ClassedImage, fit_extents, measure_record
from fdd.modeling.structures import batch_points
from fdd.modeling.thing_sizes import (
    ThingSizes,
    expected_sizes,
    log_range_bias,
    log_range_variance,
)
from modeling_toys import permuted, small_model, toy_input

torch.set_num_threads(1)
EXTENT = {"LOCATION_PRIOR.ENABLED": True, "LOCATION_PRIOR.EXTENT": True}
SIZES = EXTENT | {"LOCATION_PRIOR.SIZES": True}


def _record(rng, sizes, points, classes, side=400):
    """A dataset dict of things that are boxes of the given half sides (K, 2)."""
    things = []
    for half, c in zip(sizes, classes, strict=True):
        middle = rng.uniform(100, side - 100, 2)
        coords = rng.uniform(middle - half, middle + half, (points, 2))
        things.append({"category_id": int(c), "isthing": True, "coords": coords.tolist()})
    return {"height": side, "width": side, "points": things}


def _table(mean, variance=0.3, count=50):
    mean = np.atleast_2d(np.asarray(mean, float))
    return ThingSizes(mean, np.full_like(mean, variance), np.full(len(mean), count))


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_the_logarithm_of_a_range(k):
    draws = np.log(np.ptp(np.random.default_rng(0).random((200_000, k)), axis=1))
    assert draws.mean() == pytest.approx(-log_range_bias(np.array(k)), abs=0.01)
    assert draws.var() == pytest.approx(log_range_variance(np.array(k)), rel=0.05)


@pytest.mark.parametrize(("k", "off"), [(3, 0.2), (10, 0.06)])
def test_sizes_of_a_class_are_measured(k, off):
    rng = np.random.default_rng(1)
    spread = np.array([0.4, 0.3])
    records = []
    for _ in range(300):
        sizes = np.exp(np.log([20.0, 8.0]) + spread * rng.standard_normal((4, 2)))
        records.append(_record(rng, sizes, k, [1, 1, 1, 1]))
    sizes = ThingSizes.of([measure_record(r, 2) for r in records], 2)
    share = np.log(np.array([20.0, 8.0]) / np.hypot(400, 400))
    np.testing.assert_allclose(sizes.mean[1], share, atol=off)
    np.testing.assert_allclose(sizes.variance[1], np.maximum(spread**2, 0.05), atol=0.06)
    assert sizes.count[0] == 0 and 1000 < sizes.count[1] <= 1200  # but for points on a line
    kept = ThingSizes.from_table(sizes.as_table())
    np.testing.assert_allclose(kept.mean, sizes.mean, rtol=1e-6)


def test_a_stray_click_does_not_move_a_class():
    rng = np.random.default_rng(2)
    records = [_record(rng, np.full((5, 2), 10.0), 5, [0] * 5) for _ in range(20)]
    before = ThingSizes.of([measure_record(r, 1) for r in records], 1)
    records[0]["points"][0]["coords"].append([399.0, 399.0])
    after = ThingSizes.of([measure_record(r, 1) for r in records], 1)
    np.testing.assert_allclose(after.mean, before.mean, atol=0.05)


def test_stuff_few_points_and_points_on_a_line_are_not_measured():
    line = [[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]]
    segments = [
        {"category_id": 0, "isthing": True, "coords": coords}
        for coords in (line, line[:2], line[:1], [])
    ]
    segments.append({"category_id": 1, "isthing": False, "coords": [[1, 1], [50, 2], [9, 70]]})
    classes, number, size = measure_record({"height": 99, "width": 99, "points": segments}, 1)
    assert len(classes) == len(number) == len(size) == 0
    assert measure_record({"height": 9, "width": 9}, 1)[0].shape == (0,)


def test_of_a_thing_others_of_its_class_are_expected_and_not_itself():
    measured = np.log(np.array([[10.0, 10], [12, 12], [40, 40], [0.1, 0.1]]))
    number, known = np.array([10, 10, 10, 1]), np.array([True, True, True, False])
    classes = np.array([0, 0, 1, 0])
    arguments = number, known, classes, ThingSizes.unknown(3), 100.0
    mean, variance = expected_sizes(measured, *arguments)
    np.testing.assert_allclose(mean[0], measured[1])
    np.testing.assert_allclose(mean[1], measured[0])
    np.testing.assert_allclose(mean[3], measured[:2].mean(0))
    assert np.isinf(variance[2]).all() and np.isfinite(variance[[0, 1, 3]]).all()
    measured[0] += 1
    moved, _ = expected_sizes(measured, *arguments)
    np.testing.assert_allclose(moved[0], mean[0])
    np.testing.assert_allclose(moved[1], mean[1] + 1)


def test_the_training_set_and_the_image_count_together():
    sizes = _table([np.log(0.1)] * 2, variance=0.2)
    measured = np.log(np.full((41, 2), 30.0))
    number, known = np.full(41, 10), np.ones(41, bool)
    known[0] = False
    for others, nearer in ((0, 10.0), (40, 30.0)):
        chosen = np.arange(41) <= others
        classes = np.where(chosen, 0, 5)
        mean, variance = expected_sizes(measured, number, known, classes, sizes, 100.0)
        assert abs(mean[0, 0] - np.log(nearer)) < 0.05
        assert np.isinf(variance[~chosen]).all()
    # More is known with more things, and never more than how much the class varies.
    assert 0.2 < variance[0, 0] < 0.22


def test_one_point_has_the_extent_of_its_class_and_many_have_their_own():
    rng = np.random.default_rng(3)
    image = ClassedImage(np.array([0]), 100.0)
    sizes = _table([np.log(0.2), np.log(0.1)])
    points = rng.uniform((40, 40), (50, 80), (200, 2))
    reach = []
    for k in (1, 3, 10, 200):
        some = points[:k], np.zeros(k, int)
        found = fit_extents([some], 1, "cpu", images=[image], sizes=sizes)[0]
        assert found.known.item()
        reach.append(found.reach[0].tolist())
        inside = found.own_distance(*torch.from_numpy(points[None, :k]).float().unbind(-1))
        assert k == 1 or inside.mean() < 1.2
    np.testing.assert_allclose(reach[0], [20, 10], rtol=1e-4)
    np.testing.assert_allclose(reach[-1], [5, 20], rtol=0.1)
    own = fit_extents([(points, np.zeros(200, int))], 1, "cpu")[0]
    np.testing.assert_allclose(reach[-1], own.reach[0], rtol=0.02)
    assert abs(np.log(reach[1][0] / 5)) < abs(np.log(20 / 5))


def test_sureness_grows_with_the_points():
    rng = np.random.default_rng(4)
    image = ClassedImage(np.array([0]), 100.0)
    sure = []
    for k in (1, 2, 3, 5, 10):
        points = rng.uniform(0, 50, (k, 2)), np.zeros(k, int)
        found = fit_extents([points], 1, "cpu", images=[image], sizes=_table([np.log(0.2)] * 2))
        sure.append(found[0].sureness.item())
    assert sure == sorted(sure) and 0.02 < sure[0] < 0.3 and 0.95 < sure[-1] < 1.2


def test_extents_grow_with_the_image():
    rng = np.random.default_rng(5)
    coords, index = rng.uniform(0, 60, (9, 2)), np.array([0, 0, 0, 0, 1, 1, 2, 3, 3])
    classes, sizes = np.array([0, 0, 0, 2]), _table([[-2.0, -1.5], [-1, -1]])
    small, large = (
        fit_extents(
            [(s * coords, index)], 4, "cpu", images=[ClassedImage(classes, s * 80.0)], sizes=sizes
        )
        for s in (4.0, 8.0)
    )
    torch.testing.assert_close(small.known, large.known)
    assert small.known[0].tolist() == [True, True, True, False]  # nothing is known of stuff
    torch.testing.assert_close(small.reach[:, :3] * 2, large.reach[:, :3], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(small.sureness, large.sureness)


def _output(model, batch):
    images = model.preprocess(batch)
    points = batch_points(batch, tuple(images.tensor.shape[-2:]), model.device)
    return model.estimate(model.encode(images), points)


def _one_point_each(x):
    index = x["point_index"]
    first = torch.tensor([int((index == n).nonzero()[0]) for n in range(len(x["classes"]))])
    return x | {k: x[k][first] for k in ("point_coords", "point_index")}


def _sized(changes=SIZES, size=-2.0):
    model = small_model(changes).eval()
    prior = model.label_branch.location_prior
    prior.set_sizes(_table([[size, size]] * len(prior.slope)))
    return model


def test_one_point_makes_a_label_as_large_as_the_class():
    x = _one_point_each(toy_input(96, 96, [0, 3], points=4))
    areas = []
    for size in (-3.0, -2.0, -1.2):
        logits = _output(_sized(size=size), [x]).prior[0, 0]
        areas.append(int((logits > 0).sum()))
    assert areas[0] < areas[1] < areas[2]


def test_order_padding_and_neighbours_change_nothing():
    x, order = toy_input(64, 64, [0, 3, 1, 0], points=5), [2, 0, 3, 1]
    model = _sized()
    first = _output(model, [x]).prior
    torch.testing.assert_close(
        first[:, order], _output(model, [permuted(x, order)]).prior, rtol=1e-4, atol=1e-4
    )
    beside = _output(model, [x, toy_input(96, 160, [2] * 5, seed=1)]).prior
    torch.testing.assert_close(first[0, :4, :8, :8], beside[0, :4, :8, :8], rtol=1e-4, atol=1e-4)


def test_without_the_key_only_three_points_have_an_extent():
    x = _one_point_each(toy_input(64, 64, [0, 1], points=4))
    without, having = (_output(_sized(changes), [x]) for changes in (EXTENT, SIZES))
    assert not without.extents.extents.known.any() and having.extents.extents.known.all()


def test_sizes_are_kept_with_the_weights_and_older_weights_have_none():
    model = _sized()
    state = model.state_dict()
    other = small_model(SIZES)
    other.load_state_dict(state)
    np.testing.assert_allclose(other.label_branch.location_prior.sizes.mean, -2.0)
    older = {k: v for k, v in state.items() if not k.endswith("thing_sizes")}
    other.load_state_dict(older)  # nothing is missing
    assert (other.label_branch.location_prior.sizes.count == 0).all()


def test_a_model_measures_its_training_set():
    rng = np.random.default_rng(6)
    model = small_model(SIZES)
    records = [_record(rng, np.full((3, 2), 12.0), 10, [0, 0, 1]) for _ in range(20)]
    model.measure_sizes(records)
    found = model.label_branch.location_prior.sizes
    assert found.count[:2].tolist() == [40, 20] and (found.count[2:] == 0).all()
    np.testing.assert_allclose(found.mean[:2], np.log(12 / np.hypot(400, 400)), atol=0.1)
    model.measure_sizes([])  # no image, nothing is known
    assert (model.label_branch.location_prior.sizes.count == 0).all()
    small_model({}).measure_sizes(records)  # no prior


def test_extents_need_no_sizes():
    """Without sizes, each thing is known by its own points alone: others do not move it."""
    rng = np.random.default_rng(7)
    coords, index = rng.uniform(0, 60, (8, 2)), np.array([0] * 4 + [1] * 4)
    both = fit_extents([(coords, index)], 2, "cpu")
    moved = fit_extents([(coords * np.where(index == 1, 2.0, 1.0)[:, None], index)], 2, "cpu")
    for name in ("center", "reach", "inverse", "sureness"):
        torch.testing.assert_close(getattr(both, name)[0, 0], getattr(moved, name)[0, 0])
    assert replace(both).known.all()


def test_a_thing_of_one_point_ends_before_the_next_point_of_another():
    classes, sizes = np.array([0, 3]), _table([np.log(0.2)] * 2)
    reach = []
    for x in (60.0, 20.0, 4.0):
        points = np.array([[50.0, 50.0], [50.0 + x, 50.0]]), np.array([0, 1])
        found = fit_extents([points], 2, "cpu", images=[ClassedImage(classes, 100.0)], sizes=sizes)[
            0
        ]
        reach.append(found.reach[0, 0].item())
        away = torch.tensor([50.0 + x]), torch.tensor([50.0])
        assert found.distance(*away)[0, 0] > 1
    assert reach[0] == pytest.approx(20, rel=1e-3) and reach[0] > reach[1] > reach[2]
    # Of its own points none is left outside, wherever others are.
    points = np.array([[30.0, 50.0], [70.0, 50.0], [50.0, 50.0]]), np.array([0, 0, 1])
    image = ClassedImage(classes, 100.0)
    found = fit_extents([points], 2, "cpu", images=[image], sizes=sizes)[0]
    assert found.reach[0, 0] >= 20

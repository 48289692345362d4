"""Where a thing reaches by its points: against references, invariances, and how well it fits."""

import numpy as np
import pytest
import torch

from fdd.modeling.extents import LEAST_POINTS, Extents, drop_outside, fit_extents
from fdd.modeling.label_branch.criterion import outside_cells
from fdd.modeling.label_makers import MakerInputs, get_label_maker
from fdd.modeling.structures import batch_points
from fdd.points import rasterize_points
from modeling_toys import toy_input

torch.set_num_threads(1)


def _fit(points: np.ndarray) -> Extents:
    index = np.zeros(len(points), np.int64)
    return fit_extents([(points, index)], 1, "cpu")[0]


def _grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(width)[None] + 0.5, torch.arange(height)[:, None] + 0.5


def _reference(points: np.ndarray, x: float, y: float) -> float:
    """Straight from the definition, in float64."""
    k = len(points)
    low, high = points.min(0), points.max(0)
    reach = np.maximum((high - low) / 2 * (k + 1) / (k - 1), 1)
    box = np.abs(([x, y] - (low + high) / 2) / reach).max()
    away = [x, y] - points.mean(0)
    covariance = np.cov(points.T) + np.eye(2) / 4
    return float(box + np.sqrt(away @ np.linalg.solve(4 * covariance, away))) / 2


@pytest.mark.parametrize("k", [3, 5, 10, 40])
def test_is_the_mean_of_the_distances_from_box_and_ellipse(k):
    rng = np.random.default_rng(k)
    points = rng.uniform((3, 30), (60, 50), (k, 2))
    places = rng.uniform(-20, 90, (50, 2))
    got = _fit(points).distance(*torch.from_numpy(places.T).float())
    want = [_reference(points, *place) for place in places]
    np.testing.assert_allclose(got[0].numpy(), want, rtol=1e-4)


def test_instances_of_several_images_are_fitted_apart():
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 50, (12, 2)), rng.uniform(0, 50, (5, 2))
    index = np.array([0, 2] * 6)
    both = fit_extents([(first, index), (second, np.zeros(5, np.int64))], 3, "cpu")
    assert both.known.tolist() == [[True, False, True], [True, False, False]]
    x, y = _grid(8, 9)
    for got, points in (
        (both[0][2:3], first[index == 2]),
        (both[0][:1], first[index == 0]),
        (both[1][:1], second),
    ):
        torch.testing.assert_close(got.distance(x, y), _fit(points).distance(x, y))
    assert both.distance(x, y).shape == (2, 3, 8, 9) and both.distance(x, y).isfinite().all()


@pytest.mark.parametrize("shape", ["box", "ellipse", "slanted"])
def test_evenly_drawn_points_tell_the_shape(shape):
    """Ten points of a mask: the IoU of what they tell with it is what a user can count on."""
    x, y = _grid(100, 120)
    masks = {
        "box": (abs(x - 60) < 30) & (abs(y - 50) < 12),
        "ellipse": ((x - 60) / 35) ** 2 + ((y - 50) / 20) ** 2 < 1,
        "slanted": ((x + y - 110) / 60) ** 2 + ((x - y - 10) / 25) ** 2 < 1,
    }
    mask = masks[shape].numpy()
    rows, columns = np.nonzero(mask)
    ious = []
    for seed in range(60):
        chosen = np.random.default_rng(seed).choice(len(rows), 10, replace=False)
        points = np.stack([columns[chosen], rows[chosen]], 1) + 0.5
        found = (_fit(points).distance(x, y)[0] < 1).numpy()
        ious.append((found & mask).sum() / (found | mask).sum())
    assert np.mean(ious) > 0.68 and np.mean(np.array(ious) > 0.5) > 0.95


def test_the_scale_cancels_and_pixels_can_be_others():
    points = np.random.default_rng(1).uniform(10, 90, (10, 2))
    x, y = _grid(20, 30)
    once = _fit(points)
    torch.testing.assert_close(
        once.distance(4 * x, 4 * y), once.scaled((0.25, 0.25)).distance(x, y), rtol=1e-4, atol=1e-5
    )
    stretched = once.scaled((2.0, 3.0)).distance(3 * x, 2 * y)
    torch.testing.assert_close(stretched, once.distance(x, y), rtol=1e-4, atol=1e-5)


def test_mirrored_points_have_the_mirrored_extent():
    points = np.random.default_rng(2).uniform(0, 60, (7, 2))
    mirrored = np.stack([60 - points[:, 0], points[:, 1]], 1)
    x, y = _grid(60, 60)
    torch.testing.assert_close(
        _fit(points).distance(x, y).flip(-1), _fit(mirrored).distance(x, y), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "points",
    [[[5.0, 5.0]] * 4, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[2.5, 7.0], [2.5, 7.0], [9.0, 1.0]]],
)
def test_points_on_a_line_or_on_one_place_tell_no_extent(points):
    extents = _fit(np.array(points))
    assert not extents.known.any() and extents.distance(*_grid(30, 30)).isfinite().all()


def test_two_points_on_one_place_are_one():
    points = np.random.default_rng(5).uniform(0, 50, (6, 2))
    once, twice = _fit(points), _fit(np.concatenate([points, points[:4]]))
    x, y = _grid(50, 50)
    torch.testing.assert_close(once.distance(x, y), twice.distance(x, y))
    assert torch.equal(once.sureness, twice.sureness)


def test_a_thin_thing_has_an_extent():
    points = np.random.default_rng(6).uniform((10, 0), (12, 50), (10, 2))
    extents = _fit(points)
    assert extents.known.all()
    assert 40 < int((extents.distance(*_grid(70, 30)) < 1).sum()) < 200


def test_fewer_points_are_less_sure():
    rng = np.random.default_rng(3)
    sureness = [float(_fit(rng.uniform(0, 50, (k, 2))).sureness[0]) for k in (3, 5, 10, 30)]
    assert sureness == sorted(sureness) and sureness[2] == pytest.approx(1)


def test_few_points_tell_nothing():
    points = np.random.default_rng(4).uniform(0, 50, (LEAST_POINTS - 1, 2))
    assert not _fit(points).known.any()
    assert not fit_extents([(np.zeros((0, 2)), np.zeros(0, np.int64))], 1, "cpu").known.any()


def _small_things():
    """Two things of 12 px, and one of stuff, in an image of 96 x 128."""
    rng = np.random.default_rng(0)
    parts = [rng.uniform((20, 20), (32, 32), (8, 2)), rng.uniform((77, 53), (89, 65), (8, 2))]
    coords = np.concatenate([*parts, rng.uniform(0, 96, (8, 2))])
    index, classes = np.repeat(np.arange(3), 8), np.array([1, 0, 3])
    raster = rasterize_points(coords, index, classes, 96, 128)
    return toy_input(96, 128, classes.tolist(), points=8) | {
        "point_coords": torch.from_numpy(coords).float(),
        "point_index": torch.from_numpy(index),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


def test_cells_beyond_a_things_extent_teach_nothing():
    x = _small_things()
    before = x["point_instance_map"].clone()
    kept = drop_outside(x, num_things=3)
    after = kept["point_instance_map"]
    points = x["point_coords"].double().numpy(), x["point_index"].numpy()
    place = torch.arange(16) * 8 + 4.0
    distance = fit_extents([points], 3, "cpu")[0].distance(place[None], place[:12, None])
    for n in range(2):
        reach = max(1.1, float(distance[n][before == n].min()))
        assert not ((after == n) & (distance[n] > reach)).any()
        assert ((after == n) | (before != n) | (distance[n] > 1)).all()
        assert 0 < (after == n).sum() < (before == n).sum()
    assert torch.equal(after == 2, before == 2)
    semantic = x["classes"][after.clamp(min=0).long()].where(after >= 0, -1)
    assert torch.equal(kept["point_semantic_map"][after >= 0].long(), semantic[after >= 0])
    assert torch.equal(x["point_instance_map"], before)


@pytest.mark.parametrize("classes", [[], [3, 4]])
def test_without_things_all_cells_teach(classes):
    x = toy_input(64, 64, classes)
    kept = drop_outside(x, num_things=3)
    assert torch.equal(kept["point_instance_map"], x["point_instance_map"])


def _extent_label(x, **changes):
    keys = {"coords": x["point_coords"], "index": x["point_index"], "classes": x["classes"]}
    keys |= {"grid": (96, 128), "stride": (1.0, 1.0), "num_things": 3} | changes
    return get_label_maker("extent")(MakerInputs(**keys))


def test_the_rule_draws_things_by_their_extents():
    x = _small_things()
    label = _extent_label(x)
    points = x["point_coords"].double().numpy(), x["point_index"].numpy()
    distance = fit_extents([points], 3, "cpu")[0].distance(*_grid(96, 128))
    for n in range(2):
        assert torch.equal(label == n, distance[n] < 1)
    assert (label[(distance[:2] >= 1).all(0)] == 2).all()


def test_things_of_few_points_are_drawn_by_the_nearest_one():
    x = _small_things()
    keep = (x["point_index"] > 0) | (torch.arange(24) == 0)
    x |= {k: x[k][keep] for k in ("point_coords", "point_index")}
    label = _extent_label(x)
    rest = x["point_index"] != 1
    keys = {"classes": x["classes"], "grid": (96, 128), "stride": (1.0, 1.0)}
    nearest = get_label_maker("nearest")(
        MakerInputs(coords=x["point_coords"][rest], index=x["point_index"][rest], **keys)
    )
    assert (label == 0).any() and torch.equal(label[label != 1], nearest[label != 1])


def test_the_rule_without_stuff_or_points_is_whole():
    x = _small_things()
    things = x["point_index"] < 2
    only = x | {k: x[k][things] for k in ("point_coords", "point_index")}
    assert set(_extent_label(only).unique().tolist()) == {0, 1}
    nothing = x | {k: x[k][:0] for k in ("point_coords", "point_index")}
    assert (_extent_label(nothing, classes=torch.zeros(0, dtype=torch.long)) == -1).all()


@pytest.mark.parametrize(("side", "k"), [(5.0, 10), (8.0, 3), (12.0, 5), (40.0, 30)])
def test_however_small_a_thing_a_cell_teaches_that_it_is_there(side, k):
    """And no loss says that it is not."""
    rng = np.random.default_rng(int(side))
    starts = rng.uniform(0, 96 - side, (20, 2))
    coords = np.concatenate([start + rng.uniform(0, side, (k, 2)) for start in starts])
    index, classes = np.repeat(np.arange(20), k), np.arange(20) % 3
    raster = rasterize_points(coords, index, classes, 96, 96)
    x = toy_input(96, 96, classes.tolist(), points=k) | {
        "point_coords": torch.from_numpy(coords).float(),
        "point_index": torch.from_numpy(index),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }
    dropped = drop_outside(x, num_things=3)
    kept = dropped["point_instance_map"]
    assert set(kept.unique().tolist()) == set(x["point_instance_map"].unique().tolist())
    points = batch_points([dropped], (96, 96), torch.device("cpu"))
    outside = outside_cells(points, torch.ones(1, 12, 12, dtype=torch.bool), num_things=3)
    where = (kept >= 0).nonzero()
    assert not outside[0, kept[kept >= 0].long(), where[:, 0], where[:, 1]].any()
    # Three points may be nearly on a line, and tell nothing then.
    assert outside[0].flatten(1).any(1).float().mean() > 0.8

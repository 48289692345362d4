"""The rule-based label makers against brute force."""

import cv2
import numpy as np
import pytest
import torch

from fdd.modeling.label_makers import (
    MakerInputs,
    get_label_maker,
    nearest_labels,
    polygon_labels,
)
from fdd.modeling.label_makers.rules import convex_hull

torch.set_num_threads(1)


def _make(maker, coords, index, grid, stride, **options):
    """Label of a maker that looks at points only; classes do not matter."""
    steps = stride if isinstance(stride, tuple) else (float(stride), float(stride))
    classes = torch.zeros(int(index.max()) + 1 if len(index) else 0, dtype=torch.long)
    return maker(MakerInputs(coords, index, classes, grid, steps, **options))


def nearest(*arguments):
    return _make(nearest_labels, *arguments)


def polygon(*arguments, **options):
    return _make(polygon_labels, *arguments, **options)


def _points(*rows):
    """(instance, x, y) rows."""
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 3)
    return table[:, 1:], table[:, 0].long()


@pytest.mark.parametrize("name", ["nearest", "polygon", "extent", "point"])
def test_makers_are_found_by_name_and_agree_on_the_interface(name):
    maker = get_label_maker(name)
    assert maker.name == name and not maker.needs and not maker.from_network
    none = _make(maker, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), (3, 4), 8)
    assert none.dtype == torch.int32 and none.shape == (3, 4) and (none == -1).all()
    one = _make(maker, torch.tensor([[9.0, 9.0]]), torch.tensor([300]), (3, 4), 8.0)
    assert one.dtype == torch.int32 and one[1, 1] == 300


@pytest.mark.parametrize(
    ("coords", "index", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), "expected"),
        (torch.zeros(2, 2), torch.zeros(3, dtype=torch.long), "expected"),
        (torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]), "finite"),
        (torch.zeros(1, 2), torch.tensor([-1]), r"from -1 to -1\) in 0 \.\.\. 1"),
        (torch.zeros(1, 2), torch.tensor([2]), r"from 2 to 2\) in 0 \.\.\. 1"),
    ],
)
def test_evidence_that_cannot_be_is_refused(coords, index, message):
    with pytest.raises(ValueError, match=message):
        MakerInputs(coords, index, torch.zeros(2, dtype=torch.long), (3, 4), (8.0, 8.0))


def test_unknown_maker_is_named_with_the_allowed_set():
    allowed = (
        "distance, dnn, extent, full, learned, nearest, point, polygon, prior, semantic_nearest"
    )
    with pytest.raises(ValueError, match=f"'furthest' is unknown; allowed: {allowed}"):
        get_label_maker("furthest")


@pytest.mark.parametrize(("grid", "stride"), [((12, 17), 8), ((40, 30), (1.5, 2.0)), ((1, 1), 4)])
def test_nearest_equals_brute_force(grid, stride):
    rng = np.random.default_rng(0)
    sy, sx = stride if isinstance(stride, tuple) else (stride, stride)
    coords = rng.random((25, 2)) * (grid[1] * sx, grid[0] * sy)
    index = rng.integers(0, 9, 25)
    y, x = (np.arange(grid[0]) + 0.5) * sy, (np.arange(grid[1]) + 0.5) * sx
    centres = np.stack(np.meshgrid(x, y), axis=-1)
    distance = np.linalg.norm(centres[:, :, None] - coords, axis=-1)
    got = nearest(torch.tensor(coords), torch.tensor(index), grid, stride)
    assert np.array_equal(got.numpy(), index[distance.argmin(-1)])


def test_nearest_gives_a_tie_to_the_first_point():
    got = nearest(*_points((4, 0.5, 0.5), (2, 4.5, 0.5)), (1, 5), 1)
    assert got.tolist() == [[4, 4, 4, 2, 2]]


def test_nearest_ignores_the_order_of_points_elsewhere():
    torch.manual_seed(0)
    coords, index = 64 * torch.rand(20, 2), torch.arange(20)
    order = torch.randperm(20)
    assert torch.equal(
        nearest(coords, index, (8, 8), 8),
        nearest(coords[order], index[order], (8, 8), 8),
    )


def test_hull_of_known_points():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [2, 2], [2, 0], [4, 4]], dtype=float)
    assert {tuple(p) for p in convex_hull(square)} == {(0, 0), (4, 0), (4, 4), (0, 4)}
    assert len(convex_hull(square)) == 4
    line = np.array([[0.1, 0.1], [0.3, 0.3], [0.2, 0.2], [0.7, 0.7]])
    assert convex_hull(line).tolist() == [[0.1, 0.1], [0.7, 0.7]]
    assert convex_hull(np.array([[1.0, 2.0], [1.0, 2.0]])).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("seed", range(5))
def test_polygon_of_many_points_is_their_filled_hull(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(2, 38, (rng.integers(3, 11), 2))
    got = polygon(
        torch.tensor(pixels + 0.5), torch.zeros(len(pixels), dtype=torch.long), (40, 40), 1
    )
    hull = cv2.convexHull(pixels.astype(np.int32))
    want = np.array(
        [
            [
                cv2.pointPolygonTest(hull.astype(np.float32), (float(x), float(y)), False)
                for x in range(40)
            ]
            for y in range(40)
        ]
    )
    assert np.array_equal(got.numpy() == 0, want >= 0)


def test_polygon_of_a_single_point_is_a_square():
    got = polygon(*_points((3, 20.5, 15.5)), (40, 40), 1) == 3
    want = torch.zeros(40, 40, dtype=torch.bool)
    want[7:24, 12:29] = True
    assert torch.equal(got, want)
    assert (polygon(*_points((3, 20.5, 15.5)), (40, 40), 1, square_side=3) == 3).sum() == 9


def test_polygon_of_two_points_or_of_points_on_a_line_is_a_thick_line():
    got = polygon(*_points((0, 10.5, 15.5), (0, 30.5, 15.5)), (40, 40), 1) == 0
    assert got[:, 20].nonzero().flatten().tolist() == list(range(7, 24))
    assert got[15].nonzero().flatten().tolist() == list(range(2, 39))
    three = polygon(*_points((0, 10.5, 15.5), (0, 30.5, 15.5), (0, 17.5, 15.5)), (40, 40), 1)
    assert torch.equal(three == 0, got)


def test_overlap_of_different_instances_is_ignored():
    rows = [(0, 5.5, 5.5), (0, 25.5, 5.5), (0, 5.5, 25.5), (0, 25.5, 25.5)]
    other = [(1, x + 10, y + 10) for _, x, y in rows]
    got = polygon(*_points(*rows, *other), (40, 40), 1)
    assert (got[15:26, 15:26] == -1).all()
    assert (got == 0).sum() == (got == 1).sum() == 21 * 21 - 11 * 11
    flipped = polygon(*_points(*other, *rows), (40, 40), 1)
    assert torch.equal(got, flipped)


def test_small_polygon_on_a_coarse_grid_keeps_its_points_cells():
    got = polygon(*_points((0, 1.0, 1.0), (0, 2.0, 1.0), (0, 1.0, 2.0)), (3, 3), 8)
    assert got[0, 0] == 0 and (got == 0).sum() == 1


def test_point_on_the_far_border_belongs_to_the_last_cell():
    got = polygon(*_points((0, 24.0, 16.0)), (2, 3), 8, square_side=1)
    assert got[1, 2] == 0 and (got == 0).sum() == 1

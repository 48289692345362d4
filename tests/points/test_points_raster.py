"""Rasterised points against a plain reference, and their invariances."""

import numpy as np
import pytest

from fdd.points.raster import (
    dilated_side,
    nearest_owner,
    num_valid_cells,
    rasterize_points,
)


def reference(coords, index, classes, height, width, side, reference_size, stride):
    """The definition, one cell and one point at a time."""
    rows, cols = num_valid_cells(height, stride), num_valid_cells(width, stride)
    half = max(stride, side * min(height, width) / reference_size) / 2
    cells = set()
    instance_map = np.full((rows, cols), -1)
    semantic_map = np.full((rows, cols), -1)
    for v in range(rows):
        for u in range(cols):
            near = []
            for (x, y), i in zip(coords, index, strict=True):
                dx, dy = abs(stride * (u + 0.5) - x), abs(stride * (v + 0.5) - y)
                own = (min(int(x // stride), cols - 1), min(int(y // stride), rows - 1)) == (u, v)
                if own or (dx <= half and dy <= half):
                    cells.add((int(i), v, u))
                    near.append((max(dx, dy), int(i)))
            owners = {i for distance, i in near if distance == min(near)[0]}
            kinds = {int(classes[i]) for i in owners}
            if len(owners) == 1:
                instance_map[v, u] = owners.pop()
            if len(kinds) == 1:
                semantic_map[v, u] = kinds.pop()
    return sorted(cells), instance_map, semantic_map


@pytest.mark.parametrize(
    ("height", "width", "side", "stride"),
    [
        (96, 160, 80.0, 8),
        (61, 47, 250.0, 8),
        (12, 100, 17.0, 8),
        (3, 5, 17.0, 8),
        (64, 50, 99.0, 4),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(height, width, side, stride, seed):
    rng = np.random.default_rng(seed)
    # Half pixels make exact ties frequent.
    coords = rng.integers(0, 2 * np.array([width, height]) + 1, (30, 2)) / 2
    index, classes = rng.integers(0, 9, 30), rng.integers(0, 3, 9)
    got = rasterize_points(coords, index, classes, height, width, side, 600.0, stride)
    cells, instance_map, semantic_map = reference(
        coords, index, classes, height, width, side, 600.0, stride
    )
    assert [tuple(cell) for cell in got.cells.tolist()] == cells
    np.testing.assert_array_equal(got.instance_map, instance_map)
    np.testing.assert_array_equal(got.semantic_map, semantic_map)
    assert cells


def test_shapes_and_types():
    got = rasterize_points(np.array([[4.0, 4.0]], np.float32), [0], [5], 600, 1000)
    assert got.cells.dtype == np.int64 and got.cells.shape[1] == 3
    assert got.instance_map.dtype == got.semantic_map.dtype == np.int32
    assert got.instance_map.shape == got.semantic_map.shape == (75, 125)


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (4, 1), (8, 1), (12, 1), (13, 2), (16, 2), (600, 75), (605, 76)]
)
def test_valid_cells_have_their_centre_inside(size, count):
    assert num_valid_cells(size) == count
    assert count == max(1, sum(8 * u + 4 < size for u in range(size)))


def test_square_of_a_point_at_the_reference_size():
    # 17 px at 600 px: the centres within 8.5 px of (100, 100) are those at 92, 100 and 108.
    got = rasterize_points([[100.0, 100.0]], [0], [0], 600, 600)
    assert got.cells.tolist() == [[0, v, u] for v in (11, 12, 13) for u in (11, 12, 13)]


def test_square_scales_with_the_short_side_but_covers_one_cell_at_least():
    assert dilated_side(600, 900) == pytest.approx(17.0)
    assert dilated_side(1200, 1800) == pytest.approx(34.0)
    assert dilated_side(100, 900) == 8.0
    got = rasterize_points([[52.0, 52.0]], [0], [0], 104, 104)
    assert got.cells.tolist() == [[0, 6, 6]]


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize(("height", "width"), [(37, 59), (5, 200), (64, 64)])
def test_the_own_cell_is_always_there(height, width, stride):
    rng = np.random.default_rng(1)
    coords = rng.random((200, 2)) * [width, height]
    coords[:4] = [[0, 0], [width, 0], [0, height], [width, height]]
    limit = np.array([num_valid_cells(width, stride), num_valid_cells(height, stride)]) - 1
    got = rasterize_points(coords, np.arange(200), np.zeros(200), height, width, stride=stride)
    cells = {tuple(cell) for cell in got.cells.tolist()}
    own = np.clip(np.floor(coords / stride).astype(int), 0, limit)
    assert all((i, v, u) in cells for i, (u, v) in enumerate(own.tolist()))


def test_the_nearest_point_wins_and_both_keep_their_cells():
    got = rasterize_points([[100.0, 100.0], [112.0, 100.0]], [1, 0], [4, 6], 600, 600)
    assert got.instance_map[12].tolist()[11:16] == [1, 1, 0, 0, -1]
    assert got.semantic_map[12].tolist()[11:16] == [6, 6, 4, 4, -1]
    row = {(int(i), int(u)) for i, v, u in got.cells if v == 12}
    assert row == {(1, 11), (1, 12), (1, 13), (0, 13), (0, 14)}


@pytest.mark.parametrize(("classes", "semantic"), [([3, 3], 3), ([3, 5], -1)])
def test_a_tie_between_instances_keeps_a_shared_class_only(classes, semantic):
    got = rasterize_points([[96.0, 100.0], [104.0, 100.0]], [0, 1], classes, 600, 600)
    assert got.instance_map[12].tolist()[11:14] == [0, -1, 1]
    assert got.semantic_map[12, 12] == semantic


def test_a_tie_between_points_of_one_instance_is_none():
    got = rasterize_points([[96.0, 100.0], [104.0, 100.0]], [0, 0], [3], 600, 600)
    assert got.instance_map[12, 12] == 0 and got.semantic_map[12, 12] == 3


def test_a_tie_survives_float32_rounding():
    base = np.array([[1000.1, 333.3], [1007.9, 333.3]], np.float32)
    got = rasterize_points(base, [0, 1], [0, 1], 600, 1328)
    assert got.instance_map[41, 125] == -1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(5))
def test_flip_equivariance(seed, dtype):
    rng = np.random.default_rng(seed)
    height, width = 296, 400
    coords = (rng.random((150, 2)) * [width, height]).astype(dtype)
    coords[::2] = np.floor(coords[::2]) + 0.5
    index, classes = rng.integers(0, 12, 150), rng.integers(0, 4, 12)
    flipped = coords.copy()
    flipped[:, 0] = width - coords[:, 0]
    plain = rasterize_points(coords, index, classes, height, width, 60.0)
    mirror = rasterize_points(flipped, index, classes, height, width, 60.0)
    np.testing.assert_array_equal(mirror.instance_map[:, ::-1], plain.instance_map)
    np.testing.assert_array_equal(mirror.semantic_map[:, ::-1], plain.semantic_map)
    back = mirror.cells.copy()
    back[:, 2] = num_valid_cells(width) - 1 - back[:, 2]
    assert sorted(back.tolist()) == plain.cells.tolist()


def test_order_of_points_does_not_matter():
    rng = np.random.default_rng(3)
    coords, index = rng.random((60, 2)) * 200, rng.integers(0, 7, 60)
    order = rng.permutation(60)
    for a, b in zip(
        rasterize_points(coords, index, np.arange(7), 200, 200, 100.0),
        rasterize_points(coords[order], index[order], np.arange(7), 200, 200, 100.0),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_more_than_254_instances():
    rng = np.random.default_rng(0)
    places = rng.permutation(75 * 100)[:700]
    coords = np.stack([places % 100, places // 100], 1) * 8 + 4.0
    got = rasterize_points(coords, np.arange(700), np.arange(700), 600, 800)
    np.testing.assert_array_equal(got.instance_map[places // 100, places % 100], np.arange(700))
    np.testing.assert_array_equal(got.semantic_map, got.instance_map)


def test_no_points():
    got = rasterize_points(np.zeros((0, 2), np.float32), [], [], 40, 60)
    assert got.cells.shape == (0, 3)
    assert (got.instance_map == -1).all() and (got.semantic_map == -1).all()
    assert got.instance_map.shape == (5, 7)


@pytest.mark.parametrize(
    ("coords", "index", "classes", "message"),
    [
        ([[np.nan, 3]], [0], [0], "outside the image"),
        ([[3, np.inf]], [0], [0], "outside the image"),
        ([[70, 3]], [0], [0], "outside the image of 60 x 40"),
        ([[3, 50]], [0], [0], "outside the image"),
        ([[3, 3]], [1], [0], "1 instances"),
        ([[3, 3]], [-1], [0], "instance indices"),
        ([[3, 3]], [0, 0], [0], "1 points, but 2"),
    ],
)
def test_unsound_input_is_refused(coords, index, classes, message):
    with pytest.raises(ValueError, match=message):
        rasterize_points(coords, index, classes, 40, 60)
    with pytest.raises(ValueError, match="no cells"):
        rasterize_points([[0, 0]], [0], [0], 0, 60)


@pytest.mark.parametrize("stride", [(8.0, 8.0), (1.0, 1.0), (2.5, 7.25)])
def test_the_owner_on_any_grid_equals_the_definition(stride):
    rng = np.random.default_rng(3)
    grid, side = (23, 17), 9.0
    height, width = grid[0] * stride[0], grid[1] * stride[1]
    coords = np.round(rng.uniform(0, 1, (30, 2)) * [width, height])
    owner = rng.integers(0, 5, 30)
    expected = np.full(grid, -1)
    for v in range(grid[0]):
        for u in range(grid[1]):
            apart = np.abs(coords - [(u + 0.5) * stride[1], (v + 0.5) * stride[0]]).max(axis=1)
            own = np.minimum(coords // stride[::-1], [grid[1] - 1, grid[0] - 1])
            mine = (apart <= side / 2) | (own == [u, v]).all(axis=1)
            if mine.any():
                names = set(owner[mine & (apart <= apart[mine].min() + 1e-6)].tolist())
                expected[v, u] = names.pop() if len(names) == 1 else -1
    got = nearest_owner(coords, owner, grid, stride, side)
    assert got.dtype == np.int32 and (expected >= 0).any()
    np.testing.assert_array_equal(got, expected)

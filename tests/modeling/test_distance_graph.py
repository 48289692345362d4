"""Costs of steps and cheapest ways, against plain loops in float64."""

import heapq

import numpy as np
import pytest
import torch

from fdd.modeling.label_makers.distance import (
    UNREACHED,
    image_edges,
    step_costs,
    traversing_distances,
)
from fdd.modeling.losses import rgb_to_lab

torch.set_num_threads(1)
GRIDS = [(6, 7), (1, 5), (4, 1), (1, 1)]


def _maps(grid, seed=0, channels=3):
    g = torch.Generator().manual_seed(seed)
    prob = torch.rand(channels, *grid, generator=g, dtype=torch.float64).softmax(0)
    embedding = torch.randn(4, *grid, generator=g, dtype=torch.float64)
    edges = torch.rand(*grid, generator=g, dtype=torch.float64)
    return prob, edges, embedding / embedding.norm(dim=0)


def _neighbours(place, grid):
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            v, u = place[0] + dy, place[1] + dx
            if (dy or dx) and 0 <= v < grid[0] and 0 <= u < grid[1]:
                yield v, u


def _cost(prob, edges, embedding, i, j, weights=(1.0, 0.1, 0.1)):
    """Of the step from i to j, by the definition."""
    cost = weights[0] * (prob[:, i[0], i[1]] - prob[:, j[0], j[1]]).abs().sum()
    cost += weights[1] * edges[j]
    if embedding is not None:
        dot = (embedding[:, i[0], i[1]] * embedding[:, j[0], j[1]]).sum()
        cost += weights[2] * max(0.0, 1 - dot)
    return float(cost)


def _reference(maps, start, grid, weights=(1.0, 0.1, 0.1)):
    """(h, w) cheapest ways from one node: Dijkstra with a heap."""
    best = {start: 0.0}
    heap = [(0.0, start)]
    while heap:
        far, place = heapq.heappop(heap)
        if far > best[place]:
            continue
        for other in _neighbours(place, grid):
            through = far + _cost(*maps, place, other, weights)
            if through < best.get(other, np.inf):
                best[other] = through
                heapq.heappush(heap, (through, other))
    return np.array([[best[v, u] for u in range(grid[1])] for v in range(grid[0])])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("with_embedding", [True, False])
def test_every_step_has_its_cost(grid, with_embedding):
    prob, edges, embedding = _maps(grid)
    embedding = embedding if with_embedding else None
    weights = (0.7, 0.3, 0.2)
    first, second, costs = step_costs(prob, edges, embedding, weights)
    got = {
        (divmod(i, grid[1]), divmod(j, grid[1])): c
        for i, j, c in zip(first.tolist(), second.tolist(), costs.tolist(), strict=True)
    }
    places = [(v, u) for v in range(grid[0]) for u in range(grid[1])]
    want = {
        (i, j): _cost(prob, edges, embedding, i, j, weights)
        for i in places
        for j in _neighbours(i, grid)
    }
    assert len(got) == len(costs) and got.keys() == want.keys()
    assert all(got[step] == pytest.approx(want[step], abs=1e-12) for step in want)


def test_the_edge_that_counts_is_that_of_the_place_one_goes_to():
    edges = torch.tensor([[0.0, 1.0]])
    _, second, costs = step_costs(torch.ones(1, 1, 2), edges)
    assert dict(zip(second.tolist(), costs.tolist(), strict=True)) == {
        0: 0.0,
        1: pytest.approx(0.1),
    }


def test_embeddings_that_disagree_cost_more_than_one():
    embedding = torch.tensor([[[1.0, -1.0]]])
    _, _, costs = step_costs(torch.ones(1, 1, 2), torch.zeros(1, 2), embedding)
    assert costs == pytest.approx([0.2, 0.2])


def test_what_is_not_finite_is_refused():
    prob = torch.ones(1, 2, 2)
    prob[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        step_costs(prob, torch.zeros(2, 2))
    with pytest.raises(FloatingPointError, match="not finite"):
        step_costs(torch.ones(1, 2, 2), torch.zeros(2, 2), prob)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("seed", range(3))
def test_many_starts_at_once_equal_the_minimum_of_single_runs(grid, seed):
    maps = _maps(grid, seed)
    rng = np.random.default_rng(seed)
    nodes, owner = rng.integers(0, grid[0] * grid[1], 7), rng.choice([0, 2, 3], 7)
    got = traversing_distances(step_costs(*maps), grid, nodes, owner, 4)
    assert got.shape == (4, *grid) and (got[1] == UNREACHED).all()
    for instance in np.unique(owner):
        single = [_reference(maps, divmod(n, grid[1]), grid) for n in nodes[owner == instance]]
        np.testing.assert_allclose(got[instance], np.minimum.reduce(single), atol=1e-10)


def test_flat_ground_costs_nothing():
    """Steps without cost are steps, not gaps."""
    grid = (5, 6)
    steps = step_costs(torch.full((2, *grid), 0.5), torch.zeros(grid))
    got = traversing_distances(steps, grid, np.array([7]), np.array([0]), 1)
    assert (got == 0).all()


def _edges_reference(image, grid):
    small = torch.nn.functional.interpolate(image[None].double(), grid, mode="bilinear")
    lab = rgb_to_lab(small / 255)[0].numpy()
    height, width = grid
    padded = np.pad(lab, ((0, 0), (1, 1), (1, 1)))
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    out = np.zeros(grid)
    for v in range(height):
        for u in range(width):
            window = padded[:, v : v + 3, u : u + 3]
            x, y = (window * sobel).sum((1, 2)), (window * sobel.T).sum((1, 2))
            out[v, u] = (np.square(x).sum() + np.square(y).sum()) / 6
    frames = [min(5, (n - 1) // 2) for n in grid]
    inner = out[frames[0] : height - frames[0], frames[1] : width - frames[1]]
    return np.clip(out / max(inner.max(), 1e-6), 0, 1)


@pytest.mark.parametrize("grid", [(14, 19), (12, 5), (4, 3), (2, 1), (1, 1)])
def test_edges_equal_a_plain_sobel(grid):
    g = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 16 * grid[0] + 5, 16 * grid[1]), generator=g).to(torch.uint8)
    got = image_edges(image, grid)
    assert got.shape == grid and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), _edges_reference(image, grid), rtol=1e-3, atol=1e-4)


def test_a_grey_image_has_edges_at_most_at_its_border():
    """Zero padding makes that border; nothing divides by zero."""
    got = image_edges(torch.full((3, 200, 240), 127, dtype=torch.uint8), (12, 15))
    assert got.isfinite().all() and (got[1:-1, 1:-1] < 0.01).all()


@pytest.mark.parametrize(("column", "strongest"), [(3, False), (4, False), (6, True)])
def test_edges_of_the_border_do_not_decide(column, strongest):
    """A bright line in the five outer columns leaves the faint edge in the middle at full strength;
    further in it does not. Sobel sees a line one column to either side."""
    image = torch.full((3, 16 * 20, 16 * 30), 100.0)
    image[:, :, 16 * 15 :] = 120
    image[:, :, 16 * column : 16 * (column + 1)] = 255
    got = image_edges(image, (20, 30))
    assert got[10, 15] < 0.5 if strongest or column == 4 else got[10, 15] == 1

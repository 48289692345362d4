"""Where to click next."""

from __future__ import annotations

import numpy as np
import pytest

from fdd.annotate.suggest import Evidence, suggest

SIZE = (480, 640)


def evidence(likely: np.ndarray, points: list, names: list[str], things: list[bool]) -> Evidence:
    return Evidence(likely, SIZE, np.array(points, float), names, np.array(things))


def sure(owner: np.ndarray, count: int, top: float = 0.98) -> np.ndarray:
    """(N, h, w) with ``top`` for the owner of each cell."""
    rest = (1 - top) / (count - 1)
    return np.where(owner[None] == np.arange(count)[:, None, None], top, rest)


def grid_points(step: int = 60) -> list[tuple[float, float]]:
    return [(x, y) for y in range(step // 2, 480, step) for x in range(step // 2, 640, step)]


def test_two_objects_that_share_a_region() -> None:
    owner = np.full((60, 80), 2)
    owner[20:30, 20:30], owner[20:30, 50:60] = 0, 1
    likely = sure(owner, 3)
    likely[:, 20:30, 50:60] = np.array([0.45, 0.5, 0.05])[:, None, None]
    names, things = ["disc", "disc", "ground"], [True, True, False]
    found = suggest(evidence(likely, grid_points(), names, things))[0]
    assert found.kind == "boundary" and "two objects" in found.reason and "disc" in found.reason
    assert 50 * 8 <= found.x <= 60 * 8 and 20 * 8 <= found.y <= 30 * 8 and found.segment == 1


def test_what_is_far_from_all_points() -> None:
    likely = sure(np.zeros((60, 80), int), 2, 0.6)
    points = [p for p in grid_points(40) if p[0] < 300]
    first = suggest(evidence(likely, points, ["disc", "ground"], [True, False]))[0]
    assert first.kind == "coverage" and "no point within" in first.reason
    assert "unsure" in first.reason and first.x > 380


def test_a_small_thing_counts_as_much_as_the_ground() -> None:
    owner = np.ones((60, 80), int)
    owner[10:16, 10:16] = 0
    likely = sure(owner, 3)
    likely[:, 10:16, 10:16] = np.array([0.55, 0.44, 0.01])[:, None, None]
    likely[:, 30:50, 40:70] = np.array([0.02, 0.55, 0.43])[:, None, None]  # sixteen times as large
    found = suggest(
        evidence(likely, grid_points(), ["disc", "ground", "sea"], [True, False, False])
    )
    first = found[0]
    assert first.segment == 0 and first.reason == "disc or ground?" and first.kind == "unsure"


def test_suggestions_are_apart_inside_and_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    likely = rng.dirichlet(np.ones(4), (60, 80)).transpose(2, 0, 1)
    given = evidence(likely, [(5.0, 5.0)], list("abcd"), [True, True, False, False])
    found = suggest(given, 5)
    assert len(found) == 5 and found == suggest(given, 5)
    for n, one in enumerate(found):
        assert 0 < one.x < 640 and 0 < one.y < 480 and one.reason
        for other in found[:n]:
            assert np.hypot(one.x - other.x, one.y - other.y) > 30


@pytest.mark.parametrize("cells", [(60, 80), (1, 1), (2, 90)])
@pytest.mark.parametrize("count", [1, 3])
def test_few_segments_and_tiny_grids(cells: tuple[int, int], count: int) -> None:
    likely = np.full((count, *cells), 1 / count)
    given = evidence(likely, [(320.0, 240.0)], ["a"] * count, [True] * count)
    for found in suggest(given, 3):
        assert 0 <= found.x <= 640 and 0 <= found.y <= 480
    assert suggest(given, 0) == []

"""The width of things, from nothing but points."""

from __future__ import annotations

import numpy as np
import pytest

from fdd.points.extents import estimate_thing_width, expected_range, width_of_points


def in_disc(rng: np.random.Generator, k: int, width: float) -> np.ndarray:
    angle, radius = rng.uniform(0, 2 * np.pi, k), width / 2 * np.sqrt(rng.uniform(0, 1, k))
    return 100 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def in_square(rng: np.random.Generator, k: int, width: float) -> np.ndarray:
    return 100 + rng.uniform(0, width, (k, 2))


@pytest.mark.parametrize("k", [2, 3, 5, 10, 40])
def test_the_range_grows_with_the_points_and_the_width_does_not(k: int) -> None:
    rng = np.random.default_rng(k)
    draws = [in_disc(rng, k, 30.0) for _ in range(4000)]
    ranges = np.array([np.ptp(d, axis=0).mean() for d in draws])
    assert ranges.mean() == pytest.approx(30 * expected_range(k), rel=0.01)
    assert np.mean([width_of_points(d) for d in draws]) == pytest.approx(30, rel=0.01)
    # (k - 1) / (k + 1) of a square's width: a little more than of a disc's.
    squares = np.mean([width_of_points(in_square(rng, k, 30.0)) for _ in range(4000)])
    exact = 30 * (k - 1) / (k + 1) / expected_range(k)
    assert squares == pytest.approx(exact, rel=0.01) and 30 < exact < 36


def test_two_points_are_a_chord() -> None:
    assert width_of_points(np.array([[0.0, 0.0], [10.0, 0.0]])) == pytest.approx(
        5 / expected_range(2)
    )


def grid(rng: np.random.Generator, k: int, pitch: float, width: float) -> list[np.ndarray]:
    """64 discs side by side."""
    corners = pitch * np.indices((8, 8)).reshape(2, 64).T
    return [in_disc(rng, k, width) + corner for corner in corners]


@pytest.mark.parametrize("k", [3, 10])
def test_a_typical_thing(k: int) -> None:
    rng = np.random.default_rng(0)
    # The same things in a small image and, twice as large, in one that is twice as large.
    small, large = grid(rng, k, 40, 20), [2 * c for c in grid(rng, k, 40, 20)]
    found = estimate_thing_width([(320, small), (640, large)])
    assert found is not None and not found.from_spacing and found.things == 128
    assert found.share == pytest.approx(20 / 320, rel=0.1)
    assert 20 < found.pixels < 40


def test_one_point_a_thing() -> None:
    rng = np.random.default_rng(0)
    found = estimate_thing_width([(320, grid(rng, 1, 20, 20)), (320, [np.array([[3.0, 4.0]])])])
    assert found is not None and found.from_spacing
    # Discs that touch: nearest points are nearer than the discs' centres, but not by much.
    assert 0.5 * 20 < found.pixels < 20 and found.share == found.pixels / 320
    apart = estimate_thing_width([(320, grid(rng, 1, 40, 20))])
    assert apart is not None and 20 < apart.pixels < 40


def test_a_few_larger_clicks_do_not_hide_the_spacing() -> None:
    rng = np.random.default_rng(0)
    things = [*grid(rng, 1, 40, 20), in_disc(rng, 10, 200)]
    found = estimate_thing_width([(320, things)])
    assert found is not None and found.from_spacing


@pytest.mark.parametrize(
    "things", [[], [np.array([[3.0, 4.0]])], [np.array([[3.0, 4.0], [3.0, 4.0]])]]
)
def test_where_nothing_can_be_said(things) -> None:
    assert estimate_thing_width([(320, things)]) is None
    assert estimate_thing_width([]) is None


def test_the_only_thing_of_an_image_says_its_width() -> None:
    found = estimate_thing_width([(320, [in_disc(np.random.default_rng(0), 40, 50)])])
    assert found is not None and found.pixels == pytest.approx(50, rel=0.15)

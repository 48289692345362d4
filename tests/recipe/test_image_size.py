"""The size of a training's images follows the size of the things in them."""

from __future__ import annotations

import numpy as np
import pytest

from fdd.recipe.image_size import choose_sizes, lost_share

REDUCED = {"least_side": 192, "short_side": 256}


def image(
    width: float, *, side: int = 512, things: int = 16, k: int = 10, stuff: int = 20, seed: int = 0
):
    """A dataset dict with round things of a width on a grid, and points of stuff everywhere."""
    rng = np.random.default_rng(seed)
    pitch = side / 4

    def disc():
        angle, radius = rng.uniform(0, 2 * np.pi, k), width / 2 * np.sqrt(rng.uniform(0, 1, k))
        return pitch / 2 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    segments = [
        {
            "isthing": True,
            "coords": (disc() + corner).tolist(),
        }
        for corner in pitch * np.indices((4, 4)).reshape(2, 16).T[:things]
    ]
    segments.append({"isthing": False, "coords": rng.uniform(0, side, (stuff, 2)).tolist()})
    return {"height": side, "width": side + 8, "points": segments}


def test_small_things_get_crops_at_the_scale_at_which_they_have_four_cells() -> None:
    sizes = choose_sizes([image(20.0, seed=n) for n in range(20)], **REDUCED)
    assert sizes.train == 256 and sizes.test > 320
    scale = sizes.test / 512
    assert 20 * scale >= 0.95 * 32, "four cells of 8 px, as far as points can tell"
    assert 20 * (scale - 32 / 512) < 1.05 * 32, "and not a step more"
    # A crop's short side is the share of the whole's, at its scale.
    assert sizes.crop == pytest.approx(256 / sizes.test, abs=1e-4)
    assert "px wide" in sizes.why and "crops" in sizes.why


@pytest.mark.parametrize(
    ("width", "side"), [(120.0, 192), (68.0, 256), (54.0, 320), (30.0, 320), (27.0, 320)]
)
def test_larger_things_are_trained_on_in_whole_images(width: float, side: int) -> None:
    sizes = choose_sizes([image(width, seed=n) for n in range(20)], **REDUCED)
    assert sizes.crop is None and sizes.train == sizes.test
    assert sizes.train == side


def test_no_image_is_enlarged_beyond_twice_its_size() -> None:
    sizes = choose_sizes([image(3.0, side=128)], **REDUCED)
    assert (sizes.train, sizes.test, sizes.crop) == (256, 256, None)
    tiny = choose_sizes([image(3.0, side=36)], **REDUCED)
    assert (tiny.train, tiny.test, tiny.crop) == (96, 96, None)


def test_one_point_a_thing_goes_by_the_distance_of_neighbours() -> None:
    near = [image(10.0, side=256, k=1)]  # a grid of 64 px: whole images at the least size
    assert choose_sizes(near, **REDUCED).crop is None
    for segment in near[0]["points"][:-1]:
        segment["coords"] = (np.array(segment["coords"]) / 5).tolist()  # of 13 px
    sizes = choose_sizes(near, **REDUCED)
    assert sizes.crop is not None and sizes.test == 512 and "roughly" in sizes.why


def test_without_things_the_network_has_its_own_size() -> None:
    sizes = choose_sizes([image(30.0, things=0)], **REDUCED)
    assert (sizes.train, sizes.test, sizes.crop) == (256, 256, None)


def test_crops_that_would_lose_the_stuff_are_larger_or_not_made() -> None:
    """A background of one point has none in most crops, and things would take its pixels."""

    def sizes(stuff: int):
        return choose_sizes([image(20.0, stuff=stuff, seed=n) for n in range(50)], **REDUCED)

    many, few, one = sizes(20), sizes(7), sizes(1)
    assert many.crop is not None and few.crop is not None
    assert many.crop < few.crop and "lose" in few.why and "lose" not in many.why
    assert one.crop is None and one.train == one.test == 320


def test_crops_are_not_made_for_a_little_more_scale() -> None:
    """Whole images of 176 px may be enlarged to 320 px at this cost, and to 352 px at all."""
    sizes = choose_sizes([image(7.0, side=176, seed=n) for n in range(20)], **REDUCED)
    assert (sizes.train, sizes.test, sizes.crop) == (320, 320, None)


def test_a_wish_is_taken_as_it_is() -> None:
    sizes = choose_sizes([image(20.0)], **REDUCED, wanted=333)
    assert (sizes.train, sizes.test, sizes.crop) == (333, 333, None)


def test_the_lost_share_is_the_probability_of_an_empty_crop() -> None:
    rng = np.random.default_rng(1)
    dicts = [
        {
            "height": 100,
            "width": 100,
            "points": [{"isthing": False, "coords": rng.uniform(0, 100, (k, 2)).tolist()}],
        }
        for k in [4] * 100
    ]
    # Of stuff everywhere: none of the three other points in a crop of one half.
    centres = np.random.default_rng(2).uniform(0.25, 0.75, (20_000, 2))
    probe = centres + rng.uniform(-0.25, 0.25, (20_000, 2))
    others = np.random.default_rng(3).uniform(0, 1, (20_000, 3, 2))
    inside = (abs(others - centres[:, None]) < 0.25).all(axis=2)
    assert ((probe >= 0) & (probe <= 1)).all()
    assert lost_share(dicts, 0.5) == pytest.approx((~inside).all(axis=1).mean(), abs=0.05)
    assert lost_share(dicts, 1.0) == 0.0
    things = [{**d, "points": [{**s, "isthing": True} for s in d["points"]]} for d in dicts]
    assert lost_share(things, 0.5) == 0.0

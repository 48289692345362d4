"""Tiles of a large image: what was one thing is one again, and no half things are left."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fdd.inference.tiles import TiledPredictor, Tiling, tile_starts

CELL, NUCLEUS, GROUND, SKY = 0, 1, 2, 3


def scene(height=150, width=210, count=25, seed=0):
    """An image whose pixels say what is there: things that do not touch their own kind, over ground
    and sky. Returns the image, and ids and classes of the truth."""
    rng = np.random.default_rng(seed)
    ids = np.where(np.arange(height)[:, None] < height // 3, 1, 2) * np.ones((1, width), int)
    classes = [-1, SKY, GROUND]
    y, x = np.mgrid[:height, :width]
    for _ in range(count):
        cy, cx, ry, rx = (*rng.uniform(0, (height, width)), *rng.uniform(3, 14, 2))
        ids[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = len(classes)
        classes.append(int(rng.integers(2)))
    ids[60:64, 10:200] = len(classes)  # a long one, over several tiles
    classes.append(CELL)
    return np.stack([ids, ids * 0, ids * 0], -1).astype(np.uint8), ids, classes


def reader(classes, blind=lambda ids, shape: ids):
    """A predictor that reads what pixels say; ``blind`` takes away what it does not find."""

    def predict(image):
        truth = blind(image[..., 0].astype(int), image.shape[:2])
        found = [n for n in np.unique(truth) if n]
        # Ids and their order are the tile's own.
        local = {n: len(found) - k for k, n in enumerate(found)}
        ids = np.zeros(truth.shape, np.int64)
        for n, own in local.items():
            ids[truth == n] = own
        segments = [
            {
                "id": own,
                "category_id": classes[n],
                "isthing": classes[n] <= NUCLEUS,
                "score": 1 - n / 100,
                "area": int((truth == n).sum()),
            }
            for n, own in local.items()
        ]
        return ids, segments[::-1]

    return predict


def assert_same_partition(found, truth):
    pairs = {(int(a), int(b)) for a, b in zip(found.ravel(), truth.ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("tiling", [(64, 16), (64, 32), (48, 8), (100, 50), (64, 1), (97, 31)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_perfect_predictor_is_perfect_in_tiles(tiling, seed):
    image, truth, classes = scene(seed=seed)
    ids, segments = TiledPredictor(reader(classes), Tiling(*tiling))(image)
    # Things whose parts are not connected inside of a tile are told apart by their numbers here.
    assert_same_partition(ids, truth)
    areas = np.bincount(ids.ravel())
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    scores = [s["score"] for s in segments]
    assert scores == sorted(scores, reverse=True)
    for segment in segments:
        assert segment["area"] == areas[segment["id"]]
        n = int(truth[ids == segment["id"]][0])
        assert segment["category_id"] == classes[n]
        assert segment["isthing"] == (classes[n] <= NUCLEUS)
        assert segment["score"] == pytest.approx(1 - n / 100)


@pytest.mark.parametrize("side", [210, 500])
def test_an_image_no_larger_than_a_tile_is_segmented_as_it_is(side):
    image, _, classes = scene()
    calls = []

    def predict(given):
        calls.append(given)
        return reader(classes)(given)

    ids, segments = TiledPredictor(predict, Tiling(side, 10))(image)
    expected, described = reader(classes)(image)
    assert len(calls) == 1 and calls[0] is image
    assert np.array_equal(ids, expected) and segments == described


def test_a_thing_that_one_tile_misses_is_whole_or_not_there():
    """Near the edge of a tile little is seen of a thing, and the network may miss it."""
    image, truth, classes = scene(count=60, seed=3)

    def blind(ids, shape):
        kept = ids.copy()
        for n in np.unique(ids):
            if n and classes[n] <= NUCLEUS:
                rows, columns = np.nonzero(ids == n)
                at_edge = min(rows.min(), columns.min()) == 0 or (
                    rows.max() == shape[0] - 1 or columns.max() == shape[1] - 1
                )
                if at_edge and n % 2:
                    kept[ids == n] = 2  # ground
        return kept

    ids, segments = TiledPredictor(reader(classes, blind), Tiling(80, 40))(image)
    for segment in segments:
        if segment["isthing"]:
            mask = ids == segment["id"]
            owners, counts = np.unique(truth[mask], return_counts=True)
            n = int(owners[counts.argmax()])
            long = n == len(classes) - 1  # longer than a tile: all tiles see its ends
            assert long or np.array_equal(mask, truth == n), (n, counts)
    assert sum(s["isthing"] for s in segments) > 20


def test_things_of_two_classes_at_one_place_are_not_joined():
    image = np.full((40, 100, 3), 5, np.uint8)
    calls = []

    def predict(given):
        calls.append(given)
        category = CELL if len(calls) == 1 else NUCLEUS
        segment = {"id": 4, "category_id": category, "isthing": True, "score": 0.5, "area": 1}
        return np.full(given.shape[:2], 4, np.int64), [segment]

    ids, segments = TiledPredictor(predict, Tiling(60, 20))(image)
    assert len(calls) == 2 and len(segments) == 2
    assert {s["category_id"] for s in segments} == {CELL, NUCLEUS}
    assert (ids > 0).all()


def test_nothing_found_anywhere():
    def predict(image):
        return np.zeros(image.shape[:2], np.int64), []

    ids, segments = TiledPredictor(predict, Tiling(64, 16))(np.zeros((100, 300, 3), np.uint8))
    assert segments == [] and ids.shape == (100, 300) and not ids.any()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 450, 10_000])
@pytest.mark.parametrize("tiling", [(64, 0), (64, 16), (64, 32), (61, 30)])
def test_tiles_cover_an_axis_and_overlap_enough(length, tiling):
    tiling = Tiling(*tiling)
    starts = tile_starts(length, tiling)
    assert starts[0] == 0 and starts[-1] == max(0, length - tiling.side)
    for a, b in itertools.pairwise(starts):
        assert 0 < b - a <= tiling.side - tiling.overlap
    assert len(starts) == 1 or len(starts) < 2 + length / (tiling.side - tiling.overlap)


@pytest.mark.parametrize(("side", "overlap"), [(16, 0), (64, 33), (64, -1)])
def test_tilings_that_are_refused(side, overlap):
    with pytest.raises(ValueError, match="expected"):
        Tiling(side, overlap)

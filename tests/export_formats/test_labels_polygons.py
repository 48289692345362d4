"""Outlines of masks: exact, whatever their parts and holes."""

import cv2
import numpy as np
import pytest

from fdd.export_formats.polygons import mask_polygon, mask_rings, signed_area


def masks():
    rng = np.random.default_rng(0)
    yield "pixel", np.eye(1, dtype=bool)
    yield "full", np.ones((5, 7), bool)
    yield "diagonal", np.eye(4, dtype=bool)
    yield "anti", np.eye(4, dtype=bool)[::-1]
    ring = np.ones((7, 9), bool)
    ring[2:5, 3:6] = False
    yield "hole", ring
    ring = ring.copy()
    ring[3, 4] = True
    yield "island in a hole", ring
    corner = np.ones((4, 4), bool)
    corner[1, 1] = corner[2, 2] = False
    yield "two holes at a corner", corner
    stairs = np.tril(np.ones((6, 6), bool))
    yield "stairs", stairs
    for share in (0.2, 0.5, 0.8):
        yield f"noise {share}", rng.random((17, 23)) < share
    yield "blobs", cv2.blur(rng.random((40, 50)), (5, 5)) > 0.5


MASKS = dict(masks())


def fill(polygon, height, width):
    """Even-odd rule at the pixels' centres."""
    inside = np.zeros((height, width), bool)
    ends = np.roll(polygon, -1, 0)
    y = np.arange(height) + 0.5
    for (x0, y0), (x1, y1) in zip(polygon.tolist(), ends.tolist(), strict=True):
        if y0 == y1:
            continue
        rows = np.flatnonzero((y > min(y0, y1)) & (y < max(y0, y1)))
        crossing = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
        inside[rows] ^= (np.arange(width) + 0.5)[None] > crossing[:, None]
    return inside


@pytest.mark.parametrize("name", MASKS)
def test_one_polygon_encloses_exactly_the_mask(name):
    mask = np.zeros((60, 70), bool)
    height, width = MASKS[name].shape
    mask[7 : 7 + height, 11 : 11 + width] = MASKS[name]
    polygon = mask_polygon(mask)
    assert np.array_equal(fill(polygon, 60, 70), mask)
    assert abs(signed_area(polygon)) == mask.sum()
    assert abs(sum(map(signed_area, mask_rings(mask)))) == mask.sum()


def test_at_the_border_of_the_image():
    mask = MASKS["noise 0.8"]
    assert np.array_equal(fill(mask_polygon(mask), *mask.shape), mask)


def test_corners_of_a_pixel_and_no_superfluous_ones():
    assert sorted(mask_polygon(MASKS["pixel"]).tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert len(mask_polygon(MASKS["full"])) == 4
    assert len(mask_polygon(MASKS["stairs"])) == 14


def test_nothing_has_no_outline():
    assert mask_polygon(np.zeros((3, 4), bool)).shape == (0, 2)
    assert mask_rings(np.zeros((0, 4), bool)) == []

"""Maps of probabilities over photographs."""

from __future__ import annotations

import numpy as np
import pytest

from fdd.visualization import draw_confidence, make_panels
from fdd.visualization.draw import confidence_colors

GREY = np.full((6, 8, 3), 100, np.uint8)


def test_lightness_rises_with_confidence() -> None:
    luma = confidence_colors().astype(float) @ [0.299, 0.587, 0.114]
    assert confidence_colors().shape == (256, 3)
    assert (np.diff(luma) > -1).all() and luma[-1] > luma[0] + 120


def test_the_colour_is_that_of_the_probability() -> None:
    confidence = np.zeros((6, 8), np.float32)
    confidence[:, 4:] = 1.0
    picture = draw_confidence(GREY, confidence, alpha=1.0)
    colors = confidence_colors()
    assert (picture[:, :4] == colors[0]).all() and (picture[:, 4:] == colors[255]).all()
    blend = draw_confidence(GREY, confidence, alpha=0.75)
    np.testing.assert_allclose(blend[0, 0], 25 + 0.75 * colors[0].astype(float), atol=0.51)


def test_unknown_and_out_of_range_values() -> None:
    confidence = np.array([[np.nan, 7.0], [-3.0, 0.5]], np.float32)
    picture = draw_confidence(GREY[:2, :2], confidence, alpha=1.0)
    assert (picture[0, 0] == 100).all()
    assert (picture[0, 1] == confidence_colors()[255]).all()
    assert (picture[1, 0] == confidence_colors()[0]).all()


def test_any_size_fits_and_the_image_is_left_alone() -> None:
    before = GREY.copy()
    picture = draw_confidence(GREY, np.ones((24, 32), np.float32), upscale_to=16)
    assert picture.shape == (12, 16, 3) and (before == GREY).all()
    assert draw_confidence(GREY, np.zeros((0, 0))).shape == GREY.shape
    with pytest.raises(ValueError, match=r"\(h, w\)"):
        draw_confidence(GREY, np.zeros((2, 2, 2)))


def test_panels_have_it_beside_the_label() -> None:
    panels = make_panels(
        GREY,
        [{"name": "a", "isthing": True}],
        points=[],
        pseudo_label=np.zeros((6, 8), int),
        classes=[0],
        confidence=np.ones((6, 8)),
        semantic=np.zeros((6, 8), int),
        upscale_to=8,
    )
    assert list(panels) == ["Points", "Pseudo label", "Confidence", "Auxiliary semantics"]

"""Colours of classes follow their names, and stay apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fdd.points.class_colors import class_colors, from_oklab, to_oklab
from fdd.points.classes import ClassFileError, parse_classes


def closest(colors: np.ndarray) -> float:
    labs = [to_oklab(c) for c in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(labs, 2))


def test_colors_are_what_names_suggest() -> None:
    names = ["Sky", "grass-merged", "river", "roads", "tree_other"]
    sky, grass, river, road, tree = class_colors(names).astype(int)
    assert sky[2] > 200 and sky[2] > sky[0], "light blue"
    assert grass.argmax() == tree.argmax() == 1 and grass.sum() > tree.sum()
    assert river.argmax() == 2 and np.ptp(road) < 30


def test_a_word_inside_of_another_suggests_nothing() -> None:
    plain = class_colors(["a", "b", "c"])
    assert (class_colors(["skylark", "treehouse", "icecream"]) == plain).all()


def test_names_that_suggest_the_same_are_told_apart_by_lightness() -> None:
    first, second = class_colors(["sky", "sky-other"])
    assert closest(np.stack([first, second])) >= 0.05
    hues = [np.arctan2(*to_oklab(c)[:0:-1]) for c in (first, second)]
    assert hues[0] == pytest.approx(hues[1], abs=0.1)


def test_many_classes_have_colors_of_their_own() -> None:
    assert len(np.unique(class_colors([f"class {k}" for k in range(150)]), axis=0)) == 150
    assert closest(class_colors([f"class {k}" for k in range(16)])) >= 0.09


def test_what_was_chosen_is_kept_and_the_others_keep_away_from_it() -> None:
    chosen = {"b": (0, 114, 178), "sky": (255, 0, 0)}
    colors = class_colors(["a", "b", "sky"], chosen)
    assert colors[1].tolist() == [0, 114, 178] and colors[2].tolist() == [255, 0, 0]
    assert closest(colors) >= 0.09, "a would have had the colour of b"


def test_no_classes_have_no_colors() -> None:
    assert class_colors([]).shape == (0, 3)


def test_oklab_there_and_back() -> None:
    for color in ([0, 0, 0], [255, 255, 255], [12, 200, 99]):
        assert from_oklab(to_oklab(np.array(color))).tolist() == color


@pytest.mark.parametrize("color", ["#1e90FF", [30, 144, 255]])
def test_a_class_list_may_give_colors(color) -> None:
    entries = [{"name": "cell", "isthing": True, "color": color}, {"name": "x", "isthing": False}]
    assert parse_classes(entries).colors == {"cell": (30, 144, 255)}
    assert parse_classes({"things": [{"name": "cell", "color": color}]}).colors["cell"][0] == 30


@pytest.mark.parametrize("color", ["blue", "#12", [1, 2], [1, 2, 256], [1, 2, -1], [1.5, 2, 3], 7])
def test_a_color_that_is_none_names_its_class(color) -> None:
    with pytest.raises(ClassFileError, match=r"'cell'.*#1e90ff"):
        parse_classes([{"name": "cell", "isthing": True, "color": color}])

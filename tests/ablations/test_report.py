"""Means, spreads and the comparison of orders, against figures made by hand."""

from __future__ import annotations

import math

import cv2
import pytest

from fdd.ablations.figure import draw_table
from fdd.ablations.report import Disagreement, Figure, disagreements, lines_of, markdown
from fdd.ablations.tables import POINTS, Setting, read_tables, setting_of

TABLES, DATA = read_tables()
SHAPES = DATA["shapes"]


def record(setting: Setting, value: float) -> dict:
    overrides = dict(setting.overrides)
    maker = overrides.get("MODEL.FDD.LABEL_MAKER", "learned")
    return {
        "val": {"PQ": value},
        "labels": {"polygon/PQ": 1.0, "learned/PQ": 2.0, f"{maker}/PQ": value + 10},
        "overrides": overrides,
    }


def records_of(number: int, values: dict[str, list[list[float]]]) -> dict:
    """Records by setting from the PQ of each row of a table, by column."""
    out = {}
    for points, rows in values.items():
        for row, some in zip(TABLES[number].rows, rows, strict=True):
            setting = setting_of(row, SHAPES, points)
            out[setting.points, setting.slug] = [record(setting, value) for value in some]
    return out


def test_figures_are_mean_and_sample_deviation():
    figure = Figure.of([50.0, 52.0, 57.0])
    assert figure.mean == pytest.approx(53.0)
    assert figure.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert str(figure) == "53.0 ± 3.6"
    assert str(Figure.of([50.0])) == "50.0" and Figure.of([]) is None


def test_rows_get_their_own_runs_and_the_labels_they_train_on():
    settings = {"P1": [[4.0], [1.0], [2.0, 4.0]], "P10": [[], [5.0], [6.0]]}
    lines = lines_of(TABLES[7], SHAPES, records_of(7, settings))
    assert [line.ours["P1"].mean for line in lines] == [4.0, 1.0, 3.0]
    assert lines[0].ours["P10"] is None and lines[2].paper == {"P1": 44.8, "P10": 60.2}
    makers = lines_of(TABLES[9], SHAPES, records_of(9, {p: [[20.0]] * 5 for p in POINTS}))
    by_name = {line.name: line for line in makers}
    # The polygon's own labels, not the yardstick beside the learned ones.
    assert by_name["nearest point"].labels["P1"].mean == 30.0
    assert by_name["polygon (PanopticFCN)"].labels["P1"].mean == 30.0


def test_orders_that_differ_are_named_and_judged_by_the_spread():
    # Paper, P1: center 53.0 > uniform 52.0 > border 44.8.
    values = {"P1": [[10.0, 12.0], [20.0, 22.0], [10.5, 13.5]], "P10": [[], [], []]}
    found = disagreements(lines_of(TABLES[7], SHAPES, records_of(7, values)))
    assert [(d.better, d.worse, d.is_clear) for d in found] == [
        ("center-biased", "uniform", True),
        ("center-biased", "border-biased", False),
    ]
    assert found[0].paper == pytest.approx(1.0) and found[0].ours == pytest.approx(-10.0)
    assert found[1].spread == pytest.approx(math.sqrt((2.0 + 4.5) / 2))
    assert "more than two spreads" in str(found[0]) and "within two spreads" in str(found[1])


def test_the_limit_is_two_spreads():
    at = Disagreement("P1", "a", "b", paper=1.0, ours=-4.0, spread=2.0)
    beyond = Disagreement("P1", "a", "b", paper=1.0, ours=-4.1, spread=2.0)
    assert not at.is_clear and beyond.is_clear


def test_the_papers_own_order_is_said_and_gaps_are_counted():
    values = {"P1": [[1.0], [2.0]], "P10": [[1.0], [2.0]]}
    lines = lines_of(TABLES[3], SHAPES, records_of(3, values))
    text = markdown(TABLES[3], lines, seeds=1)
    assert "The order of the rows is the paper's." in text and "lack runs" not in text
    assert "| position | 1.0 | 11.0 | 14.2 | 1.0 | 11.0 | 62.7 |" in text
    assert "4 of 4 figures lack runs" in markdown(TABLES[3], lines, seeds=2)


def test_rows_with_equal_published_figures_have_no_order():
    values = {points: [[9.0], [1.0], [1.0], [1.0], [3.0]] for points in POINTS}
    found = disagreements(lines_of(TABLES[9], SHAPES, records_of(9, values)))
    assert all("nearest" not in d.better + d.worse for d in found)  # no figure in the paper


def test_the_figure_is_a_picture_even_with_gaps(tmp_path):
    lines = lines_of(TABLES[2], SHAPES, records_of(2, {"P1": [[3.0, 5.0], [], [1.0], [2.0]]}))
    path = tmp_path / "deep" / "table.png"
    draw_table(TABLES[2], lines, "shapes", path)
    image = cv2.imread(str(path))
    assert image is not None and min(image.shape[:2]) > 200 and image.std() > 5

"""Means, spreads and the comparison of orders, against figures made by hand."""

from __future__ import annotations

import math

import cv2
import pytest

from fdd.ablations.report import Figure, Pair, compare, draw_table, lines_of, markdown
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
    # The polygon's own labels, not the baseline beside the learned ones.
    assert by_name["nearest point"].labels["P1"].mean == 30.0
    assert by_name["polygon (PanopticFCN)"].labels["P1"].mean == 30.0


def test_orders_that_differ_are_named_and_judged_by_the_spread():
    # Paper, P1: center 53.0 > uniform 52.0 > border 44.8.
    values = {"P1": [[10.0, 12.0], [20.0, 22.0], [10.5, 13.5]], "P10": [[], [], []]}
    lines = lines_of(TABLES[7], SHAPES, records_of(7, values))
    pairs = {(p.better, p.worse): p for p in compare(lines)}
    assert [(p.agrees, p.is_clear) for p in pairs.values()] == [
        (False, True),
        (False, False),
        (True, True),
    ]
    first = pairs["center-biased", "uniform"]
    assert first.paper == pytest.approx(1.0) and first.ours == pytest.approx(-10.0)
    second = pairs["center-biased", "border-biased"]
    assert second.spread == pytest.approx(math.sqrt((2.0 + 4.5) / 2))
    assert "more than two spreads" in str(first) and "within two spreads" in str(second)
    text = markdown(TABLES[7], lines, seeds=2)
    assert "Of 3 pairs of rows 1 have the paper's order, 1 of them by more than" in text
    assert text.index("over «uniform»") < text.index("over «border-biased»")  # clear ones first


def test_the_limit_is_two_spreads_and_one_run_is_no_spread():
    def pair(ours: float, runs: int = 3) -> Pair:
        return Pair("P1", "a", "b", 1.0, ours, 2.0, runs)

    assert not pair(-4.0).is_clear and pair(-4.1).is_clear and pair(4.1).is_clear
    assert not pair(-9.0, runs=1).is_clear and "not judged" in str(pair(-9.0, runs=1))
    assert not pair(0.0).agrees


def test_agreement_and_gaps_are_counted():
    values = {"P1": [[1.0, 1.2], [2.0, 2.2]], "P10": [[1.0], [2.0]]}
    lines = lines_of(TABLES[3], SHAPES, records_of(3, values))
    text = markdown(TABLES[3], lines, seeds=1)
    assert "Of 2 pairs of rows 2 have the paper's order, 1 of them by" in text
    assert "lack runs" not in text and "The others" not in text
    assert "| position | 1.1 ± 0.1 | 11.1 ± 0.1 | 14.2 | 1.0 | 11.0 | 62.7 |" in text
    assert "2 of 4 figures lack runs" in markdown(TABLES[3], lines, seeds=2)
    empty = markdown(TABLES[3], lines_of(TABLES[3], SHAPES, {}), seeds=1)
    assert "nothing to compare" in empty and "Of " not in empty


def test_rows_without_a_published_figure_have_no_order():
    values = {points: [[9.0], [1.0], [1.0], [1.0], [3.0]] for points in POINTS}
    pairs = compare(lines_of(TABLES[9], SHAPES, records_of(9, values)))
    assert pairs and all("nearest" not in p.better + p.worse for p in pairs)


def test_the_figure_is_a_picture_even_with_gaps(tmp_path):
    lines = lines_of(TABLES[2], SHAPES, records_of(2, {"P1": [[3.0, 5.0], [], [1.0], [2.0]]}))
    path = tmp_path / "deep" / "table.png"
    draw_table(TABLES[2], lines, "shapes", path)
    image = cv2.imread(str(path))
    assert image is not None and min(image.shape[:2]) > 200 and image.std() > 5

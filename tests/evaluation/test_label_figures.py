"""Figures of labels: worked out by hand, and against the evaluator's own averages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fdd.evaluation.label_figures import InstanceFigures, LabelFigureTotals
from fdd.evaluation.panoptic_quality import ImageQuality, class_pq

CATEGORIES = [
    {"id": 1, "name": "cell", "isthing": True},
    {"id": 2, "name": "nucleus", "isthing": True},
    {"id": 3, "name": "ground", "isthing": False},
]


def figures(
    classes,
    points,
    held,
    classed,
    confidence,
    empty=None,
    swallowing=None,
    left_out=None,
    expected=None,
):
    none = [False] * len(classes)
    count, found, nearest = (
        np.array(left_out or [[0, 0, 0]] * len(classes), np.int64).reshape(-1, 3).T
    )
    return InstanceFigures(
        np.array(classes, np.int64),
        np.array(points, np.int64),
        np.array(held, np.int64),
        np.array(classed, np.int64),
        np.array(confidence, float),
        np.array(empty or none, bool),
        np.array(swallowing or none, bool),
        count,
        found,
        nearest,
        np.array(expected or [0.5] * len(classes), float),
    )


NAN = math.nan
ONE = figures(
    [0, 0, 2, 1],
    [1, 3, 9, 4],
    [0, 3, 4, 4],
    [1, 3, 9, 4],
    [0.5, 0.8, 0.6, NAN],
    empty=[False, False, False, True],
    expected=[0.25, 0.75, 0.3, 0.0],
)


def quality(tp=(), ious=(), fp=(), fn=()) -> ImageQuality:
    return ImageQuality(
        np.array(tp, np.int64),
        np.array(ious, float),
        np.array(fp, np.int64),
        np.array(fn, np.int64),
    )


def test_scores_by_hand() -> None:
    """As in PQ: over the instances of a class, then over the classes."""
    assert ONE.class_scores() == pytest.approx({0: 50.0, 1: 0.0, 2: 30.0})
    assert ONE.score() == pytest.approx(80 / 3)


def test_an_instance_that_swallows_the_image_has_no_merit() -> None:
    made = figures(
        [2, 0], [5, 5], [5, 0], [5, 0], [0.99, NAN], swallowing=[True, False], expected=[0.9, 0.2]
    )
    assert made.class_scores() == pytest.approx({2: 0.0, 0: 20.0})


def test_segments_with_one_point_are_counted() -> None:
    totals = LabelFigureTotals(CATEGORIES)
    totals.add(ONE)
    assert totals.overall()["lone"] == 1 and totals.by_class()[2]["lone"] == 0


def test_scores_do_not_depend_on_the_order_of_instances() -> None:
    order = np.array([2, 0, 3, 1])
    turned = InstanceFigures(*(getattr(ONE, f)[order] for f in ONE.__dataclass_fields__))
    assert turned.score() == pytest.approx(ONE.score())
    assert turned.class_scores() == pytest.approx(ONE.class_scores())


def test_an_image_without_points_has_no_score() -> None:
    none = figures([], [], [], [], [])
    assert math.isnan(none.score()) and none.class_scores() == {}
    totals = LabelFigureTotals(CATEGORIES)
    totals.add(none)
    overall = totals.overall()
    assert overall["images"] == 1 and overall["instances"] == 0
    assert math.isnan(overall["score"]) and math.isnan(overall["point_recall"])
    assert totals.by_class() == [None, None, None]


def test_class_pq_by_hand() -> None:
    found = class_pq(quality(tp=[0, 0], ious=[0.9, 0.6], fp=[0, 2], fn=[1]))
    assert found == pytest.approx({0: 100 * 1.5 / 2.5, 1: 0.0, 2: 0.0})
    assert class_pq(quality()) == {}


def test_totals_by_hand() -> None:
    totals = LabelFigureTotals(CATEGORIES)
    totals.add(ONE)
    two = figures([0], [1], [1], [1], [0.9], swallowing=[True], expected=[0.1])
    totals.add(two)
    overall = totals.overall()
    assert overall["images"] == 2 and overall["instances"] == 5 and overall["points"] == 18
    assert overall["empty"] == 1 and overall["swallowed"] == 1 and overall["scored"] == 0
    assert overall["point_recall"] == pytest.approx(100 * 12 / 18)
    assert overall["class_recall"] == pytest.approx(100.0)
    assert overall["confidence"] == pytest.approx(100 * (0.5 + 0.8 + 0.6 + 0.9) / 4)
    assert overall["score"] == pytest.approx(ONE.score() / 2)
    assert math.isnan(overall["label_pq"])
    cell, nucleus, ground = totals.by_class()
    assert cell["images"] == 2 and cell["instances"] == 3
    assert cell["point_recall"] == pytest.approx(100 * 4 / 5)
    assert nucleus["empty"] == 1 and math.isnan(nucleus["confidence"])
    assert ground["images"] == 1 and ground["point_recall"] == pytest.approx(100 * 4 / 9)


def test_left_out_points_are_shares_of_those_left_out() -> None:
    totals = LabelFigureTotals(CATEGORIES)
    one = figures([0, 2], [3, 1], [3, 1], [3, 1], [1, 1], left_out=[[2, 1, 2], [0, 0, 0]])
    two = figures([0], [9], [9], [9], [1], left_out=[[2, 2, 1]])
    totals.add(one)
    totals.add(two)
    overall, (cell, _, ground) = totals.overall(), totals.by_class()
    assert overall["left_out"] == cell["left_out"] == 4 and ground["left_out"] == 0
    assert overall["found"] == pytest.approx(75.0) == cell["found"]
    assert overall["rule_found"] == pytest.approx(75.0)
    assert math.isnan(ground["found"])  # one point of it: there is nothing to leave out


def test_masks_bring_in_classes_that_have_no_point() -> None:
    totals = LabelFigureTotals(CATEGORIES)
    labels = quality(tp=[0], ious=[0.8], fn=[2])
    predicted, rule = quality(tp=[0, 2], ious=[0.6, 0.7]), quality(fp=[0], fn=[0, 2])
    totals.add(figures([0], [1], [1], [1], [0.9]), labels, predicted, rule)
    cell, nucleus, ground = totals.by_class()
    assert cell["label_pq"] == pytest.approx(80.0)
    assert cell["prediction_pq"] == pytest.approx(60.0)
    assert nucleus is None
    assert ground["images"] == 1 and ground["instances"] == 0
    assert ground["label_pq"] == 0.0 and ground["prediction_pq"] == pytest.approx(70.0)
    overall = totals.overall()
    assert overall["scored"] == 1
    assert overall["label_pq"] == pytest.approx(40.0)
    assert overall["prediction_pq"] == pytest.approx(65.0)
    assert overall["rule_pq"] == cell["rule_pq"] == 0.0

"""Counts of labels, and the estimate of what they cost, against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from fdd.points import Category, PointDataset, PointImage, PointSegment
from fdd.points.annotation_cost import CostAssumptions, Seconds, estimate_cost, format_cost
from fdd.points.statistics import class_table, count_points, format_statistics, format_table

CLASSES = [Category(1, "cell", True), Category(2, "glass", False), Category(3, "dust", True)]


def points(n: int, row: int):
    return [(float(x) + 0.5, row + 0.5) for x in range(n)]


def dataset() -> PointDataset:
    """Two cells (3 and 1 points) and glass (2); glass alone (1); nothing."""
    first = [PointSegment(1, 1, points(3, 0)), PointSegment(2, 1, points(1, 1))]
    first.append(PointSegment(3, 2, points(2, 2)))
    images = [
        PointImage("a", "a.png", 9, 9, first),
        PointImage("b", "b.png", 9, 9, [PointSegment(1, 2, points(1, 0))]),
        PointImage("c", "c.png", 9, 9, []),
    ]
    return PointDataset(CLASSES, images)


def test_counts_by_hand() -> None:
    counts = count_points(dataset())
    assert (counts.images, counts.segments, counts.points) == (3, 4, 7)
    assert [(c.category.name, c.images, c.segments, c.points) for c in counts.classes] == [
        ("cell", 1, 2, 4),
        ("glass", 2, 2, 3),
        ("dust", 0, 0, 0),
    ]
    assert counts.points_per_segment == {1: 2, 2: 1, 3: 1}
    assert counts.instances_per_image == {0: 2, 2: 1}
    assert counts.without_points == ("c.png",)
    assert counts.without_things == ("b.png", "c.png")
    assert (counts.most_instances, counts.fullest) == (2, "a.png")
    assert json.loads(json.dumps(counts.as_json()))["most_instances"] == 2


def test_an_empty_data_set_counts_nothing() -> None:
    counts = count_points(PointDataset(CLASSES, []))
    assert (counts.images, counts.segments, counts.points, counts.most_instances) == (0, 0, 0, 0)
    text = format_statistics(counts, 300)
    assert text.count("never labelled") == 3
    assert format_cost(estimate_cost(counts), counts)


def test_cost_by_hand() -> None:
    counts = count_points(dataset())
    cost = estimate_cost(
        counts,
        CostAssumptions(
            per_image=Seconds(10, 10),
            per_class=Seconds(1, 2),
            first_point=Seconds(3, 4),
            per_point=Seconds(0.5, 1),
            per_polygon=Seconds(20, 50),
        ),
    )
    # 3 images; 9 pairs of image and class, of which 3 occur: 6 absent, 3 first points, 4 further.
    assert cost.points == Seconds(30 + 6 + 9 + 2, 30 + 12 + 12 + 4)
    assert cost.polygons == Seconds(30 + 6 + 80, 30 + 12 + 200)
    assert cost.ratio == pytest.approx((116 / 58, 242 / 47))


def test_one_point_on_photographs_is_what_was_published() -> None:
    """Bearman et al.: 20 classes, 1.5 of them in an image with 2.8 objects: 22.1 s for points of
    classes, 239.7 s for masks (their own sums)."""
    assumed = CostAssumptions()
    classes, present = 20, 1.5
    by_class = assumed.per_class.low * (classes - present) + assumed.first_point.low * present
    assert by_class == pytest.approx(22.1)
    masks = assumed.per_class.low * (classes - present) + 79 * 2.8
    assert masks == pytest.approx(239.7, abs=0.1)


def test_the_assumptions_are_printed_with_their_options() -> None:
    counts = count_points(dataset())
    text = format_cost(estimate_cost(counts), counts)
    for option in ("image", "class", "first-point", "point", "polygon"):
        assert f"--seconds-{'per-' if option not in ('first-point',) else ''}{option}" in text
    for figure in ("2.4 s", "0.9 s", "54 to 79.2 s", "Bearman et al.", "COCO"):
        assert figure in text
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", Seconds(60, 60)), ("54-79.2", Seconds(54, 79.2)), ("0", Seconds(0, 0))],
)
def test_seconds_are_read(text: str, seconds: Seconds) -> None:
    assert Seconds.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "a", "5-", "-5", "9-5", "nan", "1-inf", "5 s"])
def test_what_is_not_a_number_of_seconds(text: str) -> None:
    with pytest.raises(ValueError, match="not a number of seconds"):
        Seconds.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (Seconds(5, 5), "5.0 s"),
        (Seconds(90, 90), "1.5 min"),
        (Seconds(7200, 10800), "2.0 to 3.0 h"),
        (Seconds(0, 0), "0.0 s"),
    ],
)
def test_durations_are_for_people(seconds: Seconds, text: str) -> None:
    assert seconds.for_people() == text


def test_more_things_than_queries_are_told() -> None:
    counts = count_points(dataset())
    assert "can find 300" in format_statistics(counts, 300)
    unknown = format_statistics(counts)
    assert "can find" not in unknown and "must not be less" in unknown
    assert "NUM_QUERIES to 2 or more" in " ".join(format_statistics(counts, 1).split())


def test_tables_hold_their_columns() -> None:
    table = format_table([("name", "n"), ("細胞", "1"), ("a\nb", "22"), ("x" * 50, "3")], left=(0,))
    lines = table.splitlines()
    assert len(lines) == 4, "a line break in a name is no row"
    assert lines[1] == "細胞" + " " * 26 + " 1", "wide characters take two columns"
    assert lines[3].startswith("x" * 27 + "…")


def test_the_short_table_names_classes_that_occur() -> None:
    table = class_table(dataset())
    assert "dust" not in table and "(1 of 3 classes without a segment)" in table
    assert table.splitlines()[3].split() == ["total", "4", "7"]

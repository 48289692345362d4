"""What an action does to the points of one image."""

from __future__ import annotations

import math

import pytest

from fdd.annotate.actions import (
    AnnotatedImage,
    Content,
    InvalidEdit,
    Segment,
    apply_action,
    clean_action,
)
from fdd.points import Category
from fdd.points.structures import VoidStroke

CAR, PERSON, SKY, ROAD = 3, 7, 11, 0
CLASSES = [
    Category(CAR, "car", True),
    Category(PERSON, "person", True),
    Category(SKY, "sky", False),
    Category(ROAD, "road", False),
]
IMAGE = AnnotatedImage("a é", "a é.png", height=20, width=30)
BEFORE = (
    Segment(4, CAR, ((1.5, 1.5), (2.5, 1.5), (3.5, 9.0))),
    Segment(2, SKY, ((9.5, 9.5),)),
    Segment(8, PERSON, ((20.0, 4.0),)),
)


def do(kind, segments=BEFORE, new_id=9, void=(), **keys):
    action = clean_action({"kind": kind, **keys})
    content = Content(segments, void)
    after = apply_action(IMAGE, {c.id: c for c in CLASSES}, content, action, new_id)
    assert after.void == void
    return after.segments


@pytest.mark.parametrize(
    ("kind", "keys", "after"),
    [
        # A new thing; stuff of the image; stuff that is new; a segment, whatever the class.
        (
            "add",
            {"x": 5, "y": 6.25, "segment": None, "category_id": CAR},
            (*BEFORE, Segment(9, CAR, ((5.0, 6.25),))),
        ),
        (
            "add",
            {"x": 0, "y": 0, "category_id": SKY},
            (BEFORE[0], Segment(2, SKY, ((9.5, 9.5), (0.0, 0.0))), BEFORE[2]),
        ),
        (
            "add",
            {"x": 30, "y": 20, "segment": None, "category_id": ROAD},
            (*BEFORE, Segment(9, ROAD, ((30.0, 20.0),))),
        ),
        (
            "add",
            {"x": 21, "y": 4, "segment": 8, "category_id": CAR},
            (*BEFORE[:2], Segment(8, PERSON, ((20.0, 4.0), (21.0, 4.0)))),
        ),
        (
            "move",
            {"segment": 4, "point": 1, "x": 2.75, "y": 1.25},
            (Segment(4, CAR, ((1.5, 1.5), (2.75, 1.25), (3.5, 9.0))), *BEFORE[1:]),
        ),
        (
            "delete",
            {"segment": 4, "point": 0},
            (Segment(4, CAR, ((2.5, 1.5), (3.5, 9.0))), *BEFORE[1:]),
        ),
        ("delete", {"segment": 2, "point": 0}, (BEFORE[0], BEFORE[2])),
        ("delete_segment", {"segment": 4}, BEFORE[1:]),
        (
            "set_class",
            {"segment": 8, "category_id": CAR},
            (*BEFORE[:2], Segment(8, CAR, ((20.0, 4.0),))),
        ),
        (
            "set_class",
            {"segment": 8, "category_id": SKY},
            (BEFORE[0], Segment(2, SKY, ((9.5, 9.5), (20.0, 4.0)))),
        ),
        (
            "set_class",
            {"segment": 8, "category_id": ROAD},
            (*BEFORE[:2], Segment(8, ROAD, ((20.0, 4.0),))),
        ),
        (
            "set_class",
            {"segment": 2, "category_id": PERSON},
            (BEFORE[0], Segment(2, PERSON, ((9.5, 9.5),)), BEFORE[2]),
        ),
        ("set_class", {"segment": 2, "category_id": SKY}, BEFORE),
        (
            "merge",
            {"segment": 4, "into": 8},
            (
                BEFORE[1],
                Segment(8, PERSON, ((20.0, 4.0), *BEFORE[0].points)),
            ),
        ),
        (
            "split",
            {"segment": 4, "points": [2, 0]},
            (
                Segment(4, CAR, ((2.5, 1.5),)),
                *BEFORE[1:],
                Segment(9, CAR, ((1.5, 1.5), (3.5, 9.0))),
            ),
        ),
    ],
)
def test_actions(kind, keys, after):
    assert do(kind, **keys) == after


@pytest.mark.parametrize(
    ("kind", "keys", "says"),
    [
        ("add", {"x": 30.01, "y": 0, "category_id": CAR}, r"30\.01, 0\) lies outside.*<= 30"),
        ("add", {"x": 0, "y": -0.1, "category_id": CAR}, "outside"),
        ("add", {"x": math.nan, "y": 0, "category_id": CAR}, "x is nan"),
        ("add", {"x": 0, "y": math.inf, "category_id": CAR}, "y is inf"),
        ("add", {"x": 10**400, "y": 0, "category_id": CAR}, "x is 1000"),
        ("add", {"x": "5", "y": 0, "category_id": CAR}, "x is '5'"),
        ("add", {"x": True, "y": 0, "category_id": CAR}, "x is True"),
        ("add", {"y": 0, "category_id": CAR}, "x is None"),
        ("add", {"x": 0, "y": 0, "category_id": 5}, r"no class 5; expected one of 3 \(car\)"),
        ("add", {"x": 0, "y": 0, "category_id": [3]}, "no class"),
        ("add", {"x": 0, "y": 0, "category_id": False}, "no class False"),
        ("add", {"x": 0, "y": 0}, "no class None"),
        ("add", {"x": 0, "y": 0, "segment": 5}, "no segment 5; it has 4, 2, 8"),
        ("add", {"x": 0, "y": 0, "segment": {"id": 4}}, "no segment"),
        # On a pixel of another segment; exactly on a point of its own.
        ("add", {"x": 9.0, "y": 9.99, "category_id": CAR}, r"segment 2 \(sky\).*pixel x=9, y=9"),
        ("add", {"x": 2.5, "y": 1.5, "segment": 4}, "segment 4: there is a point"),
        ("move", {"segment": 8, "point": 0, "x": 1.9, "y": 1.0}, r"segment 4 \(car\)"),
        ("move", {"segment": 8, "point": 1, "x": 5, "y": 5}, "segment 8: there is no point 1"),
        ("move", {"segment": 8, "point": -1, "x": 5, "y": 5}, "no point -1"),
        ("move", {"segment": 8, "point": 0.0, "x": 5, "y": 5}, r"no point 0\.0"),
        ("delete", {"segment": 8, "point": None}, "no point None"),
        ("delete", {"segment": "8", "point": 0}, "no segment '8'"),
        ("delete_segment", {"segment": None}, "no segment None"),
        ("set_class", {"segment": 8, "category_id": 99}, "no class 99"),
        ("merge", {"segment": 8, "into": 8}, "into itself"),
        ("merge", {"segment": 8, "into": 1}, "no segment 1"),
        ("split", {"segment": 2, "points": [0]}, "'sky' is stuff"),
        ("split", {"segment": 4, "points": []}, "expected a list"),
        ("split", {"segment": 4, "points": "01"}, "expected a list"),
        ("split", {"segment": 4, "points": [0, 3]}, "no point 3"),
        ("split", {"segment": 4, "points": [0, 1, 2, 2]}, "leave one"),
    ],
)
def test_an_invalid_action_says_what_is_wrong(kind, keys, says):
    with pytest.raises(InvalidEdit, match=says):
        do(kind, **keys)


def test_a_split_leaves_no_pixel_to_two_segments():
    segment = Segment(1, CAR, ((1.2, 1.2), (1.8, 1.8), (5.0, 5.0)))
    with pytest.raises(InvalidEdit, match="pixel x=1, y=1"):
        do("split", (segment,), segment=1, points=[0])
    assert len(do("split", (segment,), segment=1, points=[0, 1])) == 2


def test_the_edge_belongs_to_the_last_pixel():
    segments = (Segment(1, CAR, ((30.0, 20.0),)),)
    with pytest.raises(InvalidEdit, match="pixel x=29, y=19"):
        do("add", segments, x=29.0, y=19.0, category_id=PERSON)
    assert len(do("add", segments, x=28.99, y=19.0, category_id=PERSON)) == 2


@pytest.mark.parametrize(
    "action", [None, [], "add", {}, {"kind": "explode"}, {"kind": ["add"]}, {"Kind": "add"}]
)
def test_what_is_not_an_action(action):
    with pytest.raises(InvalidEdit, match="kind"):
        clean_action(action)


def test_other_keys_are_left_out():
    assert clean_action({"kind": "undo", "x": 1, "who": "me"}) == {"kind": "undo"}


STROKES = (VoidStroke(4.0, ((10.0, 10.0),)), VoidStroke(2.0, ((1.0, 1.0), (5.0, 18.0))))


def paint(kind, void=STROKES, **keys):
    action = clean_action({"kind": kind, **keys})
    content = Content(BEFORE, void)
    after = apply_action(IMAGE, {c.id: c for c in CLASSES}, content, action, 9)
    assert after.segments == BEFORE
    return after.void


def test_strokes_are_painted_and_removed():
    new = VoidStroke(3.0, ((-4.0, 2.5), (40.0, 2.5)))
    assert paint("paint", width=3, line=[[-4, 2.5], [40, 2.5]]) == (*STROKES, new)
    assert paint("unpaint", strokes=[0]) == STROKES[1:]
    assert paint("unpaint", strokes=[1, 0]) == ()


@pytest.mark.parametrize(
    ("kind", "keys", "says"),
    [
        ("paint", {"line": [[1, 1]]}, "width"),
        ("paint", {"width": 0, "line": [[1, 1]]}, "width"),
        ("paint", {"width": 3, "line": []}, "line"),
        ("paint", {"width": 3, "line": [[1, math.inf]]}, "inf"),
        ("paint", {"width": 3, "line": "long"}, "line"),
        ("unpaint", {"strokes": [2]}, "among its 2"),
        ("unpaint", {"strokes": [-1]}, "among its 2"),
        ("unpaint", {"strokes": True}, "among its 2"),
        ("unpaint", {}, "among its 2"),
    ],
)
def test_invalid_strokes_are_refused_with_their_image(kind, keys, says):
    with pytest.raises(InvalidEdit, match="image 'a é'") as caught:
        paint(kind, **keys)
    assert says in str(caught.value)


def test_no_point_is_put_or_moved_into_the_void_and_one_that_is_there_can_go():
    for keys in (
        {"kind": "add", "x": 10.5, "y": 9.5, "category_id": CAR},
        {"kind": "move", "segment": 8, "point": 0, "x": 10, "y": 10},
    ):
        with pytest.raises(InvalidEdit, match="painted over as void"):
            do(**keys, void=STROKES)
    assert do("add", x=10, y=14, category_id=CAR, void=STROKES) != BEFORE
    assert do("delete", segment=2, point=0, void=STROKES) == (BEFORE[0], BEFORE[2])
    assert do("move", segment=2, point=0, x=20, y=18, void=STROKES) != BEFORE

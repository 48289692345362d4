"""Labels that no class has: what the message proposes can be pasted, and then it works."""

import random

import pytest
import yaml

from fdd.points import PointLabelError
from fdd.points.classes import parse_classes
from fdd.points.importers.class_names import count_labels, match_labels, yaml_text
from import_toys import raw_image

HARD = [
    "yes",
    "12",
    "1.5",
    "a: b",
    "a, b",
    "#x",
    "[a]",
    "{a}",
    "null",
    "~",
    "it's",
    '"q"',
    "- a",
    "é ü",
    "a\tb",
    "@",
    "x\\y",
]


def image_with(labels):
    return raw_image("a.jpg", *((label, i, 0) for i, label in enumerate(labels)))


def pasted(error):
    """The classes that a message proposes."""
    text = str(error)
    document = yaml.safe_load(text[text.index("\nclasses:") :].split("\n\nfound:")[0])
    return document, parse_classes(document["classes"], document.get("ignore", ()))


def test_without_classes_the_message_holds_them():
    image = image_with(["cow", "grass", "cow ", "Cow", "", *HARD])
    with pytest.raises(PointLabelError, match=r"thing .* or stuff") as caught:
        match_labels([image], None)
    document, classes = pasted(caught.value)
    assert document["classes"]["stuff"] == []
    assert {c.name for c in classes.categories} == {"cow", "grass", *HARD}
    assert all(match_labels([image], classes)[label] for label in ["cow", "grass", "Cow", *HARD])
    assert match_labels([image], classes)["Cow"].name == "cow"
    assert "'cow': 2 points, first at a.jpg, point 0" in str(caught.value)


def test_without_classes_and_without_points():
    with pytest.raises(PointLabelError, match=r"not one point to take classes from"):
        match_labels([image_with([])], None)


def test_unknown_labels():
    classes = parse_classes(
        [
            {"id": 9, "name": "cow", "isthing": True, "aliases": ["Kuh"]},
            {"id": 4, "name": "grass", "isthing": False},
        ],
        ["ruler"],
    )
    image = image_with(["cow", "cows", "shed", "cows", "ruler", "Kuh"])
    with pytest.raises(PointLabelError) as caught:
        match_labels([image], classes, "classes.yaml")
    message = str(caught.value)
    assert message.startswith("2 labels are not in classes.yaml:")
    assert "'cows': 2 points, first at a.jpg, point 1. Did you mean 'cow'?" in message
    assert "'shed': 1 point, first at a.jpg, point 2" in message
    assert len(caught.value.problems) == 2
    document, repaired = pasted(caught.value)
    assert document["ignore"] == ["ruler"]
    found = match_labels([image], repaired)
    assert {label: category and category.id for label, category in found.items()} == {
        "cow": 9, "cows": 9, "Kuh": 9, "shed": 1, "ruler": None,
    }  # fmt: skip
    assert not next(c for c in repaired.categories if c.id == 4).isthing


def test_any_unknown_label_can_be_pasted():
    rng = random.Random(0)
    known = parse_classes({"things": ["cow"], "stuff": ["grass"]})
    for _ in range(50):
        labels = ["".join(rng.choices("abc'\":,[]{}#&*!|>%@` -\\\n\tü", k=6)) for _ in range(4)]
        image = image_with(labels)
        with pytest.raises(PointLabelError) as caught:
            match_labels([image], known)
        _, repaired = pasted(caught.value)
        assert set(match_labels([image], repaired)) == {label.strip() for label in labels}


def test_points_without_a_label_are_proposed_to_be_left_out():
    classes = parse_classes({"things": ["cow"]})
    image = image_with(["", "cow", " "])
    with pytest.raises(PointLabelError) as caught:
        match_labels([image], classes)
    matched = match_labels([image], pasted(caught.value)[1])
    assert matched[""] is None and matched["cow"].name == "cow"


def test_counts():
    counts = count_labels([image_with(["b", "a", "b"]), image_with([" b"])])
    assert [(c.label, c.points) for c in counts] == [("b", 3), ("a", 1)]


@pytest.mark.parametrize("text", ["cow", "é ü", "a-b", "sky 2"])
def test_plain_names_stay_plain(text):
    assert yaml_text(text) == text


def test_thousands_of_labels_are_no_classes():
    """A wrong column. The message stays short, and comes soon."""
    image = image_with([f"object {i}" for i in range(5000)])
    for classes in (None, parse_classes({"things": ["cow"]})):
        with pytest.raises(PointLabelError, match=r"5000 different labels, too many") as caught:
            match_labels([image], classes)
        assert len(str(caught.value)) < 1000

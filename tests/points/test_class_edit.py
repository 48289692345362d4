"""One more class in a YAML file: it comes in at its place, and nothing else changes."""

import difflib

import pytest
import yaml

from fdd.points.class_edit import add_class, with_class
from fdd.points.classes import ClassFileError, parse_classes, read_classes, read_yaml

FORMS = {
    "flow lists": "images: i\nclasses:\n  things: [cell, b c]  # counted\n  stuff: [glass]\nx: 1\n",
    "block lists": (
        "classes:\n  things:\n    - cell\n    - b c  # two words\n"
        "  # what remains\n  stuff:\n    - glass\npoints: p\n"
    ),
    "one line": "classes: {things: [cell, b c], stuff: [glass]}",
    "long": (
        "classes:\n- {name: cell, isthing: true}\n- name: b c\n  isthing: true\n"
        "  aliases: [bc, d]\n- {name: glass, isthing: false}\n# the end\n"
    ),
    "long flow": (
        "classes: [{name: cell, isthing: true}, {name: b c, isthing: true},\n"
        "  {name: glass, isthing: false, id: 9}]\n"
    ),
    "windows": "classes:\r\n  things:\r\n  - cell\r\n  - b c\r\n  stuff: [glass]\r\n",
    "no end of line": "classes:\n  things: [cell, b c]\n  stuff:\n  - glass",
}


@pytest.mark.parametrize("isthing", [True, False])
@pytest.mark.parametrize("name", ["new", "with: colon, #1", "straße", "yes", "12", "- x"])
@pytest.mark.parametrize("form", FORMS)
def test_a_class_comes_in_at_the_end_of_its_kind(tmp_path, form, name, isthing):
    text = FORMS[form]
    file = tmp_path / "dataset é.yaml"
    file.write_bytes(text.encode())
    add_class(file, name, isthing)
    changed = file.read_bytes().decode()
    found = [(c.name, c.isthing) for c in read_classes(file).categories]
    before = [("cell", True), ("b c", True), ("glass", False)]
    assert sorted(found) == sorted([*before, (name, isthing)])
    assert [c for c in found if c != (name, isthing)] == before
    # Nothing was taken out, and what came in is short.
    pieces = difflib.SequenceMatcher(None, text, changed, autojunk=False).get_opcodes()
    assert all(kind in ("equal", "insert") for kind, *_ in pieces)
    assert len(changed) < len(text) + len(name) + 50
    lone = changed.count("\n") - changed.count("\r\n")
    assert lone == (0 if "\r\n" in text else changed.count("\n"))


@pytest.mark.parametrize(
    ("text", "isthing"),
    [
        ("classes:\n  things: [cell]\n", False),
        ("classes:\n  things: [cell]\n  stuff:\n", False),
        ("classes:\n  stuff: [cell]  # all of it\n", True),
        ("classes: {stuff: [cell]}\n", True),
        ("classes:\n  things: []\n  stuff: [cell]\n", True),
    ],
)
def test_the_first_class_of_a_kind(text, isthing):
    changed = yaml.safe_load(with_class(text, "new", isthing))["classes"]
    found = [(c.name, c.isthing) for c in parse_classes(changed).categories]
    assert sorted(found) == [("cell", not isthing), ("new", isthing)]


@pytest.mark.parametrize(
    "text",
    [
        "classes:\n  things: [cell,]\n",
        "mine: &mine [cell]\nclasses: {things: *mine}\nother: *mine\n",
        "classes:\n  things: [cell, new]\n",
        "classes:\n  things: [{name: cell, aliases: [new]}]\n",
        "classes:\n  things: [cell]\nignore: [new]\n",
    ],
)
def test_what_is_not_understood_is_left_alone(tmp_path, text):
    file = tmp_path / "dataset.yaml"
    file.write_text(text)
    with pytest.raises(ClassFileError, match=r"dataset\.yaml"):
        add_class(file, "new", True)
    assert file.read_text() == text


def test_a_link_stays_one(tmp_path):
    file, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    file.write_text("classes: {things: [cell]}\n")
    link.symlink_to(file)
    add_class(link, "new", False)
    assert link.is_symlink() and read_yaml(file)["classes"]["stuff"] == ["new"]

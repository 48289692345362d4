"""The class list of a YAML file: both forms, and what is refused."""

from __future__ import annotations

import pytest

from fdd.points.classes import ClassFileError, ClassList, parse_classes, read_classes
from fdd.points.structures import Category


def test_both_forms_say_the_same() -> None:
    short = parse_classes({"things": ["cell", "nucleus"], "stuff": ["glass"]})
    long = parse_classes(
        [
            {"name": "cell", "isthing": True},
            {"name": "nucleus", "isthing": True},
            {"name": "glass", "isthing": False},
        ]
    )
    assert short == long
    assert short.categories == (
        Category(1, "cell", True),
        Category(2, "nucleus", True),
        Category(3, "glass", False),
    )


def test_ids_fill_the_gaps_that_given_ones_leave() -> None:
    found = parse_classes({"things": ["a", {"name": "b", "id": 1}], "stuff": ["c"]})
    assert [(c.id, c.name) for c in found.categories] == [(2, "a"), (1, "b"), (3, "c")]


def test_labels_are_found_by_name_and_by_alias() -> None:
    found = parse_classes({"things": [{"name": "cell", "aliases": ["Cell", "zelle"]}]})
    for label in ("cell", "Cell", " zelle "):
        assert found.find(label) == Category(1, "cell", True)
    assert found.find("CELL") is None, "only spellings that the file names"
    assert found.close_to("CELL")[:1] in (["cell"], ["Cell"])
    assert found.close_to("tractor") == []


def test_classes_without_spellings_go_by_their_names() -> None:
    assert ClassList((Category(4, "cell", True),)).find("cell") == Category(4, "cell", True)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([{"name": "cell"}], "thing or stuff"),
        (["cell"], "thing or stuff"),
        ({"things": ["cell"], "stuf": ["sky"]}, "'stuf'"),
        ({"things": ["cell", "cell"]}, "stands for two"),
        ({"things": [{"name": "a", "aliases": ["b"]}, "b"]}, "'b' stands for two"),
        ({"things": [{"name": "a", "id": 3}, {"name": "b", "id": 3}]}, "id 3 is used by two"),
        ({"things": [{"name": "a", "id": -1}]}, "integer >= 0"),
        ({"things": [{"name": "a", "id": True}]}, "integer >= 0"),
        ({"things": [{"name": "a", "colour": "red"}]}, "'colour'"),
        ({"things": [True]}, "in quotes"),
        ({"things": [7]}, "in quotes"),
        ({"things": [""]}, "expected a text"),
        ({"things": "cell"}, "expected a list"),
        ({"things": [{"name": "a", "isthing": False}]}, "list of the others"),
        ([{"name": "a", "isthing": "yes"}], "thing or stuff"),
        ({}, "empty"),
        ([], "empty"),
        (None, "empty"),
        (5, "expected a list"),
    ],
)
def test_unsound_classes_are_refused(classes: object, message: str) -> None:
    with pytest.raises(ClassFileError, match=message) as error:
        parse_classes(classes, (), "cells.yaml")
    assert "cells.yaml" in str(error.value)


def test_a_label_cannot_be_a_class_and_ignored() -> None:
    with pytest.raises(ClassFileError, match=r"'cell'.*ignore"):
        parse_classes({"things": ["cell"]}, ["cell"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"classes: [", "not valid YAML"),
        (b"", "top is NoneType"),
        (b"- cell", "top is list"),
        (b"images: here", "no key 'classes'"),
        (b"classes: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"classes: \xff\xff", "not valid YAML"),
    ],
)
def test_files_that_are_no_class_list(tmp_path, text: bytes, message: str) -> None:
    path = tmp_path / "cells.yaml"
    path.write_bytes(text)
    with pytest.raises(ClassFileError, match=message) as error:
        read_classes(path)
    assert str(path) in str(error.value)


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_classes(tmp_path / "none.yaml")
    with pytest.raises(ClassFileError, match="a folder"):
        read_classes(tmp_path)


def test_a_data_set_file_is_a_class_list_too(tmp_path) -> None:
    path = tmp_path / "dataset.yaml"
    # With a byte order mark, as some editors write it.
    path.write_text(
        "\ufeffimages: a\npoints: b\nclasses: {things: [é]}\nignore: [ruler]\n", encoding="utf-8"
    )
    found = read_classes(path)
    assert found.find("é") == Category(1, "é", True)
    assert found.ignore == {"ruler"}

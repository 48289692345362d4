"""JSON in which a key occurs twice, and YAML: nothing is lost without a word."""

import time

import pytest

from fdd.points import PointLabelError, read_points
from fdd.points.classes import ClassFileError, read_classes
from fdd.points.importers import labelme
from fdd.points.parsing import load_json, parse_json
from reader_helpers import EXPORTS


def test_sound_json_is_what_json_says():
    text = '{"a": [1, {"a": 1.5, "b": {}}, {"a": null}], "b": "x"}'
    assert parse_json(text) == {"a": [1, {"a": 1.5, "b": {}}, {"a": None}], "b": "x"}


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "b": 2, "a": 3}', '[{"b": {"c": 0, "a": 1, "a": 1}}]', '{"a": 1, "\\u0061": 1}'],
)
def test_a_key_twice(text):
    with pytest.raises(ValueError, match="the key 'a' occurs twice in the object with '"):
        parse_json(text)


def test_large_objects_take_a_moment():
    keys = [f'"k{i}": {i}' for i in range(50_000)]
    start = time.process_time()
    for text in (keys, [*keys, keys[-1]]):
        try:
            parse_json("{" + ",".join(text) + "}")
        except ValueError as error:
            assert len(str(error)) < 300
    assert time.process_time() - start < 3


def test_a_list_of_shapes_twice_in_an_export(tmp_path):
    text = (EXPORTS / "labelme" / "field.json").read_text("utf-8")
    path = tmp_path / "a.json"
    path.write_text(text.rstrip()[:-1] + ', "shapes": []}')
    with pytest.raises(PointLabelError, match=r"a\.json: not valid JSON: the key 'shapes' occurs"):
        labelme.read(path)


def test_point_labels(tmp_path):
    path = tmp_path / "points.json"
    path.write_text(
        '{"format": "fdd-points", "version": 1, "categories": [{"id": 1, "name": "a", '
        '"isthing": true}], "images": [{"id": 1, "file_name": "a.png", "height": 9, "width": 9, '
        '"segments": [{"id": 1, "category_id": 1, "points": [[1, 2]], "points": [[3, 4]]}]}]}'
    )
    with pytest.raises(PointLabelError, match="'points' occurs twice") as caught:
        read_points(path)
    assert "cut short" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "classes:\n  things: [a]\n  stuff: [b]\n  things: [c]\n",
            "'things' occurs twice.*\n.*line 4",
        ),
        ("classes: {things: [a]}\nclasses: {things: [b]}\n", "'classes' occurs twice"),
        ("classes: {things: [a]}\nname: 2024-99-99\n", "not valid YAML: month must be"),
        ("classes: {things: [" + "9" * 5000 + "]}\n", "not valid YAML: "),
    ],
)
def test_a_class_file(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ClassFileError, match=message) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)


def test_equal_keys_of_several_objects_are_no_matter(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(
        "base: &base {isthing: true}\n"
        "classes:\n  - {<<: *base, name: a}\n  - {<<: *base, name: b, isthing: false}\n"
    )
    assert [c.isthing for c in read_classes(path).categories] == [True, False]


def test_what_is_zipped_is_to_be_unpacked(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)))
    with pytest.raises(PointLabelError, match="a zip archive"):
        load_json(path)

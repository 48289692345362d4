"""Whatever stands anywhere in an export: a reader reads it, or says what is wrong."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager

import pytest

from fdd.points import PointLabelError, parsing
from fdd.points.importers import cvat, get_importer
from fdd.points.parsing import load_json
from reader_helpers import EXPORTS

JSON_EXPORTS = {
    "labelme/field.json": "labelme",
    "datumaro/annotations/default.json": "datumaro",
    "label_studio/tasks.json": "label-studio",
    "label_studio/tasks-min.json": "label-studio",
    "coco_keypoints/person_keypoints.json": "coco-keypoints",
    "pointsup/instances_n4_v1_without_masks.json": "pointsup",
}
HOSTILE = (
    None,
    True,
    -1,
    10**400,
    2**70,
    float("nan"),
    "",
    "\u00b2",
    "\ud800",
    "\0x",
    [],
    [[]],
    {},
    {"id": []},
)


def places(node, path=()):
    """The path of every node below this one."""
    children = enumerate(node) if isinstance(node, list) else ()
    children = node.items() if isinstance(node, dict) else children
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


@contextmanager
def replaced(document, path, value):
    """The document with another value in one place, within the block."""
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    before, parent[path[-1]] = parent[path[-1]], value
    yield
    parent[path[-1]] = before


def check_read(reader, path):
    """Read a file; returns whether it was refused."""
    try:
        images = reader.read(path)
    except PointLabelError as error:
        assert str(path) in str(error)
        return True
    for image in images:
        assert isinstance(image.file_name, str)
        assert all(math.isfinite(p.x) and math.isfinite(p.y) for p in image.points)
        assert all(isinstance(p.label, str) for p in image.points)
        assert None not in {(p.label, p.instance) for p in image.points}  # they have a hash
    return False


@pytest.mark.parametrize("name", JSON_EXPORTS)
def test_any_value_anywhere_in_a_json_export(tmp_path, name, monkeypatch):
    """Parsed documents are handed over: thousands of files would only test the JSON parser."""
    reader = get_importer(JSON_EXPORTS[name])
    path = tmp_path / "a.json"
    path.write_bytes((EXPORTS / name).read_bytes())
    assert not check_read(reader, path)
    document, refused = load_json(path), 0
    untouched = copy.deepcopy(document)
    monkeypatch.setattr(parsing, "load_json", lambda path: document)
    for place in list(places(document)):
        for value in HOSTILE:
            with replaced(document, place, value):
                reader.recognizes(path, document)
                refused += check_read(reader, path)
    assert refused > 50
    assert document == untouched  # readers change nothing, or the next ones would read that


@pytest.mark.parametrize("name", JSON_EXPORTS)
def test_a_json_export_that_is_cut_short(tmp_path, name):
    content = (EXPORTS / name).read_bytes().rstrip()
    path = tmp_path / "a.json"
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        assert check_read(get_importer(JSON_EXPORTS[name]), path)


def test_an_xml_export_that_is_cut_short_or_damaged(tmp_path):
    content = (EXPORTS / "cvat" / "annotations.xml").read_bytes().rstrip()
    path = tmp_path / "annotations.xml"
    for length in range(0, len(content), 13):
        path.write_bytes(content[:length])
        assert check_read(cvat, path)
    for byte in (0, 0x3C, 0x26, 0x3B, 0xFF):
        for position in range(0, len(content), 31):
            path.write_bytes(content[:position] + bytes([byte]) + content[position + 1 :])
            cvat.recognizes(path, None)
            check_read(cvat, path)

"""The point-label file: round trips, and a clear refusal of everything invalid."""

import copy
import json
import os
import time

import numpy as np
import pytest

from fdd.points import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
    read_points,
    validate_points,
    write_points,
)

CONTENT = {
    "format": "fdd-points",
    "version": 1,
    "info": {"source": "by hand", "area": "info is free"},
    "categories": [
        {"id": 3, "name": "sky", "isthing": False},
        {"id": 70, "name": "dog", "isthing": True},
    ],
    "images": [
        {
            "id": "2007_000032",
            "file_name": "été/2007 000032.jpg",
            "height": 40,
            "width": 60,
            "segments": [
                {"id": 9, "category_id": 70, "points": [[0.5, 0.5], [60, 40]]},
                {"id": 4, "category_id": 3, "points": [[12, 3.25]]},
            ],
        },
        {"id": 12, "file_name": "b.jpg", "height": 8, "width": 9, "segments": []},
    ],
}


@pytest.fixture
def content():
    return copy.deepcopy(CONTENT)


@pytest.fixture
def read(tmp_path):
    def call(content):
        path = tmp_path / "labels of été.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_points(path)

    return call


def refused(read, content, *parts):
    with pytest.raises(PointLabelError) as caught:
        read(content)
    message = str(caught.value)
    for part in ("labels of été.json", *parts):
        assert part in message, message
    return caught.value


def test_reading(read):
    dataset = read(CONTENT)
    assert dataset.info == CONTENT["info"]
    assert dataset.categories == [Category(3, "sky", False), Category(70, "dog", True)]
    first, second = dataset.images
    assert (first.image_id, second.image_id) == ("2007_000032", 12)
    assert (first.file_name, first.height, first.width) == ("été/2007 000032.jpg", 40, 60)
    assert first.segments[0] == PointSegment(9, 70, [(0.5, 0.5), (60.0, 40.0)])
    assert second.segments == []


def test_round_trip_into_a_folder_that_is_made(tmp_path, read):
    dataset = read(CONTENT)
    path = tmp_path / "neuer Ordner ü" / "点.json"
    write_points(path, dataset)
    assert read_points(path) == dataset
    assert read_points(str(path)) == dataset
    assert os.listdir(path.parent) == ["点.json"]
    once = path.read_bytes()
    write_points(path, read_points(path))
    assert path.read_bytes() == once


def test_the_file_has_the_documented_form(tmp_path, read):
    path = tmp_path / "out.json"
    write_points(path, read(CONTENT))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == CONTENT


def test_numpy_values_are_written_as_numbers(tmp_path):
    points = [(np.float32(1.5), np.int64(2))]
    segment = PointSegment(np.int64(5), np.int32(1), points)  # type: ignore[arg-type]
    image = PointImage(np.int64(7), "a.jpg", np.int64(4), np.int64(5), [segment])
    path = tmp_path / "out.json"
    write_points(path, PointDataset([Category(1, "cat", True)], [image]))
    (got,) = read_points(path).images
    assert got == PointImage(7, "a.jpg", 4, 5, [PointSegment(5, 1, [(1.5, 2.0)])])


def test_byte_order_mark(read, content):
    assert read(b"\xef\xbb\xbf".decode() + json.dumps(content)) == read(content)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, read, monkeypatch):
    path = tmp_path / "sub" / "out.json"
    dataset = read(CONTENT)
    write_points(path, dataset)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("fdd.points.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_points(path, dataset)
    monkeypatch.undo()
    assert path.read_bytes() == before
    dataset.images[0].segments[0].points.append((100.0, 3.0))
    with pytest.raises(PointLabelError, match="outside"):
        write_points(path, dataset)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["out.json"]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json.*sample_points"):
        read_points(tmp_path / "nothing.json")
    with pytest.raises(PointLabelError, match="a folder"):
        read_points(tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "an empty file"),
        (json.dumps(CONTENT)[:200], "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a point-label file"),
        ("3", "not a point-label file"),
        ('{"format": "other", "version": 1}', "not a point-label file"),
        ('{"images": [], "annotations": [], "categories": []}', "draws points from masks"),
    ],
)
def test_not_our_json(read, text, part):
    refused(read, text, part)


def test_not_utf8(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(CONTENT, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(PointLabelError, match="Save the file as UTF-8"):
        read_points(path)


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_other_versions(read, content, version):
    content["version"] = version
    refused(read, content, f"version {version!r}", "reads version 1")


@pytest.mark.parametrize("key", ["bbox", "area", "segmentation", "mask", "rle", "Mask", "boxes"])
@pytest.mark.parametrize("place", ["segment", "image", "category", "document"])
def test_masks_and_boxes_are_refused(read, content, key, place):
    target = {
        "segment": content["images"][0]["segments"][1],
        "image": content["images"][0],
        "category": content["categories"][0],
        "document": content,
    }[place]
    target[key] = [0, 0, 3, 3]
    error = refused(read, content, repr(key), "Remove it")
    if place == "segment":
        assert "image '2007_000032', segment 4" in str(error)


def test_other_keys_are_welcome(read, content):
    content["images"][0]["coco_url"] = "http://example.org"
    content["images"][0]["segments"][0]["annotator"] = "A."
    assert read(content) == read(CONTENT)


def change_segment(key, value):
    return lambda c: c["images"][0]["segments"][0].__setitem__(key, value)


def change_image(key, value):
    return lambda c: c["images"][0].__setitem__(key, value)


def change_category(key, value):
    return lambda c: c["categories"][0].__setitem__(key, value)


SEGMENT = "image '2007_000032', segment 9"
INVALID = {
    "unknown category": (
        change_segment("category_id", 5),
        [SEGMENT, "category_id 5", "not among the categories"],
    ),
    "right of the image": (
        change_segment("points", [[60.01, 3]]),
        [SEGMENT, "(60.01, 3)", "0 <= x <= 60 and 0 <= y <= 40"],
    ),
    "below the image": (change_segment("points", [[3, 40.5]]), [SEGMENT, "outside"]),
    "left of the image": (change_segment("points", [[1, 1], [-0.1, 3]]), [SEGMENT, "(-0.1, 3)"]),
    "not a number": (change_segment("points", [[float("nan"), 3]]), [SEGMENT, "not finite"]),
    "infinite": (change_segment("points", [[3, float("-inf")]]), [SEGMENT, "not finite"]),
    "beyond every float": (change_segment("points", [[3, 10**400]]), [SEGMENT, "not finite"]),
    "two on one pixel": (
        change_segment("points", [[12.9, 3.0]]),
        ["image '2007_000032', segments 9 and 4", "x=12, y=3", "move or delete"],
    ),
    "no points": (change_segment("points", []), [SEGMENT, "no point"]),
    "text in a point": (change_segment("points", [["1", 2]]), [SEGMENT, "pair of numbers"]),
    "a truth in a point": (change_segment("points", [[True, 2]]), [SEGMENT, "pair of numbers"]),
    "three coordinates": (change_segment("points", [[1, 2, 3]]), [SEGMENT, "pair of numbers"]),
    "flat points": (change_segment("points", [1, 2]), [SEGMENT, "pair of numbers"]),
    "points are no list": (change_segment("points", None), ["'2007_000032'", "expected a list"]),
    "id 0": (change_segment("id", 0), ["image '2007_000032', segment 0", "Renumber"]),
    "negative id": (change_segment("id", -3), ["segment -3", "Renumber"]),
    "id of another kind": (change_segment("id", "9"), ["'2007_000032'", "expected an integer"]),
    "segment id twice": (change_segment("id", 4), ["segment 4", "used twice"]),
    "image id twice": (change_image("id", 12), ["image 12", "positions 0 and 1"]),
    "image id a float": (change_image("id", 1.5), ["position 0", "1.5"]),
    "no height": (change_image("height", 0), ["'2007_000032'", "height 0"]),
    "width a text": (change_image("width", "60"), ["'2007_000032'", "width '60'"]),
    "absurd width": (change_image("width", 10**30), ["'2007_000032'", "width 1000"]),
    "no file name": (change_image("file_name", ""), ["'2007_000032'", "file_name"]),
    "segments are no list": (change_image("segments", {}), ["'2007_000032'", "expected a list"]),
    "category id twice": (change_category("id", 70), ["category id 70", "used twice"]),
    "category name twice": (change_category("name", "dog"), ["'dog'", "used twice"]),
    "isthing a text": (change_category("isthing", "no"), ["position 0", "'isthing' is 'no'"]),
    "no categories": (lambda c: c["categories"].clear(), ["no categories"]),
    "image without id": (lambda c: c["images"][1].pop("id"), ["position 1", "'id'"]),
    "an image that is a list": (lambda c: c["images"].append([]), ["position 2", "a list"]),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_labels_say_where_and_what(read, content, case):
    spoil, parts = INVALID[case]
    spoil(content)
    refused(read, content, *parts)


def test_points_on_the_last_edge_belong_to_the_last_pixel(read, content):
    content["images"][0]["segments"][1]["points"] = [[59.2, 39.9]]  # segment 9 has (60, 40)
    refused(read, content, "segments 9 and 4", "x=59, y=39")


def test_one_segment_may_have_two_points_on_a_pixel_and_other_images_do_not_collide(read, content):
    content["images"][0]["segments"][0]["points"] = [[5.1, 5.1], [5.2, 5.2]]
    segment = {"id": 1, "category_id": 3, "points": [[5.3, 5.3]]}
    content["images"][1]["segments"] = [segment]
    assert len(read(content).images[1].segments) == 1


def test_all_findings_are_numbered_and_long_lists_cut(read, content):
    content["images"][0]["segments"] = [
        {"id": n, "category_id": 5, "points": [[-1, n]]} for n in range(1, 31)
    ]
    error = refused(read, content, "60 problems found", "\n  1. ", "\n  20. ", "... and 40 more")
    assert len(error.problems) == 60 and "\n  21. " not in str(error)


def test_a_hundred_thousand_points_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    images = []
    for n in range(1000):
        pixels = rng.permutation(300 * 400)[:100]
        points = [(p % 400 + 0.5, p // 400 + 0.5) for p in pixels.tolist()]
        segments = [PointSegment(i + 1, 1, points[10 * i : 10 * i + 10]) for i in range(10)]
        images.append(PointImage(n, f"{n}.jpg", 300, 400, segments))
    dataset = PointDataset([Category(1, "cat", True)], images)
    start = time.process_time()
    validate_points(dataset)
    assert time.process_time() - start < 2
    images[500].segments[3].points[2] = images[500].segments[8].points[1]
    with pytest.raises(PointLabelError, match="image 500, segments 4 and 9"):
        validate_points(dataset)

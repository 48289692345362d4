"""The point-label file: round trips, and a refusal that names the place for every fault."""

from __future__ import annotations

import copy
import json
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


def make_dataset():
    categories = [Category(7, "sky", False), Category(3, "Kätzchen 猫", True)]
    images = [
        PointImage(
            "2007_000032",
            "a/ü 1.jpg",
            40,
            60,
            [
                PointSegment(7001, 7, [(0.5, 0.5), (59.25, 39.75)]),
                PointSegment(3, 3, [(12.345678901234567, 7.5)]),
            ],
        ),
        PointImage(12, "b.jpg", 10, 10, []),
    ]
    return PointDataset(categories, images, {"note": "é", "boxes": "free text may say this"})


@pytest.fixture
def content(tmp_path):
    write_points(tmp_path / "p.json", make_dataset())
    return json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))


def read_back(tmp_path, content):
    path = tmp_path / "points é.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return read_points(path)


def refusal(tmp_path, content):
    with pytest.raises(PointLabelError) as error:
        read_back(tmp_path, content)
    assert "points é.json" in str(error.value)
    return str(error.value)


def test_round_trip_keeps_everything(tmp_path):
    path = tmp_path / "nouveau dossier é" / "points.json"
    write_points(path, make_dataset())
    dataset = read_points(path)
    assert dataset == make_dataset()
    assert isinstance(dataset.images[0].image_id, str) and isinstance(
        dataset.images[1].image_id, int
    )
    write_points(path, dataset)
    assert read_points(path) == dataset
    assert [p.name for p in path.parent.iterdir()] == ["points.json"]


def test_document_has_the_documented_form(content):
    assert content["format"] == "fdd-points" and content["version"] == 1
    assert content["categories"][1] == {"id": 3, "name": "Kätzchen 猫", "isthing": True}
    assert set(content["images"][0]) == {"id", "file_name", "height", "width", "segments"}
    assert content["images"][0]["segments"][0] == {
        "id": 7001,
        "category_id": 7,
        "points": [[0.5, 0.5], [59.25, 39.75]],
    }


def test_byte_order_mark_and_numpy_numbers(tmp_path, content):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert read_points(path) == make_dataset()
    dataset = make_dataset()
    dataset.images[0].segments[1].points = [tuple(np.array([1.5, 2.5]))]
    dataset.images[1].image_id = np.int64(12)
    dataset.images[0].height = np.int32(40)
    write_points(path, dataset)
    read = read_points(path)
    assert read.images[0].segments[1].points == [(1.5, 2.5)] and read.images[1].image_id == 12


def test_the_edges_of_the_image_are_inside(tmp_path):
    dataset = make_dataset()
    dataset.images[0].segments[0].points = [(0.0, 0.0), (60.0, 40.0), (0, 40)]
    write_points(tmp_path / "p.json", dataset)
    assert read_points(tmp_path / "p.json").images[0].segments[0].points[1] == (60.0, 40.0)


def test_an_unsound_set_is_not_written_and_the_old_file_stays(tmp_path):
    path = tmp_path / "p.json"
    write_points(path, make_dataset())
    before = path.read_bytes()
    bad = make_dataset()
    bad.images[0].segments[0].points = [(61.0, 1.0)]
    with pytest.raises(PointLabelError, match=r"p\.json"):
        write_points(path, bad)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"format": "fdd-points", "version": 1, "images": [', "not valid JSON.*cut short"),
        ("[" * 100000, "not valid JSON"),
        ("[]", "not a point-label file"),
        ('{"images": [], "annotations": [], "categories": []}', "COCO.*sample_points"),
        ('{"format": "fdd-points", "version": 2}', "version 2.*version 1"),
        ('{"format": "fdd-points", "version": 1, "images": []}', "'categories' is missing"),
        ('{"format": "fdd-points", "version": 1, "info": 3}', "'info' is 3"),
    ],
)
def test_other_documents_are_refused(tmp_path, text, message):
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(PointLabelError, match=rf"points\.json: .*{message}"):
        read_points(path)


def test_missing_files_folders_and_other_encodings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json.*sample_points"):
        read_points(tmp_path / "none.json")
    with pytest.raises(PointLabelError, match="a folder"):
        read_points(tmp_path)
    (tmp_path / "latin.json").write_bytes('{"name": "é"}'.encode("latin-1"))
    with pytest.raises(PointLabelError, match=r"latin\.json: not UTF-8"):
        read_points(tmp_path / "latin.json")


@pytest.mark.parametrize(
    "key", ["bbox", "area", "segmentation", "mask", "rle", "segments_info", "BBox", "polygons"]
)
@pytest.mark.parametrize("level", ["document", "image", "segment", "category"])
def test_boxes_and_masks_are_refused_everywhere(tmp_path, content, key, level):
    image = content["images"][0]
    places = {
        "document": content,
        "image": image,
        "segment": image["segments"][1],
        "category": content["categories"][0],
    }
    places[level][key] = [1, 2, 3, 4]
    text = refusal(tmp_path, content)
    assert repr(key) in text and "masks or boxes" in text
    if level in ("image", "segment"):
        assert "2007_000032" in text or "position 0" in text
    if level == "segment":
        assert "segment at position 1" in text


# path into the document, new value, what the message must say
FAULTS = {
    "outside right": (("images", 0, "segments", 1, "points"), [[60.01, 3]], ["7", "60"]),
    "outside top": (("images", 0, "segments", 1, "points"), [[5, -0.01]], ["outside"]),
    "nan": (("images", 0, "segments", 1, "points"), [[float("nan"), 3]], ["not finite"]),
    "infinite": (("images", 0, "segments", 1, "points"), [[3, float("inf")]], ["not finite"]),
    "huge": (("images", 0, "segments", 1, "points"), [[10**400, 3]], ["not finite"]),
    "text": (("images", 0, "segments", 1, "points"), [["1", "2"]], ["no pair of numbers"]),
    "three": (("images", 0, "segments", 1, "points"), [[1, 2, 3]], ["no pair of numbers"]),
    "boolean": (("images", 0, "segments", 1, "points"), [[True, 2]], ["no pair of numbers"]),
    "null": (("images", 0, "segments", 1, "points"), [None], ["no pair of numbers"]),
    "no point": (("images", 0, "segments", 1, "points"), [], ["no point"]),
    "unknown category": (("images", 0, "segments", 1, "category_id"), 99, ["99", "not among"]),
    "id 0": (("images", 0, "segments", 1, "id"), 0, ["0", "unlabelled"]),
    "id twice": (("images", 0, "segments", 1, "id"), 7001, ["7001", "twice"]),
    "one pixel": (("images", 0, "segments", 1, "points"), [[59.9, 39.1]], ["7001", "x=59, y=39"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refusals_name_file_image_and_segment(tmp_path, content, fault):
    path, value, parts = FAULTS[fault]
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    text = refusal(tmp_path, content)
    segment = value if path[-1] == "id" else 3
    assert "image '2007_000032'" in text and str(segment) in text
    assert "segment" in text and "1 problem found" in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images", 0, "height"), 0, "'2007_000032': height 0"),
        (("images", 0, "width"), "60", "'2007_000032': width '60'"),
        (("images", 0, "file_name"), "", "'2007_000032': file_name ''"),
        (("images", 1, "id"), "2007_000032", "positions 0 and 1"),
        (("images", 0, "id"), None, "position 0.*'id' is None"),
        (("images", 0, "segments"), {}, "'2007_000032': 'segments' is an object"),
        (("images", 0, "segments", 0, "category_id"), "7", "'2007_000032', segment at position 0"),
        (("categories",), [], "no categories"),
        (("categories", 0, "id"), 3, "id 3 .*used twice"),
        (("categories", 0, "name"), "Kätzchen 猫", "name is used twice"),
        (("categories", 0, "isthing"), "yes", "'isthing' is 'yes'"),
    ],
)
def test_faults_of_images_and_categories(tmp_path, content, path, value, message):
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(PointLabelError, match=message):
        read_back(tmp_path, content)


@pytest.mark.parametrize("key", ["id", "file_name", "height", "width", "segments"])
def test_a_missing_key_is_named(tmp_path, content, key):
    del content["images"][1][key]
    assert repr(key) in refusal(tmp_path, content)


def test_ids_that_differ_in_type_are_different(tmp_path, content):
    content["images"][0]["id"] = "12"
    assert [i.image_id for i in read_back(tmp_path, content).images] == ["12", 12]


def test_points_of_one_instance_may_share_a_pixel(tmp_path, content):
    content["images"][0]["segments"][1]["points"] = [[5.2, 5.2], [5.8, 5.8], [5.2, 5.2]]
    assert len(read_back(tmp_path, content).images[0].segments[1].points) == 3


def test_every_problem_is_listed_and_the_message_stays_short():
    dataset = make_dataset()
    dataset.images[0].segments[0].points = [(100.0 + n, 1.0) for n in range(50)]
    with pytest.raises(PointLabelError) as error:
        validate_points(dataset, "mine")
    assert len(error.value.problems) == 50
    assert str(error.value).startswith("mine: 50 problems") and "30 more" in str(error.value)


def test_validation_changes_nothing():
    dataset = make_dataset()
    before = copy.deepcopy(dataset)
    assert validate_points(dataset) is None
    assert dataset == before


def test_a_hundred_thousand_points_take_seconds(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for n in range(1000):
        pixels = rng.choice(480 * 640, 100, replace=False)
        xy = np.stack([pixels % 640 + 0.5, pixels // 640 + 0.5], 1).tolist()
        segments = [
            PointSegment(s + 1, 3, [tuple(p) for p in xy[10 * s : 10 * s + 10]]) for s in range(10)
        ]
        images.append(PointImage(n, f"{n}.jpg", 480, 640, segments))
    dataset = PointDataset(make_dataset().categories, images)
    start = time.perf_counter()
    write_points(tmp_path / "p.json", dataset)
    read = read_points(tmp_path / "p.json")
    assert time.perf_counter() - start < 10
    assert sum(len(s.points) for i in read.images for s in i.segments) == 100_000
    # Size does not hide a single fault.
    read.images[777].segments[5].points[3] = read.images[777].segments[4].points[0]
    with pytest.raises(PointLabelError, match=r"image 777, segments 5 and 6"):
        validate_points(read)

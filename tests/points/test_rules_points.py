"""Rules on the label file: each invalid place is found once, where it is, and hides no other."""

import json
import math

import pytest

from check_toys import Data
from fdd.points import PointLabelError, read_points
from fdd.points.rules import CheckTarget, Grid, check_data, read_point_file, select_rules
from fdd.points.rules.grid import training_size
from fdd.points.validation import list_problems


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / "my data é")


def place(finding):
    return finding.image_id, finding.segment_id, finding.point


def test_valid_data_have_no_finding(data):
    result = data.check(decode=True)
    assert result.findings == [] and result.remarks == []
    assert (result.images, result.segments, result.points) == (2, 6, 8)
    assert not result.failed(strict=True)


SPOILS = {
    "E103": lambda d: d.points["categories"][1].update(name="dog"),
    "E104": lambda d: d.points["images"][1].update(id="a"),
    "E105": lambda d: d.points["images"][0].update(file_name=""),
    "E107": lambda d: d.segment(0).update(category_id=77),
    "E201": lambda d: d.segment(0)["points"].append([1, "2"]),
    "W306": lambda d: d.points["images"][0].update(segments=[]),
}


@pytest.mark.parametrize("rule", SPOILS)
def test_simple_spoils(data, rule):
    SPOILS[rule](data)
    codes = data.found(rules=select_rules(["E1", "E2", "W306"]))
    assert codes == [rule]


@pytest.mark.parametrize(
    ("point", "fixable"), [([60.8, 10], True), ([-1, 10], True), ([61.2, 10], False)]
)
def test_point_outside(data, point, fixable):
    data.segment(1)["points"].append(point)
    (found,) = data.only("E202")
    assert place(found) == ("a", 5, tuple(point))
    assert found.fixable is fixable
    assert found.file == str(data.root / "points.json")
    assert "image 'a', segment 5" in found.message


def test_point_that_is_not_finite(data):
    data.segment(1)["points"].append([math.nan, 3])
    (found,) = data.only("E201")
    assert place(found)[:2] == ("a", 5) and found.fixable
    # JSON knows no NaN.
    json.dumps(found.to_dict(), allow_nan=False)


def test_two_segments_on_one_pixel(data):
    data.segment(1)["points"].append([10.9, 10.1])
    assert [place(f) for f in data.only("E203")] == [("a", 4, (10.5, 10.5))]


def test_equal_points_of_a_segment_but_not_of_two_images(data):
    data.segment(2)["points"] += [[30.5, 5.5], [30.5, 5.5], [30.6, 5.5]]
    found = data.only("W204")
    assert [place(f) for f in found] == [("a", 9, (30.5, 5.5))] * 2


def test_several_segments_of_a_stuff_class(data):
    data.points["images"][1]["segments"].append({"id": 7, "category_id": 2, "points": [[20, 20]]})
    (found,) = data.only("W110")
    assert place(found)[:2] == ("b", 7) and found.fixable
    data.points["categories"][1]["isthing"] = True
    assert "W110" not in data.found()


@pytest.mark.parametrize(
    ("segment", "fixable"),
    [
        ({"id": 0, "category_id": 1, "points": [[50, 5]]}, True),
        ({"id": 4, "category_id": 1, "points": [[50, 5]]}, False),  # one object, or two?
        ({"id": 9, "category_id": 2, "points": [[50, 5]]}, True),
    ],
)
def test_invalid_segment_id(data, segment, fixable):
    data.points["images"][0]["segments"].append(segment)
    found = [f for f in data.check().findings if f.rule == "E106"]
    assert [(f.image_id, f.segment_id, f.fixable) for f in found] == [("a", segment["id"], fixable)]


def test_segment_without_points(data):
    data.segment(0)["points"] = []
    (found,) = data.only("E108")
    assert place(found)[:2] == ("a", 4) and found.fixable


def test_boxes_and_masks_are_named_and_do_not_hide_the_rest(data):
    data.points["area"] = 3
    data.points["categories"][0]["bbox"] = []
    data.points["images"][0]["RLE"] = "x"
    data.segment(1).update(bbox=[1, 2, 3, 4], segmentation=[])
    data.segment(0)["points"].append([999, 1])
    result = data.check()
    dense = [f for f in result.findings if f.rule == "E102"]
    assert [(f.image_id, f.segment_id) for f in dense] == [
        (None, None),
        (None, None),
        ("a", None),
        ("a", 5),
    ]
    assert "'bbox', 'segmentation'" in dense[-1].message and all(f.fixable for f in dense)
    assert {f.rule for f in result.findings} == {"E102", "E202"}


def test_entries_of_wrong_form_are_listed_one_by_one(data):
    del data.points["images"][0]["segments"][0]["points"]
    data.points["images"].append([1])
    data.points["categories"].append({"id": "x", "name": "y", "isthing": True})
    found = [f for f in data.check(read_files=False).findings if f.rule == "E101"]
    assert len(found) == 3
    assert any("image 'a', segment at position 0" in f.message for f in found)
    assert all(not f.message.startswith(str(data.root)) for f in found)
    assert [f.image_id for f in found] == [None, "a", None]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "fdd-points", "version": 9}', "\xff"])
def test_no_label_file_is_one_finding(data, text):
    data.write()
    (data.root / "points.json").write_bytes(text.encode("latin-1"))
    result = check_data(CheckTarget.find(data.root / "data.yaml"))
    assert [f.rule for f in result.findings] == ["E101"] and result.remarks


def test_missing_label_file_is_an_error(data):
    data.write()
    (data.root / "points.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"points\.json"):
        check_data(CheckTarget.find(data.root / "data.yaml"))


def test_classes_of_the_yaml_file_differ(data):
    data.yaml["classes"] = {"things": ["dog", "cat", "cow"], "stuff": ["sky"]}
    (found,) = data.only("E109")
    assert "cow" in found.message and "data.yaml" in found.message
    data.yaml["classes"]["things"].remove("cow")
    assert data.found() == []


def test_whatever_reading_refuses_is_found(data):
    """The rules and ``read_points`` must agree on what an error is."""
    for spoil in (
        lambda d: d.segment(0).update(id=-3),
        lambda d: d.segment(0)["points"].append([1e9, 0]),
        lambda d: d.segment(0).update(mask=1),
        lambda d: d.points["images"][0].update(height="40"),
        lambda d: d.points.update(version="1"),
    ):
        other = Data(data.root / str(id(spoil)))
        spoil(other)
        other.write()
        with pytest.raises(PointLabelError):
            read_points(other.root / "points.json")
        assert any(f.rule[:2] in ("E1", "E2") for f in other.check(read_files=False).findings)


def test_texts_are_those_of_the_library(data):
    data.segment(0).update(id=0, category_id=5)
    data.segment(1)["points"] = []
    data.segment(2)["points"].append([70, 70])
    data.write()
    points, _ = read_point_file(data.root / "points.json")
    texts = {f.message for f in data.check(read_files=False).findings if f.rule[:2] in ("E1", "E2")}
    assert texts == {f.message for f in list_problems(points.dataset)}


def test_things_that_share_cells(data):
    # At 800 px an image of 40 px grows 20 times: squares of 17 * 800 / 600 = 22.7 px are 1.13 px.
    data.segment(1)["points"] = [[11.2, 10.5]]
    (found,) = data.only("W205")
    assert place(found)[:2] == ("a", 4)
    assert "segments 4 and 5: points 0.7 px apart share" in found.message
    assert "1200 x 800 px" in found.message
    data.segment(1)["points"] = [[13.5, 10.5]]
    assert data.found() == []
    # Smaller training images have larger cells.
    assert "W205" in data.found(grid=Grid(short_side=40))
    # Stuff beside a thing is as usual.
    data.segment(2)["points"] = [[11.2, 10.5]]
    assert data.found() == []


def test_crowds_are_counted_and_not_listed_by_pairs(data):
    segments = [{"id": n + 1, "category_id": 1, "points": [[10.5, 10.5]]} for n in range(1000)]
    data.points["images"][0]["segments"] = segments
    found = [f for f in data.check().findings if f.rule == "W205"]
    assert [f.image_id for f in found] == ["a"]
    assert "1000 of 1000 things share cells" in found[0].message


def test_segment_that_loses_all_its_cells(data):
    # At a tenth of its size the image is 6 x 4 px, one cell of stride 8: the first two tie.
    found = data.check(grid=Grid(short_side=4)).findings
    assert {(f.image_id, f.segment_id) for f in found if f.rule == "W206"} >= {("a", 9), ("b", 9)}


def test_training_size_is_detectron2s():
    from detectron2.data.transforms import ResizeShortestEdge

    grid = Grid(short_side=480, max_side=700)
    for width, height in ((640, 427), (427, 640), (1000, 200), (60, 40), (3, 999)):
        wanted = ResizeShortestEdge.get_output_shape(height, width, 480, 700)
        assert training_size(width, height, grid) == wanted[::-1]


def test_defaults_are_those_of_the_config():
    from detectron2.config import get_cfg

    from fdd.config import add_fdd_config
    from fdd.points.rules import CheckOptions

    cfg = get_cfg()
    add_fdd_config(cfg)
    options, points = CheckOptions(), cfg.INPUT.POINTS
    grid = Grid(
        min(cfg.INPUT.MIN_SIZE_TRAIN),
        cfg.INPUT.MAX_SIZE_TRAIN,
        points.DILATE_SIDE,
        points.DILATE_REFERENCE,
    )
    assert options.grid == grid
    assert options.num_queries is None, "which a config decides"
    assert options.min_side == points.MIN_IMAGE_SIDE

"""What --fix does: only what loses nothing, all of it said, and the rest as it was."""

import copy
import json
import math
import time

import pytest

from check_toys import Data
from fdd.points import PointLabelError, read_points
from fdd.points.rules import RULES, CheckTarget, check_data, fix_points, read_point_file
from fdd.points.rules.fixes import default_output, write_fixed


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / "data")


def fixed(data, rules=frozenset(RULES)):
    """The fixed document and what was said, of labels that need not be on disk yet."""
    data.write()
    points_file, _ = read_point_file(data.root / "points.json")
    done = fix_points(points_file, rules)
    return points_file.document, [(m.rule, m.message) for m in done]


def test_valid_labels_stay(data):
    before = copy.deepcopy(data.points)
    assert fixed(data) == (before, [])


def test_every_fix_at_once(data):
    first, second = (image["segments"] for image in data.points["images"])
    data.points["info"] = {"area": "free"}
    first[0].update(bbox=[1, 2, 3, 4])
    first[0]["points"] += [[10.5, 10.5], [60.9, -0.5], [math.nan, 1], [7, 8]]
    first[1]["points"] = [[math.inf, 0]]
    first.append({"id": 0, "category_id": 1, "points": [[50, 5]]})
    first.append({"id": -2, "category_id": 1, "points": [[55, 5]]})
    second.append({"id": 12, "category_id": 2, "points": [[2.5, 38.5], [20, 20]]})
    document, done = fixed(data)
    assert [rule for rule, _ in done] == [
        *("E102", "W204", "E202", "E201", "E201", "E108", "E106", "E106", "W110")
    ]
    assert [{k: s[k] for k in s} for s in document["images"][0]["segments"]] == [
        {"id": 4, "category_id": 1, "points": [[10.5, 10.5], [60, 0], [7, 8]]},
        {"id": 9, "category_id": 2, "points": [[30.5, 5.5], [2.5, 38.5]]},
        {"id": 1, "category_id": 1, "points": [[50, 5]]},
        {"id": 2, "category_id": 1, "points": [[55, 5]]},
    ]
    sky = document["images"][1]["segments"][2]
    assert sky == {"id": 9, "category_id": 2, "points": [[30.5, 5.5], [2.5, 38.5], [20, 20]]}
    assert len(document["images"][1]["segments"]) == 3
    assert document["info"] == {"area": "free"}
    assert ("E202", "image 'a', segment 4: moved the point (60.9, -0.5) to (60, 0)") in done
    # The fixed file can be read, and has nothing more to fix.
    data.points = document
    assert fixed(data)[1] == []
    data.write()
    read_points(data.root / "points.json")


def test_what_might_mean_something_stays(data):
    segments = data.points["images"][0]["segments"]
    segments[0]["points"] += [[61.5, 3], [45.9, 30.9], ["1", 2]]  # far out; on the cat; no pair
    segments.append({"id": 4, "category_id": 1, "points": [[50, 5]]})  # an id twice
    segments.append({"id": 20, "category_id": 77, "points": [[51, 6]]})  # no such class
    segments.append("what is this")
    before = copy.deepcopy(data.points)
    assert fixed(data) == (before, [])


def test_only_the_chosen_rules(data):
    data.segment(0)["points"] += [[10.5, 10.5], [60.9, 3]]
    data.segment(1)["points"] = []
    document, done = fixed(data, {"W204"})
    assert [rule for rule, _ in done] == ["W204"]
    assert document["images"][0]["segments"][0]["points"] == [[10.5, 10.5], [60.9, 3]]
    assert len(document["images"][0]["segments"]) == 3


def test_entries_of_one_id_of_a_stuff_class_are_one(data):
    data.points["images"][0]["segments"].append({"id": 9, "category_id": 2, "points": [[1, 1]]})
    document, done = fixed(data, {"E106"})
    assert [rule for rule, _ in done] == ["E106"]
    assert document["images"][0]["segments"][2]["points"][-1] == [1, 1]


def test_what_is_called_fixable_is_fixed(data):
    """And the other way round: nothing is fixed that no finding announced."""
    segments = data.points["images"][0]["segments"]
    segments[0]["points"] += [[10.5, 10.5], [60.9, 3], [99, 3]]
    segments[1].update(points=[], mask=1)
    segments.append({"id": 9, "category_id": 2, "points": [[1, 1]]})
    segments.append({"id": 0, "category_id": 1, "points": [[50, 5]]})
    before = data.check()
    promised = {f.rule for f in before.findings if f.fixable}
    document, done = fixed(data)
    assert {rule for rule, _ in done} <= promised
    assert promised == {"E102", "E106", "E108", "E202", "W110", "W204"}
    data.points = document
    left = data.check().findings
    assert [f.rule for f in left if f.rule[:2] in ("E1", "E2")] == ["E202"]
    assert not any(f.fixable for f in left)


def test_an_integer_beyond_all_floats_is_not_finite(data):
    data.segment(0)["points"].append([10**400, 1])
    assert [f.rule for f in data.check().findings if f.fixable] == ["E201"]
    document, done = fixed(data)
    assert document["images"][0]["segments"][0]["points"] == [[10.5, 10.5]]
    assert [rule for rule, _ in done] == ["E201"] and len(done[0][1]) < 200
    data.segment(0)["points"] = [[10.5, 10.5], [10**400, 1]]
    assert fixed(data, {"E202", "W204"}) == (data.points, [])


def test_many_entries_of_one_stuff_class_take_a_moment(data):
    """Each point an entry of its own, as a script that knows no stuff writes them."""
    points = [[i % 60 + 0.5, i // 60 * 1e-3] for i in range(40_000)]
    data.points["images"][0]["segments"] = [
        {"id": i + 1, "category_id": 2, "points": [p]} for i, p in enumerate(points)
    ] + [{"id": 50_000 + i, "category_id": 1, "points": []} for i in range(10_000)]
    data.write()
    points_file, _ = read_point_file(data.root / "points.json")
    start = time.process_time()
    fix_points(points_file, RULES)
    assert time.process_time() - start < 5
    (segment,) = points_file.document["images"][0]["segments"]
    assert segment["points"] == points


def prepared(data):
    data.segment(0)["points"].append([10.5, 10.5])
    data.write()
    points_file, _ = read_point_file(data.root / "points.json")
    fix_points(points_file, RULES)
    return points_file


def test_output_beside_the_input(data):
    points_file = prepared(data)
    before = (data.root / "points.json").read_bytes()
    written, backup = write_fixed(points_file)
    assert (written, backup) == (data.root / "points.fixed.json", None)
    assert (data.root / "points.json").read_bytes() == before
    assert json.loads(written.read_text("utf-8"))["images"][0]["segments"][0]["points"] == [
        [10.5, 10.5]
    ]
    assert default_output("x/y.tar.json").name == "y.tar.fixed.json"


def test_in_place_keeps_every_old_state(data):
    points_file = prepared(data)
    before = (data.root / "points.json").read_bytes()
    written, backup = write_fixed(points_file, in_place=True)
    assert written == data.root / "points.json" and backup.name == "points.json.bak"
    assert backup.read_bytes() == before != written.read_bytes()
    _, second = write_fixed(points_file, in_place=True)
    assert second.name == "points.json.bak2" and backup.read_bytes() == before


def test_the_input_is_no_output(data):
    points_file = prepared(data)
    before = (data.root / "points.json").read_bytes()
    with pytest.raises(PointLabelError, match="the output is the input"):
        write_fixed(points_file, data.root / "." / "points.json")
    assert (data.root / "points.json").read_bytes() == before


def test_a_number_that_json_does_not_know_leaves_everything_as_it_was(data):
    data.points["images"][0]["height"] = math.nan
    points_file = prepared(data)
    names = sorted(p.name for p in data.root.iterdir())
    for options in ({}, {"in_place": True}):
        with pytest.raises(PointLabelError, match="correct it by hand"):
            write_fixed(points_file, **options)
    assert sorted(p.name for p in data.root.iterdir()) == names


def test_a_hundred_thousand_points(tmp_path):
    """Seconds, in one image as in many, and every finding is kept."""
    points = [[i % 1000 + 0.5, i // 1000 + 1000.5] for i in range(100_000)]
    head = {"format": "fdd-points", "version": 1}
    head["categories"] = [{"id": 1, "name": "cell", "isthing": True}]
    segments = [{"id": i + 1, "category_id": 1, "points": [p]} for i, p in enumerate(points)]
    image = {"id": 1, "file_name": "a.jpg", "height": 10, "width": 1000, "segments": segments}
    path = tmp_path / "points.json"
    path.write_text(json.dumps({**head, "images": [image]}))
    result = check_data(CheckTarget(path))
    assert sum(f.rule == "E202" for f in result.findings) == 100_000

"""Rules that guess, rules on classes, and on training against validation."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from check_toys import Data
from fdd.points.rules import RULES, CheckTarget, check_data, select_rules


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / "data")


def many(data, count, make_segments, width=600, height=400):
    data.points["images"] = [
        {
            "id": n,
            "file_name": f"{n}.jpg",
            "height": height,
            "width": width,
            "segments": make_segments(n),
        }
        for n in range(count)
    ]


def codes(data, *rules):
    data.write()
    result = check_data(CheckTarget(data.root / "points.json"))
    return [f for f in result.findings if f.rule in select_rules(rules)]


def scattered(scale, per_segment=4, swap=False, seed=0):
    rng = np.random.default_rng(seed)

    def make(n):
        segments = []
        for i, category_id in enumerate((1, 3, 2), start=1):
            xy = rng.uniform(0, 1, (per_segment, 2)) * [600, 400] * np.array(scale)
            points = (xy[:, ::-1] if swap else xy).tolist()
            segments.append({"id": i, "category_id": category_id, "points": points})
        return segments

    return make


def test_points_all_over_are_not_suspicious(data):
    many(data, 20, scattered(1))
    assert codes(data, "W207", "W208", "W505") == []


def test_coordinates_of_a_smaller_copy(data):
    many(data, 20, scattered(0.45))
    (found,) = codes(data, "W207")
    assert "in all 20 images" in found.message and found.image_id is None
    # One image of ten: it alone.
    plain, small = scattered(1), scattered(0.45)
    many(data, 10, lambda n: small(n) if n == 3 else plain(n))
    assert [f.image_id for f in codes(data, "W207")] == [3]


def test_few_points_in_a_quarter_prove_nothing(data):
    plain, small = scattered(1, 1), scattered(0.45, 1)
    many(data, 10, lambda n: small(n) if n == 3 else plain(n))
    assert codes(data, "W207") == []


def test_fractions_of_one(data):
    many(data, 20, scattered((1 / 600, 1 / 400)))
    (found,) = codes(data, "W207")
    assert "fractions of 1" in found.message


def test_exchanged_axes(data):
    many(data, 12, scattered(1, swap=True))
    found = codes(data, "W208")
    assert len(found) > 6 and "with x and y exchanged" in found[0].message
    # Points outside that would stay outside are no sign of it.
    many(data, 1, lambda n: [{"id": 1, "category_id": 1, "points": [[700, 10], [5, 5]]}])
    assert codes(data, "W208") == []


def test_objects_put_into_one_segment(data):
    def grouped(n):
        points = [[10 + 20 * i, 10 + 20 * n] for i in range(2 + 3 * n)]
        return [{"id": 1, "category_id": 1, "points": points}]

    many(data, 4, grouped)
    assert ["'dog'" in f.message for f in codes(data, "W505")] == [True]
    # Sampled points have one number.
    many(data, 4, lambda n: [{"id": 1, "category_id": 1, "points": grouped(2)[0]["points"]}])
    assert codes(data, "W505") == []
    data.points["categories"][0]["isthing"] = False
    many(data, 4, grouped)
    assert codes(data, "W505") == []


def test_classes_of_one_side_only(data):
    data.points["categories"].append({"id": 8, "name": "cow", "isthing": True})
    for masks in (data.masks, data.val_masks):
        masks["categories"].append({"id": 8, "name": "cow", "isthing": True})
    assert data.found() == ["W501"]
    (found,) = data.only("W501")
    assert "'cow' (id 8, thing)" in found.message
    data.val_masks["annotations"][0]["segments_info"][0]["category_id"] = 8  # was the dog
    assert data.found() == ["W502", "W503"]
    by_rule = {f.rule: f.message for f in data.check().findings}
    assert "cow" in by_rule["W502"] and "dog" in by_rule["W503"]


def test_image_in_training_and_validation_by_its_bytes(data):
    shutil.copy(data.images / "b.png", data.val / "v.png")
    (found,) = data.only("E504")
    assert found.image_id == "v" and "the same bytes as training image 'b'" in found.message


def test_image_in_training_and_validation_by_its_path(data):
    data.yaml["validation"]["images"] = "images"
    data.val_masks["images"][0]["file_name"] = "a.png"
    (found,) = data.only("E504")
    assert found.image_id == "v" and "the same file as training image 'a'" in found.message


def test_images_of_equal_length_are_compared_by_content(data):
    for n, path in enumerate((data.images / "a.bmp", data.images / "b.bmp", data.val / "v.bmp")):
        Image.fromarray(np.full((40, 60, 3), n, np.uint8)).save(path)
        path.with_suffix(".png").unlink()
    assert len({p.stat().st_size for p in data.root.rglob("*.bmp")}) == 1
    assert data.found() == []


def test_validation_points_are_checked_too(data):
    data.yaml["validation"]["points"] = "val_points.json"
    data.segment(0)["points"].append([999, 0])
    data.write()
    shutil.copy(data.root / "points.json", data.root / "val_points.json")
    data.segment(0)["points"].pop()
    result = data.check()
    outside = [f for f in result.findings if f.rule == "E202"]
    assert [f.file for f in outside] == [str(data.root / "val_points.json")]
    # Its images are not those of the masks, which the evaluation needs.
    other = {f.image_id: f.message for f in result.findings if f.rule == "E415"}
    assert set(other) == {"a", "b", "v"} and result.failed()
    assert "'a' of " in other["a"] and "val_points.json has no mask" in other["a"]
    assert "has a mask, but is not in " in other["v"]


def clicked(data, things, stuff=3, images=6, things_an_image=5):
    """Each thing has ``things`` points, a number or a list of them to go round."""
    counts = itertools.cycle(things if isinstance(things, list) else [things])

    def make(i):
        for n in range(things_an_image):
            points = [[20 + 40 * n + 3 * k, 50 + 7 * i] for k in range(next(counts))]
            yield {"id": n + 1, "category_id": 1, "points": points}
        points = [[20 + 50 * k, 350.5] for k in range(stuff)]
        yield {"id": 99, "category_id": 2, "points": points}

    data.points["images"] = [
        {
            "id": f"{i}",
            "file_name": f"{i}.png",
            "width": 600,
            "height": 400,
            "segments": list(make(i)),
        }
        for i in range(images)
    ]


def single(data):
    return [f for f in data.check(read_files=False).findings if f.rule == "W506"]


def test_every_click_became_a_thing(data):
    clicked(data, 1)
    (found,) = single(data)
    assert "30 of 30 things have exactly one point" in found.message and "3.0 on" in found.message
    for way in ("group id", "CVAT", "Label Studio", "'instance'", "one click per thing is meant"):
        assert way in found.message
    assert found.severity == "warning" and "--ignore W506" in RULES["W506"].fix


def test_nearly_every_click_became_a_thing(data):
    clicked(data, [1] * 29 + [2])
    assert "29 of 30 things" in single(data)[0].message


@pytest.mark.parametrize(
    "options",
    [
        {"things": [1, 2]},
        {"things": 3},
        {"things": 1, "stuff": 1},  # one click a region, too
        {"things": 1, "images": 1},  # too few to tell
        {"things": 1, "things_an_image": 1, "images": 30},  # no object that others may belong to
    ],
)
def test_ways_of_labelling_that_are_no_mistake(data, options):
    clicked(data, **options)
    assert single(data) == []


def test_no_point_at_all_is_an_error(data):
    for image in data.points["images"]:
        image["segments"] = []
    result = data.check(read_files=False)
    (found,) = [f for f in result.findings if f.rule[0] == "E"]
    assert found.rule == "E111" and "none of the 2 images" in found.message and result.failed()
    assert not any(f.rule == "W306" for f in result.findings)  # said once
    data.points["images"] = []
    assert [f.message for f in data.check(read_files=False).findings if f.rule == "E111"] == [
        "no image at all"
    ]


def test_fractions_of_one_point_an_image(data):
    clicked(data, 1, things_an_image=1, images=4, stuff=0)
    for i, image in enumerate(data.points["images"]):
        image["segments"] = image["segments"][:1]
        image["segments"][0]["points"] = [[0.2 * i, 0.9]]
    found = [f for f in data.check(read_files=False).findings if f.rule == "W207"]
    assert len(found) == 1 and "fractions of 1" in found[0].message and "all 4" in found[0].message
    data.points["images"][0]["segments"][0]["points"] = [[0.2, 1.5]]
    assert not any(f.rule == "W207" for f in data.check(read_files=False).findings)

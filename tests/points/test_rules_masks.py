"""Rules on ground truth: what panopticapi or fdd's evaluation would score absurdly."""

import numpy as np
import pytest
from PIL import Image

from check_toys import HEIGHT, WIDTH, Data
from fdd.evaluation import PanopticGroundTruth
from fdd.points import PointLabelError
from fdd.points.coco_panoptic import read_panoptic_json, save_segment_ids


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / "data")


def segments(data):
    return data.val_masks["annotations"][0]["segments_info"]


def png(data):
    return data.root / "val_masks" / "v.png"


def refused_by_the_evaluation(data):
    """Whether the evaluation refuses the validation masks, which an error must mean."""
    data.write()
    try:
        truth = PanopticGroundTruth(
            str(data.root / "val_masks.json"), str(data.root / "val_masks"), None
        )
        for image_id in truth:
            truth.read(image_id)
    except (OSError, ValueError):
        return True
    return False


def test_valid_masks(data):
    assert data.found(decode=True) == [] and not refused_by_the_evaluation(data)


ERRORS = {
    "no such class": ("E406", lambda d: segments(d)[0].update(category_id=77)),
    "id 0": ("E406", lambda d: segments(d)[0].update(id=0)),
    "an id twice": ("E406", lambda d: segments(d)[0].update(id=5)),
    "an id that is no number": ("E406", lambda d: segments(d)[0].update(id="4")),
    "too large an id": ("E406", lambda d: segments(d)[0].update(id=256**3)),
    "no PNG": ("E407", lambda d: png(d).unlink()),
    "a PNG of elsewhere": (
        "E407",
        lambda d: d.val_masks["annotations"][0].update(file_name="../masks/a.png"),
    ),
    "no picture": ("E407", lambda d: png(d).write_bytes(b"")),
    "one channel": ("E407", lambda d: Image.new("L", (WIDTH, HEIGHT), 4).save(png(d))),
    "not in the PNG": ("E408", lambda d: segments(d).append({**segments(d)[0], "id": 6})),
    "not in the JSON": ("E408", lambda d: segments(d).pop()),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_found_and_are_refused_by_the_evaluation(data, name):
    rule, spoil = ERRORS[name]
    spoil(data)
    # A segment that is left out is missing in the PNG's list, and its class in the set.
    found = data.check(rules={rule}).findings
    assert [f.rule for f in found] == [rule]
    assert found[0].image_id == "v" and found[0].file == str(data.root / "val_masks.json")
    assert refused_by_the_evaluation(data)


WARNINGS = {
    "no iscrowd": ("W404", lambda d: segments(d)[0].pop("iscrowd")),
    "no area": ("W404", lambda d: segments(d)[0].pop("area")),
    "stale area": ("W405", lambda d: segments(d)[0].update(area=3)),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings_are_for_other_tools_only(data, name):
    rule, spoil = WARNINGS[name]
    spoil(data)
    assert data.found() == [rule] and not refused_by_the_evaluation(data)


def test_stale_area_is_told_with_the_count(data):
    segments(data)[1]["area"] = 3
    (found,) = data.only("W405")
    assert found.segment_id == 5 and "area 3, but 100 pixels" in found.message


def test_size_of_a_png(data):
    save_segment_ids(png(data), data.ids.T)
    (found,) = data.only("E409")
    assert "40 x 60 px (width x height), the JSON says 60 x 40" in found.message


def test_points_as_ground_truth(data):
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[10, 10], ids[30, 45], ids[5, 30] = 4, 5, 9
    save_segment_ids(png(data), ids)
    (found,) = data.only("E410")
    assert "in all PNGs" in found.message
    assert refused_by_the_evaluation(data)


def test_points_in_one_of_two_pngs(data):
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[10, 10], ids[30, 45], ids[5, 30] = 4, 5, 9
    save_segment_ids(data.root / "masks" / "b.png", ids)
    (found,) = data.only("E410")
    assert found.image_id == "b" and "3 of 2400 pixels" in found.message


def test_void_everywhere(data):
    save_segment_ids(png(data), np.zeros((HEIGHT, WIDTH), np.int32))
    segments(data).clear()
    assert {"E411"} == {f.rule for f in data.check().findings if f.rule[1] == "4"}
    save_segment_ids(data.root / "masks" / "b.png", np.zeros((HEIGHT, WIDTH), np.int32))
    data.masks["annotations"][1]["segments_info"].clear()
    found = [f for f in data.check().findings if f.rule == "W412"]
    assert [f.image_id for f in found] == ["b"]


@pytest.mark.parametrize(("isthing", "kind"), [(True, "stuff"), (False, "thing")])
def test_things_or_stuff_are_missing(data, isthing, kind):
    for part in (data.points, data.masks, data.val_masks):
        for category in part["categories"]:
            category["isthing"] = isthing
    found = [f for f in data.check().findings if f.rule == "W402"]
    assert [f.message for f in found] == [f"no {kind} class"] * 2
    assert not refused_by_the_evaluation(data)


@pytest.mark.parametrize("change", [{"id": 30}, {"name": "Cat"}, {"isthing": False}])
def test_other_classes_than_the_points(data, change):
    data.val_masks["categories"][2].update(change)
    found = [f for f in data.check().findings if f.rule == "E403"]
    assert len(found) == 2 and found[0].file == str(data.root / "val_masks.json")
    assert {"only the points" in f.message for f in found} == {True, False}


def test_pngs_and_images_that_have_no_counterpart(data):
    save_segment_ids(data.root / "masks" / "c.png", data.ids)
    data.points["images"].append(data.image(12) | {"file_name": "a.png"})
    found = {f.rule: f for f in data.check().findings}
    assert set(found) == {"W413", "W414"}
    assert "c.png" in found["W413"].message and found["W414"].image_id == 12


def test_findings_come_in_the_order_of_the_file(data):
    """Not in that of Python's hashes, which is another one in each run."""
    names = [f"image {n * 7919 % 1000}" for n in range(30)]
    data.masks["images"] += [data.masks["images"][0] | {"id": name} for name in names]
    found = [f.image_id for f in data.check().findings if f.rule == "E401"]
    assert found == names


def test_image_ids_of_another_kind(data):
    for entry, key in ((data.masks["images"][0], "id"), (data.masks["annotations"][0], "image_id")):
        entry[key] = "7"
    data.points["images"][0]["id"] = 7
    (found,) = data.only("W414")
    assert "there is '7': a text and a number are different ids" in found.message


@pytest.mark.parametrize(("image_id", "near"), [("²", None), ("9" * 5000, None), ("0007", 7)])
def test_image_ids_that_look_like_numbers(data, image_id, near):
    if near is not None:
        data.masks["images"][0]["id"] = data.masks["annotations"][0]["image_id"] = near
    data.points["images"][0]["id"] = image_id
    (found,) = data.only("W414")
    assert ("different ids" in found.message) == (near is not None)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda m: m["annotations"].append(dict(m["annotations"][0])), "annotated twice"),
        (lambda m: m["annotations"].clear(), "no annotation"),
        (lambda m: m["images"].clear(), "not among the images"),
        (lambda m: m["annotations"][0].pop("segments_info"), "annotation at position 0"),
        (lambda m: m["annotations"].append(3), "annotation at position 1"),
        (lambda m: m["images"].append({"id": 1}), "image at position 1"),
        (lambda m: m["categories"].append({"id": [], "name": 1, "isthing": 1}), "position 3"),
        (lambda m: m.pop("images"), "no images; expected"),
        (
            lambda m: m["annotations"].append({**m["annotations"][0], "image_id": 5}),
            "shares v.png with image 'v'",
        ),
    ],
)
def test_json_of_another_form(data, spoil, part):
    spoil(data.val_masks)
    found = [f for f in data.check().findings if f.rule == "E401"]
    assert any(part in f.message for f in found), found


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_no_json(data, content):
    data.yaml["validation"]["masks"]["json"] = "other.json"
    if content is not None:
        (data.root / "other.json").write_bytes(content)
    assert data.found() == ["E401"]


def test_missing_folder(data):
    data.yaml["validation"]["masks"]["folder"] = "nowhere"
    (found,) = data.only("E401")
    assert "there is no folder" in found.message


def test_a_sample_is_decoded_and_said(data, monkeypatch):
    monkeypatch.setattr("fdd.points.rules.masks.DECODED", 1)
    save_segment_ids(data.root / "masks" / "b.png", data.ids * 0 + 77)
    result = data.check()
    assert result.findings == []
    assert any("of 2 masks" in remark and "1 were decoded" in remark for remark in result.remarks)
    assert {f.rule for f in data.check(decode=True).findings} == {"E408"}


def test_ids_of_annotations_of_another_type(data):
    data.val_masks["images"][0]["id"] = 7
    data.val_masks["annotations"][0]["image_id"] = "7"
    found = {f.image_id: f.message for f in data.check().findings if f.rule == "E401"}
    assert set(found) == {7, "7"}
    assert "there is '7': a text and a number are different ids" in found[7]
    assert "there is 7: a text" in found["7"]
    assert refused_by_the_evaluation(data)


def test_an_image_without_annotation(data):
    data.val_masks["images"].append(data.val_masks["images"][0] | {"id": "w"})
    found = [f for f in data.check().findings if f.rule == "E401"]
    assert [f.image_id for f in found] == ["w"] and "has no annotation" in found[0].message
    assert refused_by_the_evaluation(data)


def test_two_images_of_one_id(data):
    data.val_masks["images"] *= 2
    found = [f for f in data.check().findings if f.rule == "E401"]
    assert ["two entries of 'images'" in f.message for f in found] == [True]
    assert refused_by_the_evaluation(data)


def test_the_reader_raises_what_the_checker_lists(data):
    segments(data)[0].update(id=0)
    segments(data)[1].update(category_id=77)
    data.val_masks["annotations"].append(data.val_masks["annotations"][0])
    data.val_masks["images"].append({"id": "w"})
    found = [f for f in data.check().findings if f.rule in ("E401", "E406")]
    with pytest.raises(PointLabelError) as error:
        read_panoptic_json(data.root / "val_masks.json")
    assert len(found) == 4 and sorted(f.message for f in found) == sorted(error.value.problems)

"""Label Studio JSON and JSON-MIN: percents, instances, whose annotation, which image."""

from __future__ import annotations

import copy
import json

import pytest

from fdd.points import PointLabelError
from fdd.points.importers import label_studio
from fdd.points.importers.label_studio import image_entry, image_names
from reader_helpers import EXPORTS, coords, instances, write_json

EXPORT = EXPORTS / "label_studio" / "tasks.json"
MIN_EXPORT = EXPORTS / "label_studio" / "tasks-min.json"
DOCUMENT = json.loads(EXPORT.read_text(encoding="utf-8"))
MIN_DOCUMENT = json.loads(MIN_EXPORT.read_text(encoding="utf-8"))
OTHERS = "annotations of a task besides the one that is taken"


def keypoint(x=50, y=50, label="cell", region="a", value=(), **more):
    result = {
        "id": region,
        "type": "keypointlabels",
        "original_width": 5,
        "original_height": 4,
        "value": {"x": x, "y": y, "width": 0.5, "keypointlabels": [label], **dict(value)},
    }
    return {**result, **more}


def annotation(*results, **more):
    return {"id": 1, "result": list(results), "was_cancelled": False, **more}


def read_task(tmp_path, *annotations, **options):
    task = {"id": 7, "data": {"image": "a.png"}, "annotations": list(annotations)}
    (image,) = label_studio.read(write_json(tmp_path / "a.json", [task]), **options)
    return image


def read_results(tmp_path, *results, **options):
    return read_task(tmp_path, annotation(*results), **options)


def test_percents_become_pixels_from_the_corner_of_the_image():
    first, second, third = label_studio.read(EXPORT)
    assert (first.file_name, first.width, first.height) == ("0a1b2c3d-first.png", 5, 4)
    assert first.other_names == ("first.png",)
    # 50 % of 5 is 2.5, the centre of the third pixel; 12.5 % of 4 that of the first.
    assert coords(first) == [
        ("cell", 2.5, 0.5),
        ("cell", 1.0, 3.0),
        ("cell", 0.0, 4.0),
        ("cell", 0.5, 2.5),
    ]
    assert (second.file_name, second.width, second.height) == ("farm/second hen.png", 40, 30)
    # The image was turned on the screen; coordinates are of the image as it is.
    assert coords(second) == [("hen", 10.0, 15.0), ("hen", 12.5, 18.0), ("grass", 30.0, 3.0)]
    assert (third.file_name, third.width, third.points) == ("farm/third.png", None, [])


def test_parents_and_relations_join_keypoints_others_are_instances_of_their_own():
    first, second, _ = label_studio.read(EXPORT)
    assert [len(i) for i in instances(first)] == [1, 3]
    assert [len(i) for i in instances(second)] == [2, 1]


def test_what_is_left_out_is_counted():
    first, second, third = label_studio.read(EXPORT)
    assert first.notes == {"predictions of a model": 1, "skipped (cancelled) annotations": 1}
    assert second.notes == {"negative clicks of smart keypoints": 1}
    assert third.notes == {"tasks without a finished annotation": 1}


def test_links_chain_and_end_at_another_label(tmp_path):
    image = read_results(
        tmp_path,
        {"type": "relation", "from_id": "a", "to_id": "b"},
        keypoint(10, region="a"),
        keypoint(20, region="b"),
        keypoint(30, region="c"),
        keypoint(40, region="d", label="hen"),
        keypoint(50, region="e"),
        {"type": "relation", "from_id": "c", "to_id": "b"},
        {"type": "relation", "from_id": "d", "to_id": "c"},
        {"type": "relation", "from_id": "b", "to_id": "a"},  # a circle
    )
    assert [len(i) for i in instances(image)] == [3, 1, 1]


def test_equal_region_ids_of_two_tasks_are_not_one_instance(tmp_path):
    tasks = [{"id": n, "data": {"image": f"{n}.png"}} for n in (1, 2)]
    for task in tasks:
        task["annotations"] = [annotation(keypoint())]
    one, other = label_studio.read(write_json(tmp_path / "a.json", tasks))
    assert one.points[0].instance != other.points[0].instance


@pytest.mark.parametrize("kind", ["rectanglelabels", "polygonlabels", "brushlabels", "ellipse"])
def test_other_regions_are_refused_or_left_out_and_still_group_their_keypoints(tmp_path, kind):
    shape = {"id": "box", "type": kind, "value": {"x": 0, "y": 0, "width": 50, "height": 50}}
    inside = [keypoint(10, region="a", parentID="box"), keypoint(20, region="b", parentID="box")]
    with pytest.raises(PointLabelError, match=f"task 7, region box: a region of type '{kind}'"):
        read_results(tmp_path, *inside, shape)
    image = read_results(tmp_path, *inside, shape, skip_shapes=True)
    assert [len(i) for i in instances(image)] == [2]
    assert image.notes == {f"{kind} regions": 1}


@pytest.mark.parametrize(
    ("annotations", "x"),
    [
        ([{"updated_at": "2021-03-09T22:16:08Z"}, {"updated_at": "2021-03-09T22:16:09Z"}], 2),
        ([{"updated_at": "2022-01-01T00:00:00Z"}, {"updated_at": "2021-03-09T22:16:09Z"}], 1),
        ([{"ground_truth": True}, {"updated_at": "2021-03-09T22:16:09Z"}], 1),
        ([{"created_at": 9}, {"created_at": 10}], 2),
        ([{}, {}], 2),
    ],
)
def test_of_several_annotations_ground_truth_or_the_latest_is_taken(tmp_path, annotations, x):
    made = [annotation(keypoint(20 * n), **a) for n, a in enumerate(annotations, start=1)]
    image = read_task(tmp_path, *made)
    assert coords(image) == [("cell", x, 2.0)]
    assert image.notes == {OTHERS: 1}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (keypoint(x=None), "coordinate None is not a finite number"),
        (keypoint(y=float("nan")), "coordinate nan is not a finite number"),
        (keypoint(value={"keypointlabels": []}), "a keypoint with 0 labels; expected one"),
        (
            keypoint(value={"keypointlabels": ["a", "b"]}),
            r"a keypoint with 2 labels \['a', 'b'\]; expected",
        ),
        (keypoint(value={"keypointlabels": "a"}), "'keypointlabels' is 'a'; expected a list"),
        (keypoint(value={"keypointlabels": [3]}), "the label 3; expected a text"),
        (keypoint(value={"x": 1e308}, original_width=10**6), "coordinate inf is not"),
        ({**keypoint(), "value": []}, "'value' is a list; expected an object"),
        (keypoint(original_width=None), "'original_width' is null; expected a whole number"),
        (keypoint(original_height="4.5"), "'original_height' is '4.5'; expected a whole number"),
        (keypoint(item_index=1), "tasks of several images are not imported"),
    ],
)
def test_wrong_regions_name_task_and_region(tmp_path, result, said):
    with pytest.raises(PointLabelError, match=f"task 7, region a.*: {said}"):
        read_results(tmp_path, result)


def test_two_sizes_of_an_image_are_an_error(tmp_path):
    with pytest.raises(PointLabelError, match="6 x 4 pixels here, 5 x 4 in an earlier region"):
        read_results(tmp_path, keypoint(), keypoint(original_width=6, region="b"))


def test_percents_beyond_the_image_are_handed_on(tmp_path):
    assert coords(read_results(tmp_path, keypoint(120, -10))) == [("cell", 6.0, -0.4)]


def test_turned_images_of_a_version_before_1_are_refused(tmp_path):
    task = {"id": 7, "data": {"image": "a.png"}, "completions": [annotation(keypoint())]}
    assert len(label_studio.read(write_json(tmp_path / "a.json", [task]))[0].points) == 1
    task["completions"] = [annotation(keypoint(image_rotation=90))]
    with pytest.raises(PointLabelError, match="region a: the image was turned by 90 degrees"):
        label_studio.read(write_json(tmp_path / "a.json", [task]))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (3, "position 0: 3; expected a task"),
        ({"id": 7, "image": "a.png"}, "task 7: neither 'data' .* nor 'annotation_id'"),
        ({"data": {"image": "a.png"}}, "task at position 0: no 'annotations'"),
        ({"id": 7, "data": [], "annotations": []}, "task 7: 'data' is a list; expected an object"),
        ({"id": 7, "data": {"image": "a.png"}, "annotations": {}}, "'annotations' is an object"),
        ({"id": 7, "data": {"image": "a.png"}, "annotations": [12]}, "annotation 0: 12; expected"),
        ({"id": 7, "data": {"image": "a.png"}, "annotations": [{}]}, "annotation 0: no 'result'"),
        (
            {"id": 7, "data": {"image": "a.png"}, "annotations": [{"result": ["x"]}]},
            "task 7, result 0: 'x'; expected an object",
        ),
        ({"id": 7, "data": {}, "annotations": []}, "which entry of the data is the image"),
    ],
)
def test_wrong_tasks_name_themselves(tmp_path, task, said):
    with pytest.raises(PointLabelError, match=said):
        label_studio.read(write_json(tmp_path / "a.json", [task]))


def test_no_task_and_broken_json_are_errors(tmp_path):
    with pytest.raises(PointLabelError, match=r"a.json: no task; nothing was exported"):
        label_studio.read(write_json(tmp_path / "a.json", []))
    (tmp_path / "a.json").write_text('[{"id": 1, "data": {"image": "a.png"}, "annotations": [}]')
    with pytest.raises(PointLabelError, match=r"a.json, line 1, column 56: not valid JSON"):
        label_studio.read(tmp_path)


def test_one_task_a_file_as_cloud_storage_has_them(tmp_path):
    for task in DOCUMENT:
        write_json(tmp_path / f"{task['id']}.json", task)
    whole = label_studio.read(EXPORT)
    assert [coords(i) for i in label_studio.read(tmp_path)] == [coords(i) for i in whole]


def test_json_min_has_the_same_points_each_an_instance():
    first, second = label_studio.read(MIN_EXPORT)
    assert (first.file_name, first.width, first.height) == ("opensource/plates/first.png", 5, 4)
    assert coords(first) == [("cell", 2.5, 0.5), ("cell", 1.0, 3.0)]  # the later of two rows
    assert [p.instance for p in first.points] == [None, None]
    assert first.notes == {OTHERS: 1}
    assert second.file_name == "C:\\farm\\second hen.png"
    assert coords(second) == [("grass", 30.0, 3.0)]


def test_json_min_refuses_boxes_and_keypoints_without_a_label(tmp_path):
    rows = copy.deepcopy(MIN_DOCUMENT)
    rows[0]["box"] = [{"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["cell"]}]
    path = write_json(tmp_path / "a.json", rows)
    with pytest.raises(PointLabelError, match="task 1, 'box', position 0: a region of type"):
        label_studio.read(path)
    first, _ = label_studio.read(path, skip_shapes=True)
    assert first.notes == {OTHERS: 1, "rectanglelabels regions": 1}
    rows = copy.deepcopy(MIN_DOCUMENT)
    rows[2]["kind"] = []
    with pytest.raises(PointLabelError, match="task 2, 'point', position 0: a keypoint without"):
        label_studio.read(write_json(path, rows))


@pytest.mark.parametrize(
    ("address", "name", "others"),
    [
        ("/data/upload/1/0a1b2c3d-cat.jpg", "0a1b2c3d-cat.jpg", ("cat.jpg",)),
        ("/data/upload/1/0a1b2c3d-my%20cat.jpg", "0a1b2c3d-my cat.jpg", ("my cat.jpg",)),
        ("http://host/data/upload/1/0a1b2c3d-cat.jpg", "0a1b2c3d-cat.jpg", ("cat.jpg",)),
        ("/data/upload/cat-1.jpg", "data/upload/cat-1.jpg", ()),
        ("/data/local-files/?d=farm%2Fcat%201.jpg", "farm/cat 1.jpg", ()),
        ("s3://bucket/farm/cat%201.jpg", "farm/cat 1.jpg", ()),
        ("https://host/farm/cat.jpg?token=a%2Fb#x", "farm/cat.jpg", ()),
        ("C:\\farm\\cat.jpg", "C:\\farm\\cat.jpg", ()),
        ("farm/100%20cats?.jpg", "farm/100%20cats?.jpg", ()),
        ("0a1b2c3d-cat.jpg", "0a1b2c3d-cat.jpg", ()),
    ],
)
def test_addresses_become_names_below_an_image_folder(address, name, others):
    assert image_names(address, "task 1") == (name, others)


@pytest.mark.parametrize("address", ["data:image/png;base64,AAAA", "s3://bucket/", "http://[x"])
def test_addresses_of_no_file_are_errors(address):
    with pytest.raises(PointLabelError, match="task 1: the image"):
        image_names(address, "task 1")


@pytest.mark.parametrize(
    ("data", "key", "entry"),
    [
        ({"anything": "no-extension"}, None, "no-extension"),
        ({"note": "a cat", "photo_url": "x/cat.JPG?token=1"}, None, "x/cat.JPG?token=1"),
        ({"before": "a.png", "image": "b.png", "n": 3}, None, "b.png"),
        ({"before": "a.png", "image": "b.png"}, "before", "a.png"),
    ],
)
def test_the_image_among_the_data(data, key, entry):
    assert image_entry(data, key, "task 1") == entry


@pytest.mark.parametrize(
    ("data", "key", "said"),
    [
        ({"before": "a.png", "after": "b.png"}, None, "Found 'before', 'after'. Name it with"),
        ({"image": "a.png"}, "img", "the data has no 'img'; found 'image'"),
        ({"images": ["a.png", "b.png"]}, None, "which entry of the data is the image"),
        ({"images": ["a.png", "b.png"]}, "images", "tasks of several images are not imported"),
    ],
)
def test_an_unclear_image_is_an_error(data, key, said):
    with pytest.raises(PointLabelError, match=f"task 1: .*{said}"):
        image_entry(data, key, "task 1")


def test_recognizes_its_own_and_no_other():
    for path, document in ((EXPORT, DOCUMENT), (MIN_EXPORT, MIN_DOCUMENT)):
        assert label_studio.recognizes(path, document)
    assert label_studio.recognizes(EXPORT, DOCUMENT[0])
    others = (None, [], {}, [1], {"data": [], "annotations": []}, {"annotations": [], "images": []})
    assert not any(label_studio.recognizes(EXPORT, document) for document in others)


def test_a_hundred_thousand_points_in_one_chain(tmp_path):
    results = [keypoint(region=str(n), parentID=str(n // 2)) for n in range(1, 50_001)]
    results += [keypoint(region=f"own {n}") for n in range(50_000)]
    image = read_results(tmp_path, *results)
    assert len(image.points) == 100_000
    assert len(instances(image)) == 50_001

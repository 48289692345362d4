"""Datumaro JSON: coordinates, instances, visibility, and wrong files."""

from __future__ import annotations

import copy
import json

import pytest

from fdd.points import PointLabelError
from fdd.points.importers import datumaro
from reader_helpers import EXPORTS, coords, instances, write_json

EXPORT = EXPORTS / "datumaro" / "annotations" / "default.json"
DOCUMENT = json.loads(EXPORT.read_text(encoding="utf-8"))


def points(flat, **more):
    return {"id": 0, "type": "points", "group": 0, "label_id": 0, "points": flat, **more}


def read_annotations(tmp_path, *annotations, **options):
    item = {"id": "a", "image": {"path": "a.png", "size": [4, 5]}, "annotations": [*annotations]}
    document = {"info": {}, "categories": DOCUMENT["categories"], "items": [item]}
    (image,) = datumaro.read(write_json(tmp_path / "a.json", document), **options)
    return image


def read_changed(tmp_path, change):
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return datumaro.read(write_json(tmp_path / "a.json", document))


def test_the_export_keeps_its_coordinates_and_its_height_and_width_are_not_mixed_up():
    first, second, third = datumaro.read(EXPORT)
    assert (first.file_name, first.width, first.height) == ("plates/first.png", 5, 4)
    assert coords(first) == [("cell", 0.5, 0.5), ("cell", 1.25, 2.0), ("cell", 3.0, 0.0)]
    assert first.notes == {"points marked as absent": 1}
    # Without a path the item's id is the name.
    assert (second.file_name, second.width, second.height) == ("second é", 40, 30)
    assert (third.file_name, third.width, third.points) == ("third.png", None, [])


def test_an_annotation_is_an_instance_and_a_group_joins_those_of_a_label():
    first, second, _ = datumaro.read(EXPORT)
    # The two annotations have the same id, which says nothing.
    assert [len(i) for i in instances(first)] == [1, 2]
    assert instances(second) == [
        [("cell", 10.0, 11.0), ("cell", 12.5, 11.0)],
        [("background", 30.0, 20.0)],
        [("hen", 20.0, 5.0)],
    ]


def test_equal_groups_of_two_images_are_not_one_instance(tmp_path):
    def change(document):
        document["items"][0]["annotations"][0]["group"] = 3

    first, second, _ = read_changed(tmp_path, change)
    assert first.points[0].instance != second.points[0].instance


@pytest.mark.parametrize("kind", ["bbox", "polygon", "polyline", "mask", "ellipse", "cuboid_3d"])
def test_other_shapes_are_refused_or_left_out_and_counted(tmp_path, kind):
    shape = {"id": 7, "type": kind, "group": 0, "label_id": 0, "bbox": [0, 0, 2, 2]}
    with pytest.raises(PointLabelError, match=f"item 'a', annotation 1: a {kind}; only points"):
        read_annotations(tmp_path, points([1, 2]), shape)
    image = read_annotations(tmp_path, shape, points([1, 2]), skip_shapes=True)
    assert coords(image) == [("cell", 1.0, 2.0)]
    assert image.notes == {f"{kind} annotations": 1}


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (points([1, 2, 3]), "'points' has 3 numbers; expected a multiple of 2"),
        (points([1, 2, 3, 4], type="skeleton"), "'points' has 4 numbers; expected a multiple of 3"),
        (points([1, None]), "coordinate None is not a finite number"),
        (points([1, float("nan")]), "coordinate nan is not a finite number"),
        (points([1, True]), "coordinate True is not a finite number"),
        (points({"x": 1}), "'points' is an object; expected a list"),
        (points([1, 2], label_id=None), "'label_id' is null"),
        (points([1, 2], label_id=5), "'label_id' is 5, but the file has 5 labels"),
        (points([1, 2], label_id=-1), "'label_id' is -1, but"),
        (points([1, 2], label_id=True), "'label_id' is True"),
        (points([1, 2], group="x"), "'group' is 'x'; expected a number"),
        (points([1, 2], visibility=[2, 2]), "'visibility' is a list; expected one number for each"),
        (points([1, 2], visibility=["visible"]), "the visibility 'visible'; expected 0, 1 or 2"),
        ({"id": 0, "label_id": 0, "points": [1, 2]}, "no 'type'"),
        ([1, 2], "a list; expected an object"),
    ],
)
def test_wrong_annotations_name_item_and_annotation(tmp_path, annotation, said):
    with pytest.raises(PointLabelError, match=f"a.json, item 'a', annotation 0: {said}"):
        read_annotations(tmp_path, annotation)


def test_points_without_visibility_are_all_there(tmp_path):
    assert len(read_annotations(tmp_path, points([1, 2, 3, 4])).points) == 2
    assert not read_annotations(tmp_path, points([])).points


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("items"), "a.json: no 'items'"),
        (lambda d: d.update(items={}), "'items' is an object; expected a list"),
        (lambda d: d.update(categories=[]), "'categories' is a list; expected an object"),
        (lambda d: d["categories"]["label"].pop("labels"), "'label': no 'labels'"),
        (lambda d: d["categories"]["label"]["labels"][1].pop("name"), "position 1: no 'name'"),
        (lambda d: d["categories"].pop("label"), "but the file has 0 labels"),
        (lambda d: d["items"][0].pop("id"), "'items', position 0: no 'id'"),
        (lambda d: d["items"][0].pop("annotations"), "item 'plates/first': no 'annotations'"),
        (lambda d: d["items"][0].update(image="a.png"), "'image' is 'a.png'; expected an object"),
        (lambda d: d["items"][0]["image"].update(size=[4]), r"'size' is \[4\]; expected"),
        (lambda d: d["items"][0]["image"].update(size=[4, -5]), "'size' is -5; expected a whole"),
        (lambda d: d["items"][0]["image"].update(path=3), "'path' is 3; expected a text"),
        (lambda d: d["items"][0].update(point_cloud={"path": "a.pcd"}), "a point_cloud; only"),
    ],
)
def test_wrong_documents_name_the_element(tmp_path, change, said):
    with pytest.raises(PointLabelError, match=said):
        read_changed(tmp_path, change)


def test_broken_json_names_line_and_column(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"items": [\n  {"id": "a",,}\n]}')
    with pytest.raises(PointLabelError, match=r"a.json, line 2, column 14: not valid JSON"):
        datumaro.read(path)


def test_a_byte_order_mark_is_nothing_special(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(EXPORT.read_text(encoding="utf-8").encode("utf-8-sig"))
    assert [coords(i) for i in datumaro.read(path)] == [coords(i) for i in datumaro.read(EXPORT)]


def test_the_subsets_of_a_folder_are_read_together(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("val", "train"):
        item = {"id": name, "annotations": [points([1, 1], group=1)]}
        document = {"categories": DOCUMENT["categories"], "items": [item]}
        write_json(tmp_path / "annotations" / f"{name}.json", document)
    train, val = datumaro.read(tmp_path)
    assert (train.file_name, val.file_name) == ("train", "val")
    assert train.points[0].instance != val.points[0].instance


def test_recognizes_its_own_and_no_other():
    assert datumaro.recognizes(EXPORT, DOCUMENT)
    coco = {"images": [], "annotations": [], "categories": []}
    assert not any(datumaro.recognizes(EXPORT, d) for d in (None, [], {}, coco, [DOCUMENT], "a"))


def test_a_hundred_thousand_points_are_one_annotation_or_as_many(tmp_path):
    image = read_annotations(tmp_path, points([1.5, 2.5] * 50_000), *[points([1.5, 2.5])] * 50_000)
    assert len(image.points) == 100_000
    assert len(instances(image)) == 50_001

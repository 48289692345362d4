"""COCO keypoints: whole numbers are pixels, visibility, and that nothing else is read."""

from __future__ import annotations

import copy
import json

import pytest

from fdd.points import PointLabelError
from fdd.points.importers.coco import has_keypoints, read_keypoints
from reader_helpers import EXPORTS, coords, instances, write_json

EXPORT = EXPORTS / "coco_keypoints" / "person_keypoints.json"
DOCUMENT = json.loads(EXPORT.read_text(encoding="utf-8"))
NOT_LABELLED = "keypoints that are not labelled (visibility 0)"
FRACTIONS = "keypoints taken as positions, because the file has fractions of pixels"


def read_changed(tmp_path, change, **options):
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return read_keypoints(write_json(tmp_path / "a.json", document), **options)


def test_whole_numbers_are_pixels_whose_centre_is_half_a_pixel_further():
    first, second, third = read_keypoints(EXPORT)
    assert (first.image_id, first.file_name) == (397133, "000000397133.jpg")
    assert (second.width, second.height) == (40, 30)
    assert coords(first) == [("person", 0.5, 3.5)]
    # 39, 29 is the last pixel of 40 x 30.
    assert coords(second) == [("person", 10.5, 20.5), ("person", 39.5, 29.5), ("person", 7.5, 8.5)]
    assert not third.points


def test_an_annotation_is_an_instance_and_what_is_left_out_is_counted():
    first, second, _ = read_keypoints(EXPORT)
    assert [len(i) for i in instances(second)] == [2, 1]
    assert first.notes == {NOT_LABELLED: 2}
    assert second.notes == {
        NOT_LABELLED: 3,
        "crowd annotations (regions of many objects)": 1,
        "annotations without 'keypoints'": 1,
    }


def test_boxes_areas_and_segmentations_change_nothing(tmp_path):
    def change(document):
        for n, annotation in enumerate(document["annotations"]):
            annotation["bbox"] = ["not", "read"]
            annotation["segmentation"] = [[n] * 7]
            annotation["area"] = -1
            annotation.pop("num_keypoints", None)

    def without(document):
        for annotation in document["annotations"]:
            for key in ("bbox", "segmentation", "area"):
                annotation.pop(key)

    before = [(coords(i), i.notes) for i in read_keypoints(EXPORT)]
    for altered in (change, without):
        assert [(coords(i), i.notes) for i in read_changed(tmp_path, altered)] == before


def test_a_file_with_fractions_holds_positions_already(tmp_path):
    def change(document):  # as CVAT and Label Studio write
        document["annotations"][1]["keypoints"][3:5] = [0.25, 4.0]

    first, second, third = read_changed(tmp_path, change)
    assert coords(first) == [("person", 0.25, 4.0)]
    assert coords(second)[0] == ("person", 10.0, 20.0)
    assert (first.notes[FRACTIONS], second.notes[FRACTIONS], third.notes[FRACTIONS]) == (1, 3, 0)


def test_the_convention_can_be_decided_by_hand(tmp_path):
    def change(document):
        document["annotations"][1]["keypoints"][3:5] = [0.25, 3.0]

    assert coords(read_changed(tmp_path, change, pixel_centers=True)[0]) == [("person", 0.75, 3.5)]
    assert coords(read_keypoints(EXPORT, pixel_centers=False)[0]) == [("person", 0.0, 3.0)]


def test_each_file_of_a_folder_has_its_own_convention_and_ids_that_may_clash(tmp_path):
    write_json(tmp_path / "a.json", DOCUMENT)
    document = copy.deepcopy(DOCUMENT)
    document["annotations"][1]["keypoints"][3:5] = [0.25, 3.0]
    write_json(tmp_path / "b.json", document)
    images = read_keypoints(tmp_path)
    assert coords(images[0]) == [("person", 0.5, 3.5)]
    assert coords(images[3]) == [("person", 0.25, 3.0)]
    assert {image.image_id for image in images} == {None}
    assert images[0].points[0].instance != images[3].points[0].instance


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][0].update(keypoints=[1, 2]), "1: 'keypoints' has 2 numbers"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, "v"]), "the visibility 'v'"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, -1]), "the visibility -1"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, 3]), "the visibility 3; expected 0"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, True]), "the visibility True"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, 0.4]), "0.4; .*A model's score"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, 1.5]), "the visibility 1.5"),
        (lambda d: d["annotations"][0].update(keypoints=[1, "x", 2]), "1: coordinate 'x'"),
        (lambda d: d["annotations"][0].update(keypoints=[float("inf"), 1, 2]), "coordinate inf"),
        (lambda d: d["annotations"][0].update(keypoints=None), "'keypoints' is null; expected"),
        (lambda d: d["annotations"][0].update(image_id=99), "1: no image has the id 99"),
        (lambda d: d["annotations"][0].update(image_id="12"), "1: no image has the id '12'"),
        (lambda d: d["annotations"][0].pop("image_id"), "annotation position 0: no 'image_id'"),
        (lambda d: d["annotations"][0].update(category_id=2), "1: no category has the id 2"),
        (lambda d: d["annotations"].insert(0, 7), "annotation position 0: 7; expected an object"),
        (lambda d: d["images"][1].update(id=397133), "image 397133: two images have this id"),
        (lambda d: d["images"][1].pop("file_name"), "image 12: no 'file_name'"),
        (lambda d: d["images"][1].update(width="wide"), "image 12: 'width' is 'wide'; expected"),
        (lambda d: d["categories"].append(d["categories"][0]), "two categories have the id 1"),
        (lambda d: d["categories"][0].pop("name"), "'categories', position 0: no 'name'"),
        (lambda d: d.pop("categories"), "a.json: no 'categories'"),
        (lambda d: [a.pop("keypoints", 0) for a in d["annotations"]], "none of 5 annotations has"),
    ],
)
def test_wrong_documents_name_the_element(tmp_path, change, said):
    with pytest.raises(PointLabelError, match=said):
        read_changed(tmp_path, change)


def test_a_list_or_broken_json_is_an_error_with_its_place(tmp_path):
    with pytest.raises(PointLabelError, match=r"a.json: a list; expected an object"):
        read_keypoints(write_json(tmp_path / "a.json", [DOCUMENT]))
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [\n')
    with pytest.raises(PointLabelError, match=r"a.json, line 2, column 1: not valid JSON"):
        read_keypoints(tmp_path)


def test_images_alone_are_images_without_points(tmp_path):
    images = read_changed(tmp_path, lambda d: d.update(annotations=[]))
    assert [len(image.points) for image in images] == [0, 0, 0]


def test_recognizes_its_own_and_no_other():
    assert has_keypoints(EXPORT, DOCUMENT)
    boxes = {**DOCUMENT, "annotations": [DOCUMENT["annotations"][-1]]}
    both = {**DOCUMENT, "annotations": [{"keypoints": [], "point_coords": []}]}
    others = (None, [], {}, {"annotations": [{"keypoints": []}]}, boxes, both)
    assert not any(has_keypoints(EXPORT, document) for document in others)


def test_a_hundred_thousand_points(tmp_path):
    def change(document):
        document["annotations"] = [
            {"id": n, "image_id": 12, "category_id": 1, "keypoints": [3, 4, 2] * 10}
            for n in range(10_000)
        ]

    image = read_changed(tmp_path, change)[1]
    assert len(image.points) == 100_000
    assert len(instances(image)) == 10_000


def test_visibilities_written_as_floats(tmp_path):
    def change(document):
        document["annotations"] = document["annotations"][:1]
        document["annotations"][0]["keypoints"] = [1, 2, 2.0, 3, 4, 0.0, 5, 6, 1.0]

    images = read_changed(tmp_path, change)
    assert sum(len(image.points) for image in images) == 2
    assert sum(image.notes[NOT_LABELLED] for image in images) == 1

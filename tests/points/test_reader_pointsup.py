"""PointSup's COCO JSON: positive points only, half a pixel, and that nothing else is read."""

from __future__ import annotations

import copy
import json

import pytest

from fdd.points import PointLabelError
from fdd.points.importers.coco import has_point_coords, read_pointsup
from reader_helpers import EXPORTS, coords, instances, write_json

EXPORT = EXPORTS / "pointsup" / "instances_n4_v1_without_masks.json"
DOCUMENT = json.loads(EXPORT.read_text(encoding="utf-8"))
NEGATIVE = "points that do not lie on the object (label 0)"


def read_changed(tmp_path, change):
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return read_pointsup(write_json(tmp_path / "a.json", document))


def test_positive_points_are_the_centres_of_their_pixels():
    first, second = read_pointsup(EXPORT)
    assert (first.image_id, first.file_name, first.width) == (9, "000000000009.jpg", 40)
    assert coords(first) == [("bowl", 17.5, 12.5), ("bowl", 30.5, 21.5)]
    # 4, 3 is the last pixel of 5 x 4; the crowd's points are not here.
    assert coords(second) == [("broccoli", 0.5, 0.5), ("broccoli", 4.5, 3.5)]
    assert [len(i) for i in instances(first)] == [2]


def test_what_is_left_out_is_counted():
    first, second = read_pointsup(EXPORT)
    assert first.notes == {
        NEGATIVE: 5,
        "ignored points (label -1)": 1,
        "objects without a point on them": 1,
    }
    assert second.notes == {NEGATIVE: 2, "crowd annotations (regions of many objects)": 1}


def test_boxes_and_segmentations_change_nothing(tmp_path):
    def change(document):
        for annotation in document["annotations"]:
            annotation["bbox"] = "not read"
            annotation["segmentation"] = [[1, 2, 3]]
            annotation.pop("area")

    def without(document):
        for annotation in document["annotations"]:
            annotation.pop("bbox")

    before = [(coords(i), i.notes) for i in read_pointsup(EXPORT)]
    for altered in (change, without):
        assert [(coords(i), i.notes) for i in read_changed(tmp_path, altered)] == before


def test_each_annotation_is_an_instance_also_with_equal_ids(tmp_path):
    def change(document):
        for annotation in document["annotations"]:
            annotation.update(id=1, image_id=9, iscrowd=0, category_id=51)

    assert [len(i) for i in instances(read_changed(tmp_path, change)[0])] == [2, 2, 4]


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        ({"point_labels": [1]}, "4 'point_coords', but 1 'point_labels'"),
        ({"point_labels": [1, 0, 0, 2]}, "the point label 2; expected 1, 0 or -1"),
        ({"point_labels": [1, 0, 0, "1"]}, "the point label '1'; expected"),
        ({"point_labels": [1, 0, 0, [1]]}, "the point label"),
        ({"point_labels": None}, "'point_labels' is null; expected a list"),
        ({"point_coords": [[1, 2], [1, 2], [1, 2, 3], [1, 2]]}, r"the point \[1, 2, 3\]"),
        ({"point_coords": [[1, 2], [1, None], [1, 2], [1, 2]]}, "coordinate None"),
        ({"point_coords": [[1, 2], [1, float("nan")], [1, 2], [1, 2]]}, "coordinate nan"),
    ],
)
def test_wrong_points_name_the_annotation(tmp_path, alter, said):
    with pytest.raises(PointLabelError, match=f"a.json, annotation 100: {said}"):
        read_changed(tmp_path, lambda d: d["annotations"][0].update(alter))


def test_recognizes_its_own_also_where_keypoints_are_left_in():
    assert has_point_coords(EXPORT, DOCUMENT)
    both = {**DOCUMENT, "annotations": [{"keypoints": [], "point_coords": []}]}
    assert has_point_coords(EXPORT, both)
    keypoints = {**DOCUMENT, "annotations": [{"keypoints": []}]}
    assert not any(has_point_coords(EXPORT, d) for d in (None, [], {}, [1], keypoints))


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(PointLabelError, match=r"a.json"):
        read_pointsup(tmp_path / "a.json")

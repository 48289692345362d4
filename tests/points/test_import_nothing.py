"""Imports without one point: an error that says what was found and what may have been meant."""

import json

import pytest

from fdd.points import PointLabelError
from fdd.points.classes import parse_classes
from fdd.points.importers import get_importer, import_points, importer_names
from import_toys import labelme, save_image

CLASSES = parse_classes({"things": ["cow"], "stuff": ["grass"]}, ["ruler"])


def coco(**annotation):
    return {
        "images": [{"id": 1, "file_name": "field.jpg"}],
        "categories": [{"id": 1, "name": "cow"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **annotation}],
    }


def datumaro(*annotations):
    labels = {"label": {"labels": [{"name": "cow"}]}}
    item = {"id": "field", "annotations": list(annotations)}
    return {"categories": labels, "items": [item]}


TASK = {"id": 1, "data": {"image": "field.jpg"}, "annotations": []}
BOX = {"type": "rectangle", "shape_type": "rectangle", "label": "cow", "points": [[1, 1], [2, 2]]}
NOTHING = {
    "keypoints that nobody has labelled": (
        "a.json",
        coco(keypoints=[3, 4, 0, 5, 6, 0]),
        {},
        ("1 image ", "2 keypoints that are not labelled", "visibility 1 or 2", "points sample"),
    ),
    "no keypoints": ("a.json", coco(keypoints=[]), {}, ("coco-keypoints", "--format pointsup")),
    "a crowd": (
        "a.json",
        coco(keypoints=[3, 4, 2], iscrowd=1),
        {},
        ("1 crowd annotations", "not in a crowd"),
    ),
    "points off the object": (
        "a.json",
        coco(point_coords=[[1, 1]], point_labels=[0]),
        {},
        ("1 points that do not lie on the object", "--format coco-keypoints"),
    ),
    "predictions": (
        "a.json",
        [{**TASK, "predictions": [{"result": []}, {"result": []}]}],
        {},
        ("2 predictions of a model", "1 tasks without a finished", "Create annotations from"),
    ),
    "a skipped task": (
        "a.json",
        [{**TASK, "annotations": [{"result": [], "was_cancelled": True}]}],
        {},
        ("1 skipped (cancelled) annotations", "submitted"),
    ),
    "no shapes": ("a.json", {"shapes": [], "imagePath": "field.jpg"}, {}, ("labelme", "--skip-")),
    "boxes": (
        "a.json",
        {"shapes": [BOX], "imagePath": "field.jpg"},
        {"skip_shapes": True},
        ("1 shapes of type 'rectangle'", "--skip-shapes"),
    ),
    "annotations of another type": (
        "a.json",
        datumaro({"type": "bbox", "label_id": 0, "bbox": [1, 1, 2, 2]}),
        {"skip_shapes": True},
        ("1 bbox annotations", "Only points count"),
    ),
    "an empty job": (
        "a.xml",
        '<annotations><image name="field.jpg" width="30" height="20"></image></annotations>',
        {},
        ("cvat", "1 image", "annotations saved"),
    ),
    "a header": ("a.csv", "image,category,x,y\n", {}, ("0 images", "no row", "--delimiter")),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_import_is_an_error(tmp_path, name):
    file, content, options, said = NOTHING[name]
    save_image(tmp_path / "field.jpg")
    path = tmp_path / file
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    for classes in (CLASSES, None):
        with pytest.raises(PointLabelError, match="not one point; nothing was imported") as caught:
            import_points(path, tmp_path, classes, **options)
        text = str(caught.value)
        assert all(part in text for part in (str(path), *said)), text


def test_a_class_file_or_drop_that_leaves_nothing(tmp_path):
    save_image(tmp_path / "field.jpg")
    path = labelme(tmp_path / "a.json", points=[("ruler", 1, 1), ("ruler", 2, 2)])
    with pytest.raises(PointLabelError, match="none of 2 points is left") as caught:
        import_points(path, tmp_path, CLASSES)
    assert "2 points of the label 'ruler'" in str(caught.value)
    labelme(path, points=[("cow", 99, 1)])
    with pytest.raises(PointLabelError, match="1 points outside their image"):
        import_points(path, tmp_path, CLASSES, drop=("outside",))


def test_every_format_has_its_hint():
    assert all(get_importer(name).hint for name in importer_names())

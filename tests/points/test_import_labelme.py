"""LabelMe files: what is read, what is refused, and where the message points."""

import json

import pytest

from fdd.points import PointLabelError
from fdd.points.classes import parse_classes
from fdd.points.importers import import_points
from fdd.points.importers.labelme import read
from import_toys import EXPORTS, labelme, save_image, segments

CLASSES = parse_classes({"things": ["cow", "calf"], "stuff": ["grass"]})


def test_export_written_by_hand(tmp_path):
    save_image(tmp_path / "field.jpg")
    save_image(tmp_path / "shed.jpg", 12, 10)
    imported = import_points(EXPORTS / "labelme", tmp_path, CLASSES)
    assert imported.format == "labelme"
    assert [i.image_id for i in imported.dataset.images] == ["field", "shed"]
    # A group joins points of one label only; the cow without a group is one of its own.
    assert segments(imported.dataset, 0) == [
        ("cow", [(12.5, 3.25), (14.0, 4.0)]),
        ("grass", [(2.0, 18.0), (29.0, 0.0)]),
        ("cow", [(25.0, 9.5)]),
        ("calf", [(27.75, 9.5)]),
    ]
    assert segments(imported.dataset, 1) == [("cow", [(4.0, 5.0)])]


def test_a_single_file_and_its_names():
    (image,) = read(EXPORTS / "labelme" / "field.json")
    assert (image.file_name, image.width, image.height) == ("..\\pictures\\field.jpg", 30, 20)
    assert image.points[2].where.endswith("field.json, shapes[2]")
    (old,) = read(EXPORTS / "labelme" / "old" / "shed.json")
    assert (old.width, old.height, old.points[0].instance) == (None, None, None)


def shape(kind, points=((1, 2), (3, 4))):
    return {"label": "cow", "points": [list(p) for p in points], "shape_type": kind}


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "linestrip", "circle", "mask", None])
def test_shapes_that_are_no_points(tmp_path, kind):
    path = labelme(tmp_path / "a.json", points=[("cow", 5, 6)])
    document = json.loads(path.read_text())
    document["shapes"].insert(0, shape(kind))
    path.write_text(json.dumps(document))
    name = kind or "polygon"  # what the tool takes old files' shapes for
    with pytest.raises(PointLabelError, match=rf"a\.json, shapes\[0\]: a '{name}' of 'cow'"):
        read(path)
    (image,) = read(path, skip_shapes=True)
    assert [(p.x, p.y) for p in image.points] == [(5, 6)]
    assert list(image.notes.values()) == [1] and name in next(iter(image.notes))


def test_all_wrong_shapes_are_named(tmp_path):
    for name in ("a", "b"):
        path = labelme(tmp_path / f"{name}.json")
        document = json.loads(path.read_text())
        document["shapes"] = [shape("polygon")] * 15
        path.write_text(json.dumps(document))
    with pytest.raises(
        PointLabelError, match=r"(?s)30 problems.*and 10 more.*--skip-shapes"
    ) as caught:
        read(tmp_path)
    assert len(caught.value.problems) == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, "shapes\\[0\\]: 'label' is 3; expected a text"),
        ({"points": []}, "'points' of a point is \\[\\]"),
        ({"points": [[1, 2], [3, 4]]}, "expected \\[\\[x, y\\]\\]"),
        ({"points": [[1]]}, "expected \\[\\[x, y\\]\\]"),
        ({"points": [["a", 1]]}, "coordinate 'a' is not a finite number"),
        ({"points": [[True, 1]]}, "coordinate True is not a finite number"),
        ({"points": [[1e999, 1]]}, "coordinate inf is not a finite number"),
        ({"points": [[None, 1]]}, "coordinate None"),
        ({"group_id": [1]}, "'group_id' is a list"),
        ({"group_id": True}, "'group_id' is True"),
        ({"shape_type": 5}, "'shape_type' is 5"),
    ],
)
def test_unsound_points(tmp_path, change, message):
    path = labelme(tmp_path / "a.json", points=[("cow", 1, 2)])
    document = json.loads(path.read_text())
    document["shapes"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(PointLabelError, match=f"a\\.json.*{message}"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a LabelMe file"),
        ("[]", "not a LabelMe file"),
        ('{"shapes": {}, "imagePath": "a.jpg"}', "'shapes' is an object; expected a list"),
        ('{"shapes": [], "imagePath": 7}', "'imagePath' is 7; expected a text"),
        ('{"shapes": [4], "imagePath": "a.jpg"}', r"shapes\[0\]: 4; expected an object"),
        ('{"shapes": [], "imagePath": "a", "imageWidth": -1}', "'imageWidth' is -1"),
        ('{"shapes": [], "imagePath": "a", "imageHeight": 1%s}' % ("0" * 4000), "'imageHeight' is"),
        ('{"shapes": [],\n "imagePath": "a.jpg"', r"line 2, column 22: not valid JSON"),
        ("", "an empty file"),
    ],
)
def test_unsound_files(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(PointLabelError, match=f"a\\.json.*{message}"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding):
    path = labelme(tmp_path / "a.json", points=[("vaché", 1, 2)])
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    (image,) = read(path)
    assert image.points[0].label == "vaché"


def test_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file that ends in \.json"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        read(tmp_path / "none.json")
    for name in ("b", "sub/a", "._b", ".hidden/c"):
        labelme(tmp_path / f"{name}.json", image=f"{name}.jpg")
    (tmp_path / "points.json").write_text('{"format": "fdd-points"}')  # of an earlier import
    assert [image.file_name for image in read(tmp_path)] == ["b.jpg", "sub/a.jpg"]

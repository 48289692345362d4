"""Coordinates within 0 and 1 are pixels or shares: every reader's are asked about, in one way."""

from __future__ import annotations

import json

import pytest

from fdd.points import PointLabelError
from fdd.points.classes import parse_classes
from fdd.points.importers import get_importer, import_points, importer_names
from import_toys import labelme, save_image, segments

CLASSES = parse_classes({"things": ["cow"], "stuff": ["grass"]})
#: A point in each of two images.
POINTS = [(0.5, 0.25), (0.75, 1)]


def coco(path, entry):
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(2)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, **entry(x, y)} for n, (x, y) in enumerate(POINTS)
    ]
    categories = [{"id": 1, "name": "cow"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return path


def write_labelme(folder):
    for n, (x, y) in enumerate(POINTS):
        labelme(folder / "labels" / f"{n}.json", f"{n}.png", [("cow", x, y)])
    return folder / "labels"


def write_cvat(folder):
    images = "".join(
        f'<image id="{n}" name="{n}.png"><points label="cow" points="{x},{y}"/></image>'
        for n, (x, y) in enumerate(POINTS)
    )
    (folder / "a.xml").write_text(f"<annotations>{images}</annotations>")
    return folder / "a.xml"


def write_datumaro(folder):
    items = [
        {
            "id": str(n),
            "image": {"path": f"{n}.png"},
            "annotations": [{"type": "points", "label_id": 0, "points": [x, y]}],
        }
        for n, (x, y) in enumerate(POINTS)
    ]
    document = {"items": items, "categories": {"label": {"labels": [{"name": "cow"}]}}}
    (folder / "a.json").write_text(json.dumps(document))
    return folder / "a.json"


def write_csv(folder):
    rows = "".join(f"{n}.png,cow,{x},{y}\n" for n, (x, y) in enumerate(POINTS))
    (folder / "a.csv").write_text(f"image,category,x,y\n{rows}")
    return folder / "a.csv"


WRITERS = {
    "labelme": write_labelme,
    "cvat": write_cvat,
    "datumaro": write_datumaro,
    "coco-keypoints": lambda folder: coco(folder / "a.json", lambda x, y: {"keypoints": [x, y, 2]}),
    # Half a pixel is added to every point of this format.
    "pointsup": lambda folder: coco(
        folder / "a.json", lambda x, y: {"point_coords": [[x, y]], "point_labels": [1]}
    ),
    "csv": write_csv,
}
#: Their coordinates are percent, and pixels of a picture.
DEFINED = {"label-studio", "sparse-png"}


@pytest.fixture
def images(tmp_path):
    for n in range(2):
        save_image(tmp_path / "images" / f"{n}.png", 8, 4)
    return tmp_path / "images"


def test_every_format_is_asked_or_defines_its_unit():
    assert set(WRITERS) | DEFINED == set(importer_names())
    defined = {name for name in importer_names() if get_importer(name).defines_unit}
    assert defined == DEFINED


@pytest.mark.parametrize("format", WRITERS)
def test_coordinates_within_0_and_1_need_their_unit(tmp_path, images, format):
    """Or every point would be in the first pixel, without a word where an image has one."""
    source = WRITERS[format](tmp_path)
    for options in ({}, {"drop": ("shared-pixel",)}):
        with pytest.raises(PointLabelError, match="lie within 0 and 1") as caught:
            import_points(source, images, CLASSES, **options)
        text = str(caught.value)
        assert "(2 points)" in text and "--units normalized" in text and "--units pixel" in text
        assert ("--pixel-size" in text) == (format == "csv")
    shares = import_points(source, images, CLASSES, units="normalized").dataset
    assert [segments(shares, n) for n in range(2)] == [
        [("cow", [(8 * x, 4 * y)])] for x, y in POINTS
    ]
    pixels = import_points(source, images, CLASSES, units="pixel").dataset
    shift = 0.5 if format == "pointsup" else 0
    assert [segments(pixels, n) for n in range(2)] == [
        [("cow", [(x + shift, y + shift)])] for x, y in POINTS
    ]


def test_whole_percents_of_keypoints_are_not_moved_by_half_a_pixel(tmp_path, images):
    source = coco(tmp_path / "a.json", lambda x, y: {"keypoints": [100 * x, 100 * y, 2]})
    dataset = import_points(source, images, CLASSES, units="percent").dataset
    assert segments(dataset) == [("cow", [(4, 1)])]


def test_one_coordinate_beyond_1_says_pixels(tmp_path, images):
    source = labelme(tmp_path / "labels" / "0.json", "0.png", [("cow", 0.5, 0.25)])
    labelme(tmp_path / "labels" / "1.json", "1.png", [("cow", 0.5, 1.5)])
    dataset = import_points(source.parent, images, CLASSES).dataset
    assert segments(dataset) == [("cow", [(0.5, 0.25)])]


def test_percent_within_one_percent_stays_percent(tmp_path, images):
    value = {"x": 0.5, "y": 1, "keypointlabels": ["cow"]}
    result = {"type": "keypointlabels", "value": value, "original_width": 8, "original_height": 4}
    task = {"id": 1, "data": {"image": "0.png"}, "annotations": [{"result": [result]}]}
    source = tmp_path / "a.json"
    source.write_text(json.dumps([task]))
    assert segments(import_points(source, images, CLASSES).dataset) == [("cow", [(0.04, 0.04)])]
    with pytest.raises(ValueError, match=r"--units .*Label Studio JSON.* defines its unit"):
        import_points(source, images, CLASSES, units="normalized")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "inch"}, "units 'inch'; allowed: pixel, percent, normalized"),
        ({"units": "percent", "pixel_centers": True}, "contradict pixel centres"),
        ({"units": "normalized", "pixel_size": 2.0}, "contradict .* pixel size"),
    ],
)
def test_contradicting_options(tmp_path, images, options, message):
    with pytest.raises(ValueError, match=message):
        import_points(write_csv(tmp_path), images, CLASSES, **options)

"""Forms made from panoptic PNGs, by hand-made exports."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from fdd.export_formats import (
    FORMATS,
    Export,
    ExportedImage,
    export_format_names,
    get_export_format,
    png_names,
    register_export_format,
    write_formats,
    written_formats,
)
from fdd.points.coco_panoptic import describe_segments, save_segment_ids

# Contiguous order: things first.
CATEGORIES = [
    {"id": 70, "name": "Zelle", "isthing": True, "color": [255, 0, 0]},
    {"id": 2, "name": "dog", "isthing": True, "color": [0, 255, 0]},
    {"id": 30, "name": "sky", "isthing": False, "color": [0, 0, 255]},
]
IDS = np.zeros((6, 8), int)
IDS[:, 4:] = 300
IDS[1:4, 0:3] = 5
IDS[2, 1] = 0
IDS[5, 0] = 5
CLASSES = {300: 30, 5: 2}


def _image(root, image_id, file_name, ids=IDS, classes=CLASSES, **changes):
    png = png_names([file_name])[0]
    save_segment_ids(root / "export" / "panoptic" / png, ids)
    source = root / "pictures" / file_name
    source.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", ids.shape[::-1]).save(source)
    segments = [{**s, "score": 0.5} for s in describe_segments(ids, classes)]
    size = {"height": ids.shape[0], "width": ids.shape[1]}
    image = ExportedImage(
        image_id, file_name, **size, source=str(source), png=png, segments=segments
    )
    return replace(image, **changes)


@pytest.fixture
def export(tmp_path):
    one = _image(tmp_path, "first", "in/a.png")
    two = _image(tmp_path, "second", "b.jpg", IDS.T.copy())
    none = _image(tmp_path, "third", "c.png", np.zeros((3, 4), int), {}, labelled=False)
    return Export(tmp_path / "export", CATEGORIES, [one, two, none], {"maker": "learned"})


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_panoptic_json(export):
    assert write_formats(export, []) == ["panoptic.json, panoptic/: COCO panoptic"]
    document = read(export.root / "panoptic.json")
    assert document["info"] == {"maker": "learned"}
    assert document["images"][0] == {
        "id": "first",
        "file_name": "in/a.png",
        "height": 6,
        "width": 8,
    }
    assert document["annotations"][0] == {
        "image_id": "first",
        "file_name": "in/a.png",
        "segments_info": [
            {"id": 300, "category_id": 30, "area": 24, "bbox": [4, 0, 4, 6], "iscrowd": 0}
            | {"score": 0.5},
            {"id": 5, "category_id": 2, "area": 9, "bbox": [0, 1, 3, 5], "iscrowd": 0}
            | {"score": 0.5},
        ],
    }
    assert document["annotations"][2]["segments_info"] == []
    assert document["categories"][0] == {
        "id": 70,
        "name": "Zelle",
        "isthing": 1,
        "color": [255, 0, 0],
    }
    assert [c["isthing"] for c in document["categories"]] == [1, 1, 0]


def test_semantic(export):
    write_formats(export, ["semantic"])
    with Image.open(export.root / "semantic" / "in" / "a.png") as picture:
        assert picture.mode == "L"  # no palette, which others would turn into grey values
        values = np.array(picture)
    assert np.array_equal(values, np.select([IDS == 300, IDS == 5], [2, 1], 255))
    table = read(export.root / "semantic.json")
    assert table["void"] == 255
    assert [(c["value"], c["id"], c["name"]) for c in table["classes"]] == [
        (0, 70, "Zelle"),
        (1, 2, "dog"),
        (2, 30, "sky"),
    ]


def test_semantic_of_many_classes_has_16_bits(export):
    more = [{"id": 1000 + n, "name": str(n), "isthing": True, "color": [0] * 3} for n in range(253)]
    for extra, void in ((more[:252], 255), (more, 65535)):
        write_formats(replace(export, categories=[*CATEGORIES, *extra]), ["semantic"])
        with Image.open(export.root / "semantic" / "b.png") as picture:
            values = np.array(picture)
        assert values.max() == void and set(np.unique(values)) == {1, 2, void}
        assert read(export.root / "semantic.json")["void"] == void


def test_coco_instances_are_the_things(export):
    write_formats(export, ["coco"])
    document = read(export.root / "instances.json")
    assert [i["id"] for i in document["images"]] == ["first", "second", "third"]
    assert [c["id"] for c in document["categories"]] == [70, 2]
    assert [a["id"] for a in document["annotations"]] == [1, 2]
    first = document["annotations"][0]
    rle = first.pop("segmentation")
    assert first == {
        "id": 1,
        "image_id": "first",
        "category_id": 2,
        "area": 9,
        "bbox": [0, 1, 3, 5],
        "iscrowd": 0,
        "score": 0.5,
    }
    assert np.array_equal(coco_mask.decode(rle), IDS == 5)
    assert coco_mask.area(rle) == 9 and coco_mask.toBbox(rle).tolist() == [0, 1, 3, 5]


def test_yolo(export):
    write_formats(export, ["yolo"])
    root = export.root / "yolo"
    content = yaml.safe_load((root / "data.yaml").read_text())
    assert content == {"train": "images", "val": "images", "names": {0: "Zelle", 1: "dog"}}
    line = (root / "labels" / "in" / "a.txt").read_text().split()
    assert line[0] == "1"
    polygon = np.array(line[1:], float).reshape(-1, 2)
    assert polygon.min() >= 0 and polygon.max() <= 1
    corners = polygon * [8, 6]
    assert np.abs(corners - corners.round()).max() < 1e-4
    # One polygon for two parts and a hole.
    x, y = corners.T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2) == pytest.approx(9)
    with Image.open(root / "images" / "in" / "a.png") as picture:
        assert picture.size == (8, 6)
    assert (root / "images" / "b.jpg").exists()
    # Nothing is known of an image without points; an empty file would say "no things".
    assert sorted(p.name for p in (root / "labels").rglob("*.txt")) == ["a.txt", "b.txt"]
    assert not (root / "images" / "c.png").exists()


def test_yolo_trainers_find_the_labels_of_images_in_any_folder(tmp_path):
    """They put ``labels`` in place of the last folder ``images`` of a path."""
    names = ["images/a.png", "site/images/b.png", "site/images_/b.png", "images.png"]
    images = [_image(tmp_path, n, name) for n, name in enumerate(names)]
    write_formats(Export(tmp_path / "export", CATEGORIES, images, {}), ["yolo"])
    root = tmp_path / "export" / "yolo"
    pictures = [str(p) for p in (root / "images").rglob("*.png")]
    sought = ["/labels/".join(p.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt" for p in pictures]
    assert len(pictures) == 4
    assert sorted(sought) == sorted(str(p) for p in (root / "labels").rglob("*.txt"))


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_file_names_that_are_no_utf8_stay_what_they_are(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    images = [_image(tmp_path, name, name)]
    write_formats(Export(tmp_path / "export", CATEGORIES, images, {}), FORMATS)
    for path in ("panoptic.json", "instances.json"):
        assert read(tmp_path / "export" / path)["images"][0]["file_name"] == name
    assert os.path.exists(tmp_path / "export" / "yolo" / "images" / name)


def test_links_that_cannot_be_made_are_copies(export, monkeypatch):
    def fail(*_):
        raise OSError("not permitted")

    monkeypatch.setattr("os.symlink", fail)
    monkeypatch.setattr("os.link", fail)
    write_formats(export, ["yolo", "detectron2"])
    for path in ("yolo/images/b.jpg", "detectron2/images/b.jpg", "detectron2/panoptic/b.png"):
        assert (export.root / path).is_file() and not (export.root / path).is_symlink()


def test_detectron2(export):
    write_formats(export, ["detectron2"])
    root = export.root / "detectron2"
    document = read(root / "panoptic.json")
    assert [i["id"] for i in document["images"]] == [1, 2, 3]
    assert [i["file_name"] for i in document["images"]] == ["in_a.jpg", "b.jpg", "c.jpg"]
    assert [a["file_name"] for a in document["annotations"]] == ["in_a.png", "b.png", "c.png"]
    for entry in document["images"]:
        assert (root / "images" / entry["file_name"]).is_file()
    with Image.open(root / "stuff" / "in_a.png") as picture:
        assert np.array_equal(np.array(picture), np.select([IDS == 300, IDS == 5], [1, 0], 255))
    instances = read(root / "instances.json")
    assert [a["image_id"] for a in instances["annotations"]] == [1, 2]
    assert [i["file_name"] for i in instances["images"]] == ["in_a.jpg", "b.jpg", "c.jpg"]


def test_detectron2_keeps_ids_that_are_integers_and_tells_names_apart(tmp_path):
    images = [
        _image(tmp_path, 900, "a/b.png"),
        _image(tmp_path, 7, "a_b.png"),
    ]
    write_formats(Export(tmp_path / "export", CATEGORIES, images, {}), ["detectron2"])
    document = read(tmp_path / "export" / "detectron2" / "panoptic.json")
    assert [i["id"] for i in document["images"]] == [900, 7]
    assert [i["file_name"] for i in document["images"]] == ["a_b.jpg", "a_b-2.jpg"]


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_forms_of_things_are_refused_where_nothing_is_a_thing(export, name):
    stuff = [{**c, "isthing": False} for c in export.categories]
    with pytest.raises(ValueError, match=rf"'{name}' holds things only.*--formats"):
        write_formats(replace(export, categories=stuff), ["semantic", name])
    assert not (export.root / "semantic").exists(), "found out before anything is written"


def test_too_many_kinds_of_stuff_for_detectron2(export):
    stuff = [{"id": n, "name": str(n), "isthing": False, "color": [0] * 3} for n in range(255)]
    with pytest.raises(ValueError, match=r"255 stuff classes; .* at most 254"):
        write_formats(replace(export, categories=stuff), ["detectron2"])
    assert not (export.root / "panoptic.json").exists()


def test_the_panoptic_json_comes_last(export, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setitem(FORMATS, "coco", replace(FORMATS["coco"], write=fail))
    with pytest.raises(OSError, match="disk full"):
        write_formats(export, ["panoptic", "coco"])
    assert not (export.root / "panoptic.json").exists()


def test_all_forms_can_be_written_again(export):
    write_formats(export, FORMATS)
    before = {p: p.read_bytes() for p in export.root.rglob("*") if p.is_file()}
    write_formats(export, FORMATS)
    assert {p: p.read_bytes() for p in export.root.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["a.jpg", "b/a.jpg"], ["a.png", "b/a.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["A.jpg", "a.jpeg"], ["A.jpg.png", "a.jpeg.png"]),
        (["a.jpg", "A.jpg"], ["a.jpg.png", "A.jpg-2.png"]),
        (["/etc/x.jpg", "../../y.jpg"], ["etc/x.png", "y.png"]),
        ([r"C:\pictures\z.v2.tif"], ["C_/pictures/z.v2.png"]),
        (["no_ending"], ["no_ending.png"]),
    ],
)
def test_names_of_pngs(names, want):
    assert png_names(names) == want


def test_a_format_of_ones_own(export, monkeypatch):
    monkeypatch.setattr("fdd.export_formats.formats.FORMATS", dict(FORMATS))

    @register_export_format("count", last_file="count.txt", max_stuff=1)
    def write_count(export, images):
        (export.root / "count.txt").write_text(str(len(list(images))))
        return "count.txt"

    assert export_format_names()[-1] == "count" and get_export_format("count").write is write_count
    assert write_formats(export, ["count"])[1:] == ["count.txt"]
    assert (export.root / "count.txt").read_text() == "3"
    assert written_formats(export.root) == ["count"]
    with pytest.raises(ValueError, match="'count' is registered already"):
        register_export_format("count", last_file="x")(write_count)
    with pytest.raises(ValueError, match=r"'other' is unknown.*panoptic.*count"):
        get_export_format("other")

"""Registration, metadata and loaders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fdd.data import (
    FDDDatasetMapper,
    contiguous_categories,
    filter_training_dicts,
    get_metadata,
    register_panoptic,
    register_points,
)
from fdd.data.builtin import builtin_roots, register_builtin
from fdd.data.catalog import prepare_hint
from fdd.data.shapes import generate_shapes
from fdd.points import Category, PointLabelError


@pytest.fixture
def points_name(folder, register):
    return register(register_points, "test_points", folder.images, folder.points_json)


@pytest.fixture
def masks_name(folder, register):
    paths = folder.images, folder.panoptic_json, folder.pngs
    return register(register_panoptic, "test_masks", *paths)


def test_things_come_first_and_keep_their_order():
    given = [Category(5, "a", False), Category(9, "b", True), Category(2, "c", True)]
    assert [c.id for c in contiguous_categories(given)] == [9, 2, 5]
    assert [c.id for c in contiguous_categories(given[:1])] == [5]
    with pytest.raises(ValueError, match=r"\[9\] occur more than once"):
        contiguous_categories([given[1], Category(9, "d", False)])
    with pytest.raises(ValueError, match="without categories"):
        contiguous_categories([])


@pytest.mark.parametrize("kind", ["points_name", "masks_name"])
def test_metadata(kind, request):
    metadata = get_metadata(request.getfixturevalue(kind))
    assert [c["name"] for c in metadata.categories] == ["cat", "dog", "sky", "grass"]
    assert [c["isthing"] for c in metadata.categories] == [True, True, False, False]
    assert all(type(c["isthing"]) is bool for c in metadata.categories)
    assert metadata.thing_classes == metadata.stuff_classes == ["cat", "dog", "sky", "grass"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 1: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {7: 2, 9: 3}
    assert (metadata.num_things, metadata.num_stuff, metadata.ignore_label) == (2, 2, -1)
    assert metadata.evaluator_type == "fdd_panoptic"
    colors = [tuple(c) for c in metadata.thing_colors]
    assert len(set(colors)) == 4 and colors == [tuple(c) for c in metadata.stuff_colors]
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_colors_of_the_file_are_kept(masks_name):
    assert get_metadata(masks_name).thing_colors[0] == [1, 2, 3]


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ("#2f4c9b", [47, 76, 155]),
        ([], None),
        ([1, 2, 3, 255], None),
        ([300, 0, 0], None),
        ("x", None),
    ],
)
def test_colors_of_other_tools_are_read_or_passed_over(folder, masks_name, color, expected):
    """Only pictures depend on them."""
    content = json.loads(folder.panoptic_json.read_text())
    named = {c["name"]: c for c in content["categories"]}
    named["cat"]["color"] = color
    folder.panoptic_json.write_text(json.dumps(content))
    found = get_metadata(masks_name).thing_colors[0]
    assert found == expected if expected else (len(found) == 3 and found != [1, 2, 3])


def test_point_dicts_hold_points_and_nothing_else(folder, points_name):
    dicts = DatasetCatalog.get(points_name)
    assert [d["image_id"] for d in dicts] == ["2007_000032", 12]
    first = dicts[0]
    assert set(first) == {"file_name", "height", "width", "image_id", "points"}
    assert first["file_name"] == str(folder.images / "2007_000032.png")
    assert (first["height"], first["width"]) == (40, 60)
    cat = {"instance_id": 3001, "category_id": 0, "isthing": True, "coords": folder.coords[3001]}
    assert cat in first["points"]
    expected = [(7001, 2), (9001, 3), (3001, 0), (70000, 1)]
    assert [(p["instance_id"], p["category_id"]) for p in first["points"]] == expected


def test_a_point_set_never_needs_its_masks(folder, register):
    paths = folder.images, folder.points_json, folder.panoptic_json, folder.pngs
    name = register(register_points, "test_both", *paths)
    before = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).panoptic_root == str(folder.pngs)
    folder.panoptic_json.unlink()
    assert DatasetCatalog.get(name) == before


def test_masks_of_other_classes_than_the_points_are_refused(folder, register):
    content = folder.panoptic_content()
    content["categories"] = [{**c} for c in content["categories"]]
    content["categories"][1]["name"] = "lion"
    folder.write_panoptic(content)
    paths = folder.images, folder.points_json, folder.panoptic_json, folder.pngs
    name = register(register_points, "test_both", *paths)
    with pytest.raises(ValueError, match="lion"):
        DatasetCatalog.get(name)


def test_masks_written_again_with_other_classes_name_image_and_segment(folder, register):
    name = register(
        register_panoptic, "test_masks", folder.images, folder.panoptic_json, folder.pngs
    )
    DatasetCatalog.get(name)
    content = folder.panoptic_content()
    content["categories"] = [*content["categories"], {"id": 99, "name": "new", "isthing": 1}]
    content["annotations"][0]["segments_info"][0]["category_id"] = 99
    folder.write_panoptic(content)
    with pytest.raises(ValueError, match=r"\.json: image .*, segment .*category_id 99"):
        DatasetCatalog.get(name)


def test_annotations_are_joined_by_id_and_crowd_may_be_missing(folder, register):
    content = folder.panoptic_content()
    by_id = {a["image_id"]: a for a in content["annotations"]}
    by_id[12]["segments_info"] = [{"id": 7001, "category_id": 7, "iscrowd": 1}]
    folder.write_panoptic(content)
    paths = folder.images, folder.panoptic_json, folder.pngs
    dicts = DatasetCatalog.get(register(register_panoptic, "test_masks", *paths))
    assert [d["image_id"] for d in dicts] == ["2007_000032", 12]
    assert [s["iscrowd"] for s in dicts[0]["segments_info"]] == [False] * 4
    assert dicts[1]["segments_info"] == [
        {"id": 7001, "category_id": 2, "isthing": False, "iscrowd": True}
    ]
    assert dicts[1]["pan_seg_file_name"] == str(folder.pngs / "12.png")


def duplicate_annotation(content):
    content["annotations"].append(content["annotations"][0])


def duplicate_image(content):
    content["images"].append(content["images"][0])


def remove_annotation(content):
    content["annotations"].pop()


def unknown_category(content):
    content["annotations"][0]["segments_info"][0]["category_id"] = 55


def duplicate_segment(content):
    content["annotations"][0]["segments_info"].append({"id": 7001, "category_id": 7})


def zero_segment(content):
    content["annotations"][0]["segments_info"][0]["id"] = 0


def duplicate_category(content):
    content["categories"] = [*content["categories"], content["categories"][0]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (duplicate_annotation, r"panoptic\.json.*image 12 is annotated twice"),
        (duplicate_image, r"panoptic\.json.*2007_000032"),
        (remove_annotation, r"2007_000032.*no annotation"),
        (unknown_category, r"panoptic\.json: image 12, segment 7001: category_id 55"),
        (duplicate_segment, r"panoptic\.json: image 12, segment 7001: the id is listed twice"),
        (zero_segment, r"image 12, segment 0: the id is not an integer from 1"),
        (duplicate_category, r"\[7\] occur more than once"),
    ],
)
def test_unsound_masks(folder, register, spoil, message):
    content = folder.panoptic_content()
    spoil(content)
    folder.write_panoptic(content)
    paths = folder.images, folder.panoptic_json, folder.pngs
    name = register(register_panoptic, "test_masks", *paths)
    with pytest.raises(ValueError, match=message):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"categories": []}', '{"categories": [1]}'])
@pytest.mark.parametrize("kind", ["points", "masks"])
def test_files_without_categories(folder, text, kind, request):
    (folder.points_json if kind == "points" else folder.panoptic_json).write_text(text)
    name = request.getfixturevalue(f"{kind}_name")
    with pytest.raises(PointLabelError, match="categories"):
        get_metadata(name)


def test_categories_are_found_wherever_they_stand(folder, points_name):
    content = folder.points_content()
    content["info"] = {"text": 'of "categories": [1, 2', "categories": [{"id": 4}]}
    folder.points_json.write_text(json.dumps(content, indent=3))
    assert get_metadata(points_name).thing_classes == ["cat", "dog", "sky", "grass"]


def test_only_things_and_only_stuff(folder, register):
    for isthing, names in ((1, ["cat", "dog"]), (0, ["sky", "grass"])):
        content = folder.points_content()
        content["categories"] = [c for c in content["categories"] if c["isthing"] == isthing]
        kept = {c["id"] for c in content["categories"]}
        for image in content["images"]:
            image["segments"] = [s for s in image["segments"] if s["category_id"] in kept]
        folder.write_points(content)
        name = f"test_kind_{isthing}"
        register(register_points, name, folder.images, folder.points_json)
        metadata = get_metadata(name)
        assert metadata.thing_classes == names
        assert (metadata.num_things, metadata.num_stuff) == ((2, 0) if isthing else (0, 2))
        ids = [p["category_id"] for p in DatasetCatalog.get(name)[0]["points"]]
        assert sorted(ids) == [0, 1]


def test_an_image_with_another_extension_is_found(folder, points_name):
    (folder.images / "12.png").rename(folder.images / "12.JPG")
    assert DatasetCatalog.get(points_name)[1]["file_name"] == str(folder.images / "12.JPG")
    # A text file of the same stem is no image.
    (folder.images / "12.JPG").rename(folder.images / "12.txt")
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 files that .*points\.json lists .*\n.*image 12: .*12\.png"
    ):
        DatasetCatalog.get(points_name)


def test_missing_files_name_the_set_the_file_and_the_way_out(folder, register, masks_name):
    name = "test_hint"
    register(register_points, name, folder.images, folder.images / "none.json", hint="Run me.")
    for get in (get_metadata, DatasetCatalog.get):
        with pytest.raises(FileNotFoundError, match=r"test_hint.*none\.json.*Run me\."):
            get(name)
    (folder.pngs / "12.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image 12: .*masks.12\.png"):
        DatasetCatalog.get(masks_name)


@pytest.mark.parametrize(
    ("missing", "said"),
    [("image_root", "Images"), ("panoptic_root", "PNGs"), ("panoptic_json", "JSON")],
)
def test_what_is_missing_has_its_own_hint(folder, register, missing, said):
    """Who has no images must not be told how points are made."""
    hint = {"image_root": "Images.", "panoptic_root": "PNGs.", "panoptic_json": "JSON."}
    paths = {
        "image_root": folder.images,
        "panoptic_json": folder.panoptic_json,
        "panoptic_root": folder.pngs,
    }
    paths[missing] = folder.images.parent / "gone"
    register(register_panoptic, "test_hints", *paths.values(), hint=hint)
    with pytest.raises(FileNotFoundError, match=rf"(?s)gone.*\b{said}\.$") as error:
        DatasetCatalog.get("test_hints")
    assert sum(text in str(error.value) for text in hint.values()) == 1


@pytest.mark.parametrize("name", ["fdd_coco_2017_val_p10", "fdd_voc_2012_val_p10"])
def test_missing_downloads_are_not_blamed_on_a_script(tmp_path, name):
    """The folder is named, and the variable that says where it is."""
    try:
        register_builtin(tmp_path / "down", tmp_path / "made")
        metadata = MetadataCatalog.get(name)
        text = prepare_hint(name, "image_root")
        assert str(tmp_path / "down") in metadata.image_root and str(tmp_path / "down") in text
        assert "DETECTRON2_DATASETS" in text and ".py" not in text
        made = prepare_hint(name, "points_json")
        assert "datasets/" in made and ".py" in made and str(tmp_path / "made") in made
        assert "FDD_DATASETS" in made
    finally:
        register_builtin()


def test_names(folder, points_name):
    with pytest.raises(ValueError, match=r"test_points.*registered already"):
        register_points(points_name, folder.images, folder.points_json)
    with pytest.raises(KeyError, match=r"nonsense.*fdd_coco_2017_val_panoptic"):
        get_metadata("nonsense")


def test_a_set_registered_elsewhere(register):
    def other(name):
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(thing_classes=["x"])

    with pytest.raises(ValueError, match="neither categories nor a label file"):
        get_metadata(register(other, "test_other"))


def test_builtin_names_under_the_roots(tmp_path, monkeypatch):
    monkeypatch.delenv("FDD_DATASETS", raising=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "a"))
    assert builtin_roots() == (tmp_path / "a", tmp_path / "a")
    monkeypatch.setenv("FDD_DATASETS", str(tmp_path / "b"))
    assert builtin_roots() == (tmp_path / "a", tmp_path / "b")
    generate_shapes(tmp_path / "b", num_train=2, num_val=1, size=64)
    try:
        register_builtin()
        dicts = DatasetCatalog.get("fdd_shapes_train_p10")
        assert len(dicts) == 2 and all(len(s["coords"]) == 10 for s in dicts[0]["points"])
        assert len(DatasetCatalog.get("fdd_shapes_val_panoptic")) == 1
        metadata = get_metadata("fdd_shapes_train_p1")
        assert (metadata.num_things, metadata.num_stuff) == (5, 3)
        coco = MetadataCatalog.get("fdd_coco_2017_train_p10")
        assert coco.image_root == str(tmp_path / "a/coco/train2017")
        assert coco.points_json == str(tmp_path / "b/coco/annotations/points_train2017_p10.json")
        assert coco.panoptic_json == str(tmp_path / "a/coco/annotations/panoptic_train2017.json")
        voc = MetadataCatalog.get("fdd_voc_2012_train_aug_panoptic")
        assert voc.image_root == str(tmp_path / "a")
        assert voc.panoptic_root == str(tmp_path / "b/voc_panoptic/voc_panoptic_train_aug")
        with pytest.raises(FileNotFoundError, match=r"prepare_voc_panoptic\.py"):
            DatasetCatalog.get("fdd_voc_2012_val_p1")
    finally:
        monkeypatch.undo()
        register_builtin()


def test_importing_leaves_detectron2s_own_sets_alone():
    code = (
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "names = set(DatasetCatalog); before = {n: str(MetadataCatalog.get(n)) for n in names}\n"
        "import fdd.data\n"
        "assert all(str(MetadataCatalog.get(n)) == before[n] for n in names)\n"
        "new = set(DatasetCatalog) - names\n"
        "assert len(new) == 42 and all(n.startswith('fdd_') for n in new), new\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def record(name, *things, side=100, crowd=None):
    result = {"file_name": name, "height": 100, "width": side}
    if crowd is None:
        result["points"] = [{"isthing": t, "coords": [[1, 1]]} for t in things]
    else:
        result["segments_info"] = [{"isthing": t, "iscrowd": crowd} for t in things]
    return result


def test_filter_counts_and_names_what_it_leaves_out(caplog):
    empty = [record(f"empty{n}") for n in range(7)]
    stuff, thing, small = record("s", False), record("t", True, False), record("n", True, side=31)
    dicts = [*empty, stuff, thing, small]
    kept, report = filter_training_dicts(dicts, False, 32)
    assert kept == [stuff, thing]
    assert (report.total, report.kept) == (10, 2)
    assert report.dropped == {"no labelled segment": 7, "a side below 32 px": 1}
    assert "7 of 10" in caplog.text and "empty4" in caplog.text and "empty5" not in caplog.text
    kept, report = filter_training_dicts(dicts, True, 0)
    assert kept == [thing, small]
    assert report.dropped["no labelled thing"] == 1
    with pytest.raises(ValueError, match="none of the 7 training images is left"):
        filter_training_dicts(empty, False, 0)


def test_filter_takes_crowds_for_unlabelled():
    masks, crowd = record("m", True, crowd=False), record("c", True, crowd=True)
    assert filter_training_dicts([masks, crowd], True, 0)[0] == [masks]


def test_filter_says_nothing_when_it_keeps_everything(caplog):
    dicts = [record("t", True)]
    assert filter_training_dicts(dicts, True, 32)[0] == dicts
    assert caplog.text == ""


@pytest.mark.skipif(
    not (Path(os.environ.get("DETECTRON2_DATASETS", "none")) / "coco/panoptic_val2017").is_dir(),
    reason="COCO panoptic is not below DETECTRON2_DATASETS",
)
def test_coco():
    metadata = get_metadata("fdd_coco_2017_val_panoptic")
    assert (metadata.num_things, metadata.num_stuff) == (80, 53)
    assert metadata.thing_classes[0] == "person" and not metadata.categories[80]["isthing"]
    dicts = DatasetCatalog.get("fdd_coco_2017_val_panoptic")
    assert all(isinstance(d["image_id"], int) for d in dicts)
    assert any(s["iscrowd"] for d in dicts for s in d["segments_info"])
    mapper = FDDDatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", supervision="masks"
    )
    for record in dicts[:3]:
        example = mapper(record)
        listed = [s for s in record["segments_info"] if not s["iscrowd"]]
        assert 0 < len(example["classes"]) <= len(listed)
        assert example["instance_map"].max() + 1 == len(example["classes"])


def test_names_of_points_and_masks_may_be_of_other_unicode_forms(folder, points_name):
    points, masks = folder.points_content(), folder.panoptic_content()
    for content, name in ((points, "bl\u00e4sse"), (masks, "bla\u0308sse")):
        (entry,) = [c for c in content["categories"] if c["name"] == "cat"]
        entry["name"] = name
    folder.write_points(points)
    folder.write_panoptic(masks)
    assert get_metadata(points_name).thing_classes[0] == "bl\u00e4sse"

"""The choice of VOC's images and the conversion of one of them."""

from __future__ import annotations

import numpy as np
import pytest

import voc_toys as toys
from fdd.data.voc import (
    CLASSES,
    VocSource,
    compose_train_aug,
    convert_image,
    find_source,
    read_list,
    segment_map,
    voc_categories,
)
from fdd.points.coco_panoptic import load_segment_ids

BACKGROUND = 21


def by_category(segments):
    return {s["category_id"]: s for s in segments}


@pytest.fixture
def source(tmp_path):
    return find_source(toys.make_voc(tmp_path / "data é"))


def test_real_list_sizes_give_the_published_counts():
    # VOC trainval: 1,464 + 1,449 images; SBD: 8,498 + 2,857; together 12,031 different ones. That
    # leaves 2,913 + 11,355 - 12,031 = 2,237 images in both, spread over all four pairs of lists.
    names = [f"2009_{n:06d}" for n in range(12031)]
    voc_train, voc_val, rest = names[:1464], names[1464:2913], names[2913:]
    shared_train, shared_val = voc_train[:1112], voc_val[:1125]
    sbd = [*shared_train, *shared_val, *rest]
    assert len(sbd) == 8498 + 2857 and len(shared_train) + len(shared_val) == 2237
    order = np.random.default_rng(0).permutation(len(sbd))
    sbd_train = [sbd[i] for i in order[:8498]]
    sbd_val = [sbd[i] for i in order[8498:]]
    for first in (voc_train, voc_val):
        assert set(first) & set(sbd_train) and set(first) & set(sbd_val)

    result = compose_train_aug(voc_train, voc_val, sbd_train, sbd_val)

    assert len(result) == len(set(result)) == 10582
    assert not set(result) & set(voc_val) and len(set(voc_val)) == 1449
    assert set(voc_train) <= set(result)
    assert result == compose_train_aug(voc_train[::-1], voc_val, sbd_val, sbd_train)


def test_an_empty_sbd_list_is_legal(tmp_path):
    toys.write_list(tmp_path / "val.txt", [])
    assert read_list(tmp_path / "val.txt") == []
    assert compose_train_aug(["a"], ["b"], ["b", "c"], []) == ["a", "c"]


def test_categories_are_vocs_twenty_things_and_then_background():
    categories = voc_categories()
    assert [c["id"] for c in categories] == list(range(1, 22))
    assert [c["isthing"] for c in categories] == [1] * 20 + [0]
    assert [c["name"] for c in categories[:20]] == sorted(CLASSES)  # VOC's order is alphabetical
    assert (categories[14]["name"], categories[20]["name"]) == ("person", "background")


def test_segment_map_of_two_objects_void_and_background():
    objects, classes = toys.object_maps()
    ids, segments, lost = segment_map(objects, classes)
    assert lost == []
    assert (ids[(objects == 255)] == 0).all() and (ids == 0).sum() == (objects == 255).sum() == 24
    assert set(np.unique(ids)) - {0} == {s["id"] for s in segments} == {15001, 12001, 21001}
    found = by_category(segments)
    assert (ids[2:7, 2:7] == 15001).all() and (ids[8:11, 10:18] == 12001).all()
    assert found[15] == {
        "id": 15001,
        "category_id": 15,
        "area": 25,
        "bbox": [2, 2, 5, 5],
        "iscrowd": 0,
    }
    assert found[12]["bbox"] == [10, 8, 8, 3] and found[12]["area"] == 24
    assert found[BACKGROUND]["area"] == toys.HEIGHT * toys.WIDTH - 24 - 25 - 24
    assert found[BACKGROUND]["bbox"] == [0, 0, toys.WIDTH, toys.HEIGHT]


def test_objects_of_a_class_are_counted_from_one_and_never_merge():
    objects = np.repeat(np.array([[1, 2, 7, 0]], np.uint8), 2, axis=0)
    classes = np.repeat(np.array([[20, 20, 20, 0]], np.uint8), 2, axis=0)
    ids, segments, _ = segment_map(objects, classes)
    assert ids[0].tolist() == [20001, 20002, 20003, 21001]
    assert [s["area"] for s in segments] == [2, 2, 2, 2]


def test_an_image_without_background_has_no_background_segment():
    ids, segments, _ = segment_map(np.full((3, 4), 1, np.uint8), np.full((3, 4), 9, np.uint8))
    assert [s["category_id"] for s in segments] == [9] and (ids == 9001).all()


def test_class_is_that_of_most_pixels_where_void_and_background_do_not_vote():
    objects = np.ones((1, 10), np.uint8)
    classes = np.array([[255, 255, 0, 0, 0, 0, 5, 3, 3, 3]], np.uint8)
    ids, segments, _ = segment_map(objects, classes)
    assert [s["category_id"] for s in segments] == [3]
    # Void stays void; pixels of another class are still the object's.
    assert ids[0].tolist() == [0, 0] + [3001] * 8 and segments[0]["area"] == 8


def test_class_without_object_is_void_and_object_without_class_is_reported():
    objects = np.array([[0, 0, 4, 4, 255, 0]], np.uint8)
    classes = np.array([[6, 0, 0, 255, 6, 0]], np.uint8)
    ids, segments, lost = segment_map(objects, classes)
    assert lost == [4]
    assert ids[0].tolist() == [0, 21001, 0, 0, 0, 21001]
    assert [s["id"] for s in segments] == [21001]


def test_a_stated_category_goes_before_the_vote():
    objects, classes = np.array([[1, 1, 2]], np.uint8), np.array([[3, 3, 3]], np.uint8)
    ids, _, _ = segment_map(objects, classes, known=[8])
    assert ids[0].tolist() == [8001, 8001, 3001]


def test_unknown_classes_and_other_shapes_are_refused():
    ones = np.ones((2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"class 21 .* expected 0 to 20 or 255"):
        segment_map(ones, ones * 21)
    with pytest.raises(ValueError, match="object 1 has category 77"):
        segment_map(ones, ones, known=[77])
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        segment_map(ones, np.ones((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("from_sbd", "ids"), [(False, {0, 12001, 15001, 21001}), (True, {8001, 12001, 21001})]
)
def test_convert_image_reads_both_formats(source, tmp_path, from_sbd, ids):
    entry, lost = convert_image(source, "2007_000032", from_sbd, tmp_path / "out")
    image_id, file_name, size, png_name, segments = entry
    assert (image_id, file_name) == ("2007_000032", "VOC2012/JPEGImages/2007_000032.jpg")
    assert size == (toys.HEIGHT, toys.WIDTH) and png_name == "2007_000032.png"
    written = load_segment_ids(tmp_path / "out" / "2007_000032.png", toys.HEIGHT, toys.WIDTH)
    assert set(np.unique(written).tolist()) == ids and not lost
    for segment in segments:
        ys, xs = np.nonzero(written == segment["id"])
        x, y, w, h = segment["bbox"]
        assert segment["area"] == len(xs) and segment["iscrowd"] == 0
        assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_picture_is_sbds_only_where_voc_has_none(source, tmp_path):
    (_, file_name, *_), _ = convert_image(source, "2010_000003", True, tmp_path)
    assert file_name == "benchmark_RELEASE/dataset/img/2010_000003.jpg"
    (_, file_name, *_), _ = convert_image(source, "2010_000002", True, tmp_path)
    assert file_name == "VOC2012/JPEGImages/2010_000002.jpg"


def test_pictures_outside_the_root_keep_their_whole_path(source, tmp_path):
    elsewhere = VocSource(tmp_path / "other", source.voc, source.sbd)
    (_, file_name, *_), _ = convert_image(elsewhere, "2007_000032", False, tmp_path)
    expected = (source.voc / "JPEGImages" / "2007_000032.jpg").absolute().as_posix()
    assert file_name == expected


def test_both_places_of_voc_are_found_and_none_is_told_of(tmp_path):
    toys.make_voc(tmp_path / "a", "VOCdevkit/VOC2012")
    assert find_source(tmp_path / "a").voc == tmp_path / "a" / "VOCdevkit" / "VOC2012"
    with pytest.raises(FileNotFoundError) as error:
        find_source(tmp_path / "empty")
    for part in ("empty/VOC2012", "VOCdevkit/VOC2012", "VOCtrainval_11-May-2012.tar", "--voc"):
        assert part in str(error.value)
    (tmp_path / "b" / "VOC2012").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"SBD.*benchmark_RELEASE.*benchmark\.tgz.*--sbd"):
        find_source(tmp_path / "b")
    assert find_source(tmp_path / "b", need_sbd=False).sbd is None


@pytest.mark.parametrize(
    ("folder", "from_sbd", "hint"),
    [
        ("VOC2012/SegmentationObject/2007_000032.png", False, "VOCtrainval"),
        ("VOC2012/SegmentationClass/2007_000032.png", False, "VOCtrainval"),
        ("benchmark_RELEASE/dataset/inst/2007_000032.mat", True, "benchmark.tgz"),
        ("benchmark_RELEASE/dataset/cls/2007_000032.mat", True, "benchmark.tgz"),
    ],
)
def test_missing_annotations_are_named_with_their_origin(source, tmp_path, folder, from_sbd, hint):
    path = source.root / folder
    path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        convert_image(source, "2007_000032", from_sbd, tmp_path)
    assert str(path) in str(error.value) and hint in str(error.value)


def test_a_missing_picture_names_every_place_tried(source, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        convert_image(source, "1999_000001", True, tmp_path)
    text = str(error.value)
    assert "'1999_000001'" in text and "JPEGImages" in text and "img" in text


def test_damaged_annotations_are_named(source, tmp_path):
    inst = source.sbd / "inst" / "2010_000001.mat"
    inst.write_bytes(b"no matlab file at all")
    with pytest.raises(ValueError, match=r"2010_000001\.mat: not a readable SBD annotation"):
        convert_image(source, "2010_000001", True, tmp_path)
    classes = source.voc / "SegmentationClass" / "2007_000032.png"
    toys.save_picture(classes)
    with pytest.raises(ValueError, match=r"2007_000032\.png: a picture of mode RGB"):
        convert_image(source, "2007_000032", False, tmp_path)
    classes.write_bytes(b"\x89PNG cut short")
    with pytest.raises(ValueError, match=r"2007_000032\.png: not a readable picture"):
        convert_image(source, "2007_000032", False, tmp_path)


def test_an_annotation_of_another_size_is_refused(source, tmp_path):
    toys.save_picture(source.voc / "JPEGImages" / "2007_000032.jpg", 30, 40)
    with pytest.raises(ValueError, match=r"'2007_000032' \(VOC annotation\): 12 x 20 .* 30 x 40"):
        convert_image(source, "2007_000032", False, tmp_path)
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2007_000032\n2007_000032\n", "'2007_000032' is listed twice"),
        ("2007_000032  1\n", "not an image id"),
        ("/JPEGImages/2007_000032.jpg\n", "not an image id"),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"train\.txt: .*{message}"):
        read_list(tmp_path / "train.txt")


def test_lists_may_have_a_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf2007_000032\r\n\r\n2007_000039 \r\n")
    assert read_list(tmp_path / "train.txt") == ["2007_000032", "2007_000039"]
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such image list\. over there"):
        read_list(tmp_path / "none.txt", "over there")

"""Points from masks that come as pairs of semantic and instance pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdd.points import Category, PointLabelError, sample_panoptic
from fdd.points.mask_pairs import (
    find_mask_pairs,
    merge_pair,
    read_label_png,
    sample_mask_pairs,
)

CAT, DOG, SKY = Category(4, "cat", True), Category(7, "dog", True), Category(1, "sky", False)
CLASSES = [CAT, DOG, SKY]
#: Two cats, a dog with the first cat's number, a group of cats, sky in two parts, void.
SEMANTIC = np.array(
    [
        [1, 1, 4, 4, 255],
        [4, 4, 7, 7, 255],
        [1, 4, 4, 7, 0],
    ]
)
INSTANCE = np.array(
    [
        [9, 0, 5, 5, 5],
        [2, 2, 5, 5, 3],
        [9, 0, 0, 5, 3],
    ]
)


def merged(semantic=SEMANTIC, instance=INSTANCE, void=(255, 0)):
    return merge_pair(semantic, instance, CLASSES, void)


def test_segments_are_classes_of_stuff_and_instances_of_things() -> None:
    ids, segments = merged()
    # Cats 2 and 5, dog 5, sky, and the group of cats last.
    assert segments == [(1, 4, False), (2, 4, False), (3, 7, False), (4, 1, False), (5, 4, True)]
    assert ids.tolist() == [[4, 4, 2, 2, 0], [1, 1, 3, 3, 0], [4, 5, 5, 3, 0]]


def test_numbers_of_instances_mean_nothing_but_their_order() -> None:
    renumbered = np.where(INSTANCE == 5, 60000, np.where(INSTANCE == 2, 11, INSTANCE))
    assert merged(instance=renumbered)[1] == merged()[1]
    np.testing.assert_array_equal(merged(instance=renumbered)[0], merged()[0])


def test_flipping_commutes() -> None:
    ids, segments = merged(SEMANTIC[:, ::-1], INSTANCE[:, ::-1])
    np.testing.assert_array_equal(ids, merged()[0][:, ::-1])
    assert segments == merged()[1]


def test_all_void_and_stuff_alone() -> None:
    ids, segments = merged(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert not ids.any() and segments == []
    ids, segments = merge_pair(np.ones((2, 2), int), None, [SKY])
    assert ids.tolist() == [[1, 1], [1, 1]] and segments == [(1, 1, False)]


@pytest.mark.parametrize(
    ("semantic", "instance", "void", "message"),
    [
        (
            np.where(SEMANTIC == 7, 70, SEMANTIC),
            INSTANCE,
            (255, 0),
            r"value 70 \(first at x=2, y=1\)",
        ),
        (SEMANTIC, INSTANCE, (255,), r"value 0 \(first at x=4, y=2\)"),
        (SEMANTIC, INSTANCE, (255, 0, 7), "7 is a void value, too"),
        (SEMANTIC, INSTANCE[:, :4], (255, 0), r"5 x 3 px .* is 4 x 3 px"),
        (SEMANTIC, -INSTANCE, (255, 0), "negative instance ids"),
    ],
)
def test_unsound_pairs_are_refused(semantic, instance, void, message: str) -> None:
    with pytest.raises(PointLabelError, match=message):
        merged(semantic, instance, void)


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("L", np.array([[0, 255], [7, 3]], np.uint8)),
        ("I;16", np.array([[0, 40000], [7, 3]], np.uint16)),
        ("RGB", np.array([[[1, 2, 3], [0, 1, 0]]], np.uint8)),
        ("P", np.array([[0, 5], [7, 3]], np.uint8)),
    ],
)
def test_pictures_of_ids(tmp_path, mode: str, values: np.ndarray) -> None:
    picture = Image.fromarray(values) if mode != "P" else Image.fromarray(values).convert("L")
    if mode == "P":
        picture = Image.new("P", (2, 2))
        picture.putpalette([n for k in range(256) for n in (255 - k, k, 9)])
        picture.putdata(values.ravel().tolist())
    picture.save(tmp_path / "ids.png")
    expected = values.astype(int)
    if mode == "RGB":
        expected = (
            values[..., 0] + 256 * values[..., 1].astype(int) + 65536 * values[..., 2].astype(int)
        )
    np.testing.assert_array_equal(read_label_png(tmp_path / "ids.png"), expected)


def test_pictures_that_hold_no_ids(tmp_path) -> None:
    Image.new("LA", (2, 2)).save(tmp_path / "grey.png")
    with pytest.raises(PointLabelError, match="mode LA"):
        read_label_png(tmp_path / "grey.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "grey.png").read_bytes()[:30])
    for name in ("cut.png",):
        with pytest.raises(PointLabelError, match=r"cut\.png: not a readable picture"):
            read_label_png(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_label_png(tmp_path / "gone.png")


def write_pairs(root: Path, names=("a", "sub/b"), suffix=".jpg") -> tuple[Path, Path, Path]:
    folders = tuple(root / name for name in ("images", "semantic", "instance"))
    for n, name in enumerate(names):
        semantic, instance = np.roll(SEMANTIC, n, 1), np.roll(INSTANCE, n, 1)
        arrays = (
            (np.zeros((*SEMANTIC.shape, 3), np.uint8), suffix),
            (semantic.astype(np.uint8), ".png"),
            (instance.astype(np.uint16), ".png"),
        )
        for folder, (array, ending) in zip(folders, arrays, strict=True):
            path = folder / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folders


def test_pairs_are_found_by_name_also_in_one_folder(tmp_path) -> None:
    folders = write_pairs(tmp_path)
    (tmp_path / "images" / "unlabelled.jpg").write_bytes(b"")
    pairs, without = find_mask_pairs(*folders)
    assert [(p.image_id, p.file_name) for p in pairs] == [("a", "a.jpg"), ("sub/b", "sub/b.jpg")]
    assert without == 1
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(PointLabelError, match="rename one"):
        find_mask_pairs(*folders)


@pytest.mark.parametrize("gone", ["images/a.jpg", "instance/a.png"])
def test_what_belongs_to_a_mask_must_be_there(tmp_path, gone: str) -> None:
    folders = write_pairs(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png: no"):
        find_mask_pairs(*folders)


def draw(folders, tmp_path, **options):
    return sample_mask_pairs(*folders, CLASSES, 2, seed=3, void=(255, 0), **options)


def test_the_draw_is_that_of_the_panoptic_masks(tmp_path) -> None:
    """Masks written as COCO panoptic, and points drawn from these: the same points."""
    dataset = draw(write_pairs(tmp_path), tmp_path, write_panoptic=tmp_path / "masks")
    again = sample_panoptic(
        tmp_path / "masks/panoptic.json", tmp_path / "masks/panoptic", 2, seed=3
    )
    assert dataset.images == again.images and dataset.categories == again.categories
    assert dataset.info["skipped_crowd"] == again.info["skipped_crowd"] == 2
    content = json.loads((tmp_path / "masks/panoptic.json").read_text())
    for annotation in content["annotations"]:
        with Image.open(tmp_path / "masks/panoptic" / annotation["file_name"]) as picture:
            ids = np.array(picture)[..., 0]
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            x, y, width, height = segment["bbox"]
            assert segment["area"] == len(rows)
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["images", "instance", "masks", "semantic"], "nothing else is left"


def test_points_lie_on_their_segments(tmp_path) -> None:
    dataset = draw(write_pairs(tmp_path), tmp_path)
    for n, image in enumerate(dataset.images):
        semantic = np.roll(SEMANTIC, n, 1)
        assert image.segments
        for segment in image.segments:
            for x, y in segment.points:
                assert semantic[int(y), int(x)] == segment.category_id


def test_things_need_instances(tmp_path) -> None:
    images, semantic, _ = write_pairs(tmp_path)
    with pytest.raises(PointLabelError, match="'cat' is a thing"):
        draw((images, semantic, None), tmp_path)


def test_a_failure_leaves_no_masks(tmp_path) -> None:
    folders = write_pairs(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "semantic" / "sub" / "b.png")
    with pytest.raises(PointLabelError, match=r"9 x 9 px .*b\.jpg is 5 x 3 px"):
        draw(folders, tmp_path, write_panoptic=tmp_path / "masks")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "instance", "semantic"]


def test_masks_of_somebody_are_not_replaced(tmp_path) -> None:
    folders = write_pairs(tmp_path)
    with pytest.raises(FileExistsError, match="not a new or empty folder"):
        draw(folders, tmp_path, write_panoptic=tmp_path / "images")

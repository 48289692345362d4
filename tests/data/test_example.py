"""The drawn folder: what it holds, and that its labels are the masks' own."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image

from fdd.cli.main import main
from fdd.data.example import draw_example
from fdd.points import read_points
from fdd.points.coco_panoptic import load_segment_ids, read_panoptic_json
from fdd.points.dataset_file import read_dataset_file

ALL = (
    *("dataset.yaml", "images", "labelme", "panoptic_val", "panoptic_val.json"),
    *("true_masks", "true_masks.json", "val_images", "with_true_masks.yaml"),
)


def test_a_folder_as_an_annotator_leaves_it(tmp_path) -> None:
    folder = draw_example(tmp_path / "cells", num_images=3, num_val=2, points=4)
    assert sorted(p.name for p in folder.iterdir()) == [
        *ALL,
    ]
    files = sorted((folder / "labelme").glob("*.json"))
    assert len(files) == len(list((folder / "images").iterdir())) == 3
    assert len(list((folder / "val_images").iterdir())) == 2
    for file in files:
        record = json.loads(file.read_text())
        with Image.open(file.parent / record["imagePath"]) as image:
            assert image.size == (record["imageWidth"], record["imageHeight"])
        groups: dict[int, set[str]] = {}
        for shape in record["shapes"]:
            assert shape["shape_type"] == "point"
            ((x, y),) = shape["points"]
            assert 0 <= x <= record["imageWidth"] and 0 <= y <= record["imageHeight"]
            groups.setdefault(shape["group_id"], set()).add(shape["label"])
        assert groups and all(len(labels) == 1 for labels in groups.values())
        assert len(record["shapes"]) <= 4 * len(groups)
    categories, images = read_panoptic_json(folder / "panoptic_val.json")
    assert len(images) == 2 and {c.isthing for c in categories} == {True, False}


def test_masks_of_the_labelled_images_are_beside_them_and_the_audit_passes(tmp_path, capsys):
    folder = draw_example(tmp_path / "cells", num_images=3, num_val=2, points=4)
    data = folder / "with_true_masks.yaml"
    words = [str(folder / "labelme"), "--images", str(folder / "images"), "--classes", str(data)]
    assert main(["points", "import", *words, "--output", str(folder / "points.json")]) == 0
    file = read_dataset_file(data)
    assert file.masks is not None and file.validation is not None
    classes, images = read_panoptic_json(file.masks.json)
    points = read_points(file.points)
    assert [i.image_id for i in images] == [i.image_id for i in points.images]
    names = {c.id: c.name for c in classes}
    for image, labelled in zip(images, points.images, strict=True):
        ids = load_segment_ids(file.masks.folder / image.png_name)
        kinds = {n: names[c] for n, c in zip(image.segment_ids, image.category_ids, strict=True)}
        for segment in labelled.segments:
            found = {int(ids[int(y), int(x)]) for x, y in segment.points}
            name = next(c.name for c in points.categories if c.id == segment.category_id)
            assert {kinds[n] for n in found} == {name} and len(found) == 1
    capsys.readouterr()
    assert main(["points", "check", str(data), "--ignore", "W"]) == 0
    said = capsys.readouterr().out
    assert "audit" in said and "not run" not in said


def test_the_same_seed_draws_the_same(tmp_path) -> None:
    first, second, third = (
        draw_example(tmp_path / name, 1, 0, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    (name,) = (p.name for p in (first / "labelme").iterdir())
    texts = [(folder / "labelme" / name).read_text() for folder in (first, second, third)]
    assert texts[0] == texts[1] != texts[2]


def test_somebodys_folder_is_left_alone(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(FileExistsError, match="not a new or empty folder"):
        draw_example(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("where", [".", "empty", "link", "new/folder"])
def test_an_empty_folder_is_filled_as_it_is(tmp_path, monkeypatch, where: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / ("work" if where == "." else ""))
    folder = draw_example(where, 1, 1)
    assert sorted(p.name for p in folder.iterdir()) == [
        *ALL,
    ]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_left_of_a_cut_drawing(tmp_path, monkeypatch, there: bool) -> None:
    folder = tmp_path / "cells"
    if there:
        folder.mkdir()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fdd.data.example._write_validation", fail)
    with pytest.raises(KeyboardInterrupt):
        draw_example(folder, 1, 1)
    assert [p.name for p in tmp_path.rglob("*")] == ["cells"] * there


@contextmanager
def files_limited_to(largest: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, which is an error as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("largest", [0, 1500, 5000])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_is_said_of_the_folder(tmp_path, capsys, largest, there) -> None:
    folder = tmp_path / "cells"
    if there:
        folder.mkdir()
    with files_limited_to(largest):
        status = main(["example", str(folder), "--images", "1"])
    assert status == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fdd example: error: {folder}: File too large")
    assert "make room" in said and said.count("\n") == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["cells"] * there


@pytest.mark.parametrize("arguments", [{"num_images": 0}, {"points": 0}, {"seed": -1}])
def test_nothing_is_left_of_a_failure(tmp_path, arguments) -> None:
    with pytest.raises(ValueError):
        draw_example(tmp_path / "cells", **{**arguments})
    assert list(tmp_path.iterdir()) == []

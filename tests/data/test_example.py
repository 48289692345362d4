"""The drawn folder: what it holds, and that its labels are the masks' own."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from fdd.data.example import draw_example
from fdd.points.panoptic import read_panoptic_json


def test_a_folder_as_an_annotator_leaves_it(tmp_path) -> None:
    folder = draw_example(tmp_path / "cells", num_images=3, num_val=2, points=4)
    assert sorted(p.name for p in folder.iterdir()) == [
        *("images", "labelme", "panoptic_val", "panoptic_val.json", "val_images"),
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
        *("images", "labelme", "panoptic_val", "panoptic_val.json", "val_images"),
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


@pytest.mark.parametrize("arguments", [{"num_images": 0}, {"points": 0}, {"seed": -1}])
def test_nothing_is_left_of_a_failure(tmp_path, arguments) -> None:
    with pytest.raises(ValueError):
        draw_example(tmp_path / "cells", **{**arguments})
    assert list(tmp_path.iterdir()) == []

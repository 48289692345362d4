"""What is opened for annotation: a data set file, or a folder of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from annotate_toys import begin
from fdd.annotate.start import begin_dataset, open_dataset
from fdd.points import PointLabelError, read_points
from fdd.points.classes import ClassFileError
from fdd.points.dataset_file import read_dataset_file


def draw(folder, *names, size=(30, 20), mode="RGB"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(folder / name)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "my imagés"
    draw(folder, "b.png", "a/é <b>.jpg", "a/x.png", "a/x.jpg")
    return folder


def click(store, index, **place):
    action = {"kind": "add", "x": 1.5, "y": 2.5, "category_id": 1, **place}
    return store.edit(index, store.state(index).revision, action)


def test_a_folder_of_images_becomes_a_data_set(images):
    file = begin_dataset(images, ["car", "yes"], ["sky: blue"])
    assert file == images.with_name("my imagés_points") / "dataset.yaml"
    dataset = read_dataset_file(file)
    assert dataset.images == images and dataset.points == file.with_name("points.json")
    opened = open_dataset(file)
    kinds = [(c.id, c.name, c.isthing) for c in opened.store.categories]
    assert kinds == [(1, "car", True), (2, "yes", True), (3, "sky: blue", False)]
    found = [(i.image_id, i.file_name, i.width, i.height) for i in opened.store.images]
    assert found == [
        ("a/x.jpg", "a/x.jpg", 30, 20),
        ("a/x.png", "a/x.png", 30, 20),
        ("a/é <b>", "a/é <b>.jpg", 30, 20),
        ("b", "b.png", 30, 20),
    ]
    assert [p.is_file() for p in opened.paths] == [True] * 4 and not opened.notes
    assert all(opened.problem(n) is None for n in range(4))
    click(opened.store, 2)
    opened.store.close()
    assert [i.image_id for i in read_points(dataset.points).images] == ["a/é <b>"]
    # The same command goes on; what has points comes first now.
    assert begin_dataset(f"{images}/", ["car", "yes"], ["sky: blue"]) == file
    again = open_dataset(file)
    assert [i.file_name for i in again.store.images] == [
        *("a/é <b>.jpg", "a/x.jpg", "a/x.png", "b.png")
    ]
    assert [p.name for p in again.paths] == ["é <b>.jpg", "x.jpg", "x.png", "b.png"]
    assert len(again.store.state(0).segments) == 1
    again.store.close()


def test_both_folders_can_be_moved_together(images, tmp_path):
    file = begin_dataset(images, ["car"], output=tmp_path / "labels" / "first")
    (tmp_path / "new").mkdir()
    images.rename(tmp_path / "new" / images.name)
    (tmp_path / "labels").rename(tmp_path / "new" / "labels")
    opened = open_dataset(tmp_path / "new" / file.relative_to(tmp_path))
    assert len(opened.store.images) == 4
    opened.store.close()


def test_what_is_there_is_not_replaced(images, tmp_path):
    file = begin_dataset(images, ["car"], ["sky"])
    before = file.read_bytes()
    draw(tmp_path / "others", "a.png")
    for folder, things, stuff, says in [
        (images, ["car"], [], "other classes: only it has 'sky'"),
        (images, ["sky"], ["car"], "other classes"),
        (tmp_path / "others", ["car"], ["sky"], "of the images in"),
    ]:
        with pytest.raises(FileExistsError, match=rf"{says}(?s:.*)fdd annotate .*--output"):
            begin_dataset(folder, things, stuff, file.parent)
    assert begin_dataset(images, [" car"], ["sky"], file.parent) == file
    assert file.read_bytes() == before
    file.unlink()
    with pytest.raises(FileExistsError, match=r"points\.json is there"):
        begin_dataset(images, ["car"], ["sky"])


def test_what_cannot_be_begun_writes_nothing(images, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for folder, things, stuff, error, says in [
        (tmp_path / "gone", ["car"], [], FileNotFoundError, "no such folder"),
        (tmp_path / "notes.txt", ["car"], [], FileNotFoundError, "a file; expected a folder"),
        (tmp_path / "empty", ["car"], [], FileNotFoundError, "no image"),
        (images, [], [], ClassFileError, "--classes car"),
        (images, ["car"], ["car"], ClassFileError, "'car' stands for two"),
        (images, ["car", " "], [], ClassFileError, "the name is ' '"),
    ]:
        with pytest.raises(error, match=says):
            begin_dataset(folder, things, stuff)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="no permission to write"):
        begin_dataset(images, ["car"])
    assert sorted(os.listdir(tmp_path)) == ["empty", images.name, "notes.txt"]


def write_points(path, *entries, categories=({"id": 1, "name": "car", "isthing": True},)):
    images = [
        {"id": n, "file_name": name, "height": 20, "width": 30, "segments": []}
        for n, name in enumerate(entries)
    ]
    head = {"format": "fdd-points", "version": 1, "categories": list(categories)}
    path.write_text(json.dumps({**head, "images": images}))


def test_images_of_the_points_file_come_first(images, tmp_path):
    write_points(tmp_path / "p.json", "b.jpg", "gone.jpg", "a/x.png")
    file = tmp_path / "set.yaml"
    file.write_text(f"images: {images.name}\npoints: p.json\n", encoding="utf-8")
    (images / "a" / "broken.png").write_bytes(b"\x89PNG nothing")
    draw(images, "deep.png", mode="I;16")
    (images / ".hidden").mkdir()
    draw(images, ".hidden/thumb.png")
    opened = open_dataset(file)
    assert [i.image_id for i in opened.store.images] == [0, 1, 2, "a/x", "a/é <b>", "deep"]
    assert [p.name for p in opened.paths] == [
        *("b.png", "gone.jpg", "x.png", "x.jpg", "é <b>.jpg", "deep.png")
    ]
    text = "\n".join(opened.notes)
    assert "1 of 3 images" in text and "gone.jpg" in text and "broken.png" in text
    assert "more than 8 bits" in text and len(opened.notes) == 3
    assert "no such image file" in (opened.problem(1) or "")
    draw(images, "b.png", size=(20, 30))
    assert "20 x 30 pixels" in (opened.problem(0) or "") and opened.problem(2) is None
    opened.store.close()


def test_images_of_the_validation_are_left_out(images, tmp_path):
    draw(images, "masks/b.png", "val/c.png")
    write_points(tmp_path / "p.json")
    (tmp_path / "val.json").write_text(json.dumps({"images": [{"file_name": "a/x.png"}]}))
    text = (
        f"images: {images.name}\npoints: p.json\nvalidation:\n"
        f"  masks: {{json: val.json, folder: '{images.name}/masks'}}\n"
    )
    file = tmp_path / "set.yaml"
    file.write_text(text, encoding="utf-8")
    names = [i.file_name for i in opened_and_closed(file).store.images]
    assert names == ["a/x.jpg", "a/é <b>.jpg", "b.png", "val/c.png"]
    (tmp_path / "val.json").unlink()
    opened = opened_and_closed(file)
    assert len(opened.store.images) == 5 and "unlabelled" in opened.notes[0]
    (tmp_path / "val.json").write_text(json.dumps({"images": [{"file_name": "c.png"}]}))
    file.write_text(text + f"  images: {images.name}/val\n", encoding="utf-8")
    names = [i.file_name for i in opened_and_closed(file).store.images]
    assert names == ["a/x.jpg", "a/x.png", "a/é <b>.jpg", "b.png"]


def opened_and_closed(file):
    opened = open_dataset(file)
    opened.store.close()
    return opened


def test_what_cannot_be_opened(images, tmp_path):
    file = tmp_path / "set.yaml"
    with pytest.raises(FileNotFoundError, match="no such YAML file"):
        open_dataset(file)
    file.write_text("images: gone\npoints: p.json\n")
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        open_dataset(file)
    head = f"images: {images.name}\npoints: p.json\n"
    file.write_text(head, encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"p\.json: no such (?s:.*)classes:"):
        open_dataset(file)
    write_points(tmp_path / "p.json", "b.png")
    file.write_text(head + "classes: {things: [cat]}\n", encoding="utf-8")
    with pytest.raises(ClassFileError, match="only the second has 'car'"):
        open_dataset(file)
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(PointLabelError, match=r"p\.json: line 1"):
        open_dataset(file)
    (tmp_path / "empty").mkdir()
    write_points(tmp_path / "p.json")
    file.write_text("images: empty\npoints: p.json\n")
    with pytest.raises(FileNotFoundError, match="no image in this folder"):
        open_dataset(file)
    assert sorted(os.listdir(tmp_path)) == ["empty", images.name, "p.json", "set.yaml"]


def test_points_are_begun_where_the_file_lists_classes(images, tmp_path):
    file = tmp_path / "set.yaml"
    text = f"images: {images.name}\npoints: new/p.json\nclasses: {{stuff: [sky], things: [car]}}\n"
    file.write_text(text, encoding="utf-8")
    opened = open_dataset(file)
    assert [c.name for c in opened.store.categories] == ["car", "sky"]
    assert len(click(opened.store, 3).segments) == 1
    opened.store.close()
    assert len(read_points(tmp_path / "new" / "p.json").images) == 1


def test_pytorch_is_not_needed():
    code = "import sys, fdd.annotate.start; assert not {'torch', 'detectron2'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_that_was_added_to_the_data_set_file_comes_into_the_points_file(
    tmp_path: Path,
) -> None:
    dataset = begin(tmp_path)
    text = dataset.read_text()
    dataset.write_text(text.replace("[ground]", "[ground, water]"))
    before = read_points(dataset.with_name("points.json"))
    opened = open_dataset(dataset)
    names = {c.name: c for c in opened.store.categories}
    assert "water" in names and not names["water"].isthing
    assert any("water" in note for note in opened.notes)
    state = opened.store.state(0)
    add = {"kind": "add", "x": 5.5, "y": 5.5, "segment": None, "category_id": names["water"].id}
    opened.store.edit(0, state.revision, add)
    opened.store.close()
    after = read_points(dataset.with_name("points.json"))
    assert [c.name for c in after.categories] == [*(c.name for c in before.categories), "water"]
    again = open_dataset(dataset)
    assert not any("new classes" in note for note in again.notes)
    again.store.close()
    # A class of another kind, or one that is gone, is a mistake.
    dataset.write_text(text.replace("things: [cell, nucleus]", "things: [cell]"))
    with pytest.raises(ClassFileError, match="nucleus"):
        open_dataset(dataset)

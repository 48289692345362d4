"""The YAML file that describes a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdd.points.classes import ClassFileError
from fdd.points.dataset_file import read_dataset_file

WHOLE = """
name: cells
images: pictures
points: labels/points.json
classes: {things: [cell], stuff: [glass]}
masks: {json: panoptic.json, folder: panoptic}
validation:
  images: val
  masks: {json: val.json, folder: val_masks}
  points: val_points.json
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "cells.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_start_from_the_file(tmp_path, monkeypatch) -> None:
    write(tmp_path, WHOLE)
    monkeypatch.chdir(tmp_path.parent)
    file = read_dataset_file(Path(tmp_path.name) / "cells.yaml")
    assert file.path == tmp_path / "cells.yaml"
    assert file.images == tmp_path / "pictures"
    assert file.points == tmp_path / "labels" / "points.json"
    assert file.masks is not None and file.masks.folder == tmp_path / "panoptic"
    assert file.validation is not None
    assert file.validation.images == tmp_path / "val"
    assert file.validation.masks.json == tmp_path / "val.json"
    assert file.validation.points == tmp_path / "val_points.json"
    assert file.classes is not None and [c.name for c in file.classes.categories] == [
        "cell",
        "glass",
    ]


def test_what_may_be_left_out(tmp_path) -> None:
    file = read_dataset_file(write(tmp_path, "images: .\npoints: p.json\n"))
    assert (file.name, file.images) == ("cells", tmp_path)
    assert file.classes is None and file.masks is None and file.validation is None


def test_validation_images_default_to_the_folder_of_the_others(tmp_path) -> None:
    text = "images: all\npoints: p.json\nvalidation: {masks: {json: j, folder: f}}\n"
    file = read_dataset_file(write(tmp_path, text))
    assert file.validation is not None
    assert file.validation.images == tmp_path / "all" and file.validation.points is None


def test_a_file_written_on_windows_is_read_elsewhere(tmp_path) -> None:
    file = read_dataset_file(write(tmp_path, "images: data\\pictures\npoints: data\\p.json\n"))
    assert file.images == tmp_path / "data" / "pictures"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points: p.json", "no 'images'; expected a line such as 'images: "),
        ("images: .", "no 'points'; expected a line such as 'points: "),
        ("images: [a]\npoints: p", r"'images' is \['a'\]"),
        ("images: .\npoints: p\nvalidaton: {}", "did you mean 'validation'"),
        ("images: .\npoints: p\nname: 5", "'name' is 5"),
        ("images: .\npoints: p\nmasks: m.json", "masks is 'm.json'"),
        (
            "images: .\npoints: p\nmasks: {json: m}",
            "no 'folder'; expected a line such as 'folder: ",
        ),
        ("images: .\npoints: p\nvalidation: {images: v}", "has no masks"),
        ("images: .\npoints: p\nvalidation: v", "validation is 'v'"),
        ("images: .\npoints: p\nvalidation: {mask: v}", "unknown key 'mask'"),
        ("images: .\npoints: p\nclasses: {things: [1]}", "in quotes"),
    ],
)
def test_unsound_files_are_refused(tmp_path, text: str, message: str) -> None:
    with pytest.raises(ClassFileError, match=message) as error:
        read_dataset_file(write(tmp_path, text))
    assert "cells.yaml" in str(error.value)


def test_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "images: ~/pictures\npoints: ~nobody_of_this_name/p.json\n")
    file = read_dataset_file("~/cells.yaml")
    assert file.path == tmp_path / "cells.yaml" and file.images == tmp_path / "pictures"
    assert file.points == tmp_path / "~nobody_of_this_name" / "p.json"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_yaml_has(tmp_path, encoding: str) -> None:
    (tmp_path / "cells.yaml").write_bytes("images: größe\npoints: p.json\n".encode(encoding))
    assert read_dataset_file(tmp_path / "cells.yaml").images == tmp_path / "größe"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: a\npoints: b\nimages: c\n", "'images' occurs twice"),
        ("images: a\npoints: b\nmasks: {json: a, folder: b, json: c}", "'json' occurs twice"),
        ("images: größe\npoints: p".encode("latin-1"), "not valid YAML"),
        ("", "it is empty"),
    ],
)
def test_what_would_be_lost_without_a_word(tmp_path, text, message: str) -> None:
    path = tmp_path / "cells.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClassFileError, match=message):
        read_dataset_file(path)


@pytest.mark.parametrize("key", ["images", "name", "masks", "validation", "classes", "things"])
def test_a_short_file_makes_no_endless_message(tmp_path, key: str) -> None:
    """YAML's references: 9^9 texts in a few lines."""
    lines = ["&a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    bomb = f"[{', '.join(lines)}]"
    given = {"images": "a", "points": "p", key: bomb}
    if key == "things":
        given = {"images": "a", "points": "p", "classes": f"{{things: {bomb}}}"}
    with pytest.raises(ClassFileError) as error:
        read_dataset_file(write(tmp_path, "".join(f"{k}: {v}\n" for k, v in given.items())))
    assert len(str(error.value)) < 1000

"""Which files are images by their names: one list for every reader."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest
from PIL import Image

import fdd
from fdd.data.images import read_image
from fdd.inference.prediction import find_inputs
from fdd.points.coco_panoptic import PngError
from fdd.points.image_files import (
    IMAGE_ENDINGS,
    ImageHeaderError,
    is_image_name,
    locate_files,
    read_image_header,
    verify_image,
    walk_files,
    walk_images,
)
from fdd.points.importers.image_folder import ImageFolder
from fdd.points.mask_pairs import find_mask_pairs
from fdd.points.parsing import export_files
from fdd.points.rules.images import unlisted_files

# Of each ending a format that Pillow writes.
FORMATS = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000", ".pnm": "PPM", ".tga": "TGA"}
MODES = {".pbm": "1", ".pgm": "L"}


@pytest.mark.parametrize("ending", [*IMAGE_ENDINGS, ".JFIF", ".Png"])
def test_every_reader_takes_every_ending(tmp_path, ending) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / f"a{ending}"
    kind = ending.lower()
    picture = Image.new(MODES.get(kind, "RGB"), (8, 6))
    picture.save(path, format=FORMATS.get(kind) or Image.registered_extensions()[kind])
    assert is_image_name(path) and is_image_name(path.name)
    assert [i.path for i in find_inputs([folder])] == [path]
    assert [i.path for i in find_inputs([f"{folder}/*"])] == [path]
    assert read_image(str(path), "RGB", "a").shape == (6, 8, 3)
    converted = "a.jpg" if kind == ".png" else "a.png"
    assert ImageFolder(folder).find(converted) == path.name
    assert locate_files(folder, [converted], any_extension=True) == ([str(path)], [])
    assert len(list(unlisted_files(folder, [], []))) == 1
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (8, 6)).save(masks / "a.png")
    assert find_mask_pairs(folder, masks)[0][0].image == path


@pytest.mark.parametrize("name", ["a", "a.txt", "png", ".png", "a.png.txt", "a.heic"])
def test_other_files_are_no_images(name) -> None:
    assert not is_image_name(name)


def test_there_is_no_other_list_of_endings() -> None:
    """A second list would disagree with the first one sooner or later."""
    rare = re.compile(r"[\"']\.?(?:bmp|tiff|ppm|pgm|jfif|tga|avif)[\"']")
    package = Path(fdd.__file__).parent
    found = [p.name for p in package.rglob("*.py") if rare.search(p.read_text(encoding="utf-8"))]
    assert found == ["image_files.py"]


def test_every_walk_follows_links_once_and_passes_over_hidden_files(tmp_path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    for folder in (root / "b", root / ".hidden", disk):
        folder.mkdir(parents=True)
    for path in (root / "z.png", root / "b" / "a.jpg", root / ".c.png", root / ".hidden" / "d.png"):
        path.touch()
    (disk / "e.TIF").touch()
    (root / "a_link").symlink_to(disk)
    (disk / "loop").symlink_to(root)
    (root / "a_twin").symlink_to(root / "b")
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    names = ["a_link/e.TIF", "b/a.jpg", "z.png"]
    assert [name for _, name in walk_images(root)] == names
    assert [path for path, _ in walk_images(root)] == [root / name for name in names]
    assert [name for _, name in walk_images(root, leave_out=[disk])] == names[1:]
    assert [name for _, name in walk_files(root, recursive=False)] == ["z.png"]
    assert [name for _, name in walk_files(root, hidden=True)] == [".c.png"]
    assert ImageFolder(root).names == names
    assert [i.file_name for i in find_inputs([root], recursive=True)] == names
    assert len(list(unlisted_files(root, [str(root / "z.png")], []))) == 2
    assert export_files(root, ".jpg", ".png") == [root / "b" / "a.jpg", root / "z.png"]


def test_a_folder_that_cannot_be_read_is_an_error_and_a_sub_folder_is_not(
    tmp_path, monkeypatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def deny(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", deny)
    assert [name for _, name in walk_files(tmp_path)] == ["a.png"]
    with pytest.raises(PermissionError, match="closed"):
        find_inputs([tmp_path / "closed"])
    assert walk_files(tmp_path / "nothing") == []


def test_header_and_whole_file(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    header = read_image_header(path)
    assert (header.width, header.height, header.kind, header.is_transposed) == (6, 8, "JPEG", True)
    verify_image(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageHeaderError, match=r"a\.jpg: not a readable image"):
        verify_image(path)
    path.write_bytes(b"")
    with pytest.raises(ImageHeaderError) as error:
        read_image_header(path)
    assert error.value.reason == "the file is empty"


@pytest.mark.parametrize("error", [ImageHeaderError("a.jpg", "cut"), PngError("E407", "no PNG")])
def test_errors_of_files_reach_the_main_process(error) -> None:
    """What cannot be unpickled breaks a pool of processes, whose message names no file."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)

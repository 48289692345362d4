"""Which files are images by their names: one list for every reader."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import fdd
from fdd.data.images import read_image
from fdd.inference.inputs import find_inputs
from fdd.points.image_files import IMAGE_ENDINGS, is_image_name, locate_files
from fdd.points.importers.image_folder import ImageFolder
from fdd.points.mask_pairs import find_mask_pairs
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
    assert len(unlisted_files(folder, [], [], "labels")) == 1
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

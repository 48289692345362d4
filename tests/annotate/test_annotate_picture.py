"""Pictures for the browser: of every kind of image, 8 bits, upright, and not too large."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdd.annotate.picture import browser_picture
from fdd.data.images import ImageFileError


def decoded(picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.data))
    assert picture.kind == f"image/{image.format.lower()}"
    return image


def ramp(dtype=np.uint8, top: int = 255) -> np.ndarray:
    return np.linspace(0, top, 60 * 40).reshape(40, 60).astype(dtype)


def test_an_ordinary_jpeg_is_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(ramp()).save(path)
    assert browser_picture(path).data == path.read_bytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(ramp()).convert(mode).save(path)
    image = decoded(browser_picture(path))
    assert image.mode == "RGB" and image.size == (60, 40)


def test_sixteen_bits_are_scaled_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    values = (1000 + 4 * ramp(np.uint16)).astype(np.uint16)
    values[0, 0] = 65535  # one hot pixel does not make the rest black
    Image.fromarray(values).save(path)
    shown = np.array(decoded(browser_picture(path)).convert("L"))
    assert shown[0, 0] == 255 and shown[0, 1] < 5 and shown[-1, -1] > 250
    assert 100 < shown[20, 30] < 155


def test_floats_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = ramp(np.float32)
    values[0, :2], values[1, 0] = np.nan, np.inf
    Image.fromarray(values).save(path)
    shown = np.array(decoded(browser_picture(path)).convert("L"))
    assert shown[1, 0] == 255 and shown[0, 0] == 0
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(path)
    assert decoded(browser_picture(path)).size == (4, 4)


def test_a_flat_image_with_a_spot_shows_the_spot(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    values = np.full((100, 100), 700, np.uint16)
    values[50, 50] = 900
    Image.fromarray(values).save(path)
    shown = np.array(decoded(browser_picture(path)).convert("L"))
    assert shown[50, 50] == 255 and shown[0, 0] == 0


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_images_are_upright(tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{ending}"
    Image.fromarray(ramp()).save(path, exif=exif)
    assert decoded(browser_picture(path)).size == (40, 60)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_large_images_are_reduced(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(ramp()).resize((600, 400)).save(path)
    assert decoded(browser_picture(path, max_side=150)).size == (150, 100)


def test_what_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError):
        browser_picture(path)
    path.write_text("<svg onload='alert(1)'/>")
    with pytest.raises(ImageFileError, match=r"a\.png: not a readable image"):
        browser_picture(path)
    Image.fromarray(ramp()).save(path)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(ImageFileError, match=r"a\.png"):
        browser_picture(path)

"""Decoding of JPEGs: what OpenCV may do is what Pillow would have done."""

from __future__ import annotations

import io

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from fdd.data.images import ImageFileError, decode_ordinary_jpeg, is_ordinary_jpeg, read_image


def photograph(height=61, width=90):
    """Smooth colours with some noise, in sizes that no block of a JPEG divides."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / 9 + 2 * c) * np.cos(y / (7 + c)) for c in range(3)]
    noisy = np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def jpeg(mode="RGB", **options):
    out = io.BytesIO()
    photograph().convert(mode).save(out, format="JPEG", **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"quality": 30}),
        ("RGB", {"subsampling": 0, "quality": 98}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"icc_profile": b"no profile \xff\xd9"}),
        ("RGB", {"xmp": b"<x:xmpmeta>a caption</x:xmpmeta>"}),
        ("L", {}),
    ],
)
def test_ordinary_jpegs_are_decoded_to_pillows_pixels(tmp_path, mode, options, image_format):
    data = jpeg(mode, **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    got = decode_ordinary_jpeg(data, image_format)
    assert got is not None and got.dtype == np.uint8 and got.flags.c_contiguous
    expected = detection_utils.read_image(str(path), image_format)
    # Two builds of one library; its versions may round differently.
    np.testing.assert_allclose(got.astype(int), expected.astype(int), atol=2)
    np.testing.assert_array_equal(read_image(str(path), image_format, "image 1"), got)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("CMYK", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"exif": exif(1)}),
        ("RGB", {"exif": exif(6)}),
        ("RGB", {"exif": exif(2)}),
        ("RGB", {"xmp": b'<rdf:Description tiff:Orientation="3"/>'}),
    ],
)
def test_other_jpegs_are_left_to_pillow(tmp_path, mode, options, image_format):
    data = jpeg(mode, **options)
    assert decode_ordinary_jpeg(data, image_format) is None
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    got = read_image(str(path), image_format, "image 1")
    assert got.flags.c_contiguous and got.flags.writeable
    np.testing.assert_array_equal(got, detection_utils.read_image(str(path), image_format))


def test_orientation_turns_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    plain = np.array(Image.open(io.BytesIO(jpeg())))
    for orientation, turned in ((6, np.rot90(plain, -1)), (3, plain[::-1, ::-1])):
        path.write_bytes(jpeg(exif=exif(orientation)))
        np.testing.assert_array_equal(read_image(str(path), "RGB", ""), turned)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_of_all_kinds_are_turned_once(tmp_path, orientation):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    pictures = []
    for suffix in ("png", "tif", "webp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(pixels).save(path, exif=exif(orientation), lossless=True)
        pictures.append(read_image(str(path), "RGB", ""))
    assert pictures[0].shape == ((6, 4, 3) if orientation > 4 else (4, 6, 3))
    np.testing.assert_array_equal(pictures[1], pictures[0])
    np.testing.assert_array_equal(pictures[2], pictures[0])


@pytest.mark.parametrize("restart", [{}, {"restart_marker_rows": 1}])
def test_a_jpeg_cut_off_anywhere_is_an_error(tmp_path, restart):
    data = jpeg(**restart)
    path = tmp_path / "cut.jpg"
    for end in [0, 1, 2, 20, *range(30, len(data), 97), len(data) - 2, len(data) - 1]:
        assert not is_ordinary_jpeg(data[:end])
        path.write_bytes(data[:end])
        with pytest.raises(ImageFileError, match=r"image 7.*not a readable image"):
            read_image(str(path), "RGB", "image 7")


def test_an_end_marker_alone_convinces_nobody():
    data = jpeg()
    header = data.index(b"\xff\xda")
    for damaged in (data[:header], data[: header // 2], data[:2], b"\xff\xd8\xff", b"\xff\xd8"):
        assert not is_ordinary_jpeg(damaged + b"\xff\xd9")
        assert decode_ordinary_jpeg(damaged + b"\xff\xd9", "RGB") is None
    # A segment that claims to be longer than the file, or shorter than its own length.
    for length in (b"\xff\xff", b"\x00\x00"):
        assert not is_ordinary_jpeg(data[:4] + length + data[6:])


def test_trailing_bytes_are_pillows_business(tmp_path):
    data = jpeg()
    path = tmp_path / "a.jpg"
    path.write_bytes(data + b"\0\0 more")
    assert not is_ordinary_jpeg(path.read_bytes())
    got = read_image(str(path), "RGB", "")
    np.testing.assert_array_equal(got, np.array(Image.open(io.BytesIO(data))))

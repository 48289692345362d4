"""Rules on image files: what the loader refuses is found, with the reason that a person knows."""

import shutil

import numpy as np
import pytest
from PIL import Image

from check_toys import HEIGHT, WIDTH, Data
from fdd.data.images import ImageFileError, read_image
from fdd.points.rules import Finding


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / "data")


def replace_by(data, image, suffix=".png", **options):
    """Replace image ``a`` on disk."""
    (data.images / "a.png").unlink()
    path = data.images / f"a{suffix}"
    image.save(path, **options)
    return path


def picture(width=WIDTH, height=HEIGHT, mode="RGB"):
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA"])
def test_modes_that_the_loader_takes(data, mode):
    replace_by(data, picture(mode=mode))
    assert data.found(decode=True) == []


def test_sixteen_bits(data):
    path = replace_by(data, Image.fromarray(np.full((HEIGHT, WIDTH), 999, np.uint16)))
    (found,) = data.only("E304")
    assert "I;16" in found.message and found.image_id == "a"
    with pytest.raises(ImageFileError):
        read_image(str(path), "RGB", "a")


def test_missing_image(data):
    (data.images / "b.png").unlink()
    (found,) = data.only("E301")
    assert found.image_id == "b" and "b.png does not exist" in found.message


def test_image_with_another_extension_is_found_as_in_the_loader(data):
    replace_by(data, picture(), ".jpg")
    assert data.found() == []


def test_missing_folder_and_windows_names_are_said(data):
    data.yaml["images"] = "elsewhere"
    found = data.only("E301")
    assert len(found) == 2 and "there is no folder" in found[0].message
    data.yaml["images"] = "images"
    data.points["images"][0]["file_name"] = "sub\\a.png"
    found = [f for f in data.check().findings if f.rule == "E301"]
    assert "backslashes" in found[0].message


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("decode", [False, True])
def test_truncated_image_is_found_without_decoding_all(data, suffix, decode):
    path = replace_by(data, picture(), suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    (found,) = data.only("E302", decode=decode)
    assert found.image_id == "a"
    with pytest.raises(ImageFileError):
        read_image(str(path), "RGB", "a")


def test_damage_in_the_middle_takes_decoding(data):
    path = data.images / "a.png"
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 0xFF
    path.write_bytes(bytes(spoilt))
    assert data.found() == []
    data.only("E302", decode=True)


@pytest.mark.parametrize("content", [b"", b"GIF is not", b"\x89PNG\r\n\x1a\n"])
def test_no_picture(data, content):
    (data.images / "a.png").write_bytes(content)
    (found,) = data.only("E302")
    assert ("the file is empty" in found.message) is (content == b"")


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def sized(data):
    """Findings of size, and notes of EXIF."""
    return [f for f in data.check().findings if f.rule in ("E303", "I310")]


def test_turned_by_exif(data):
    # Viewers show the stored 60 x 40 as 40 x 60.
    path = replace_by(data, picture(), ".jpg", exif=exif(6))
    found = sized(data)
    assert [f.rule for f in found] == ["E303", "I310"]
    assert "40 x 60 px (width x height, turned by EXIF)" in found[0].message
    assert "follow the stored picture" in found[0].message
    assert read_image(str(path), "RGB", "a").shape == (60, 40, 3)
    # Labels that follow what viewers show are right.
    replace_by_upright = picture(HEIGHT, WIDTH)
    path.unlink()
    replace_by_upright.save(path, exif=exif(6))
    assert [f.rule for f in sized(data)] == ["I310"]


def test_exif_of_a_png(data):
    replace_by(data, picture(), exif=exif(8))
    assert [f.rule for f in sized(data)] == ["E303", "I310"]


def test_damaged_exif_counts_as_none(data):
    path = replace_by(data, picture(), ".jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert sized(data) == []
    assert read_image(str(path), "RGB", "a").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((HEIGHT, WIDTH), "width and height are exchanged"),
        ((2 * WIDTH, 2 * HEIGHT), "a copy resized by 0.5"),
        ((WIDTH, HEIGHT + 1), "the labels say 60 x 40"),
    ],
)
def test_other_sizes(data, size, said):
    replace_by(data, picture(*size))
    (found,) = data.only("E303")
    assert said in found.message
    if size[1] == HEIGHT + 1:
        assert found.message.endswith("60 x 40")


def test_image_in_the_folder_without_labels(data):
    (data.images / "more").mkdir()
    picture().save(data.images / "more" / "x.jpg")
    (data.images / "notes.txt").write_text("no image")
    (found,) = data.only("W305")
    assert found.message.startswith(str(data.images / "more" / "x.jpg"))


def test_masks_within_the_image_folder_are_no_unlabelled_images(data):
    shutil.move(data.root / "masks", data.images / "masks")
    data.yaml["masks"]["folder"] = "images/masks"
    assert data.found() == []


def test_validation_images_in_the_same_folder_are_labelled(data):
    shutil.move(data.val / "v.png", data.images / "v.png")
    data.yaml["validation"]["images"] = "images"
    assert data.found() == []


def test_validation_images_are_looked_at(data):
    picture(30, 20).save(data.val / "v.png")
    (found,) = data.only("E303")
    assert found.image_id == "v" and found.file == str(data.root / "val_masks.json")


def test_contents(data):
    data.points["images"][0]["segments"] = []
    data.points["images"][1]["segments"].pop()  # the sky
    data.points["images"][1]["segments"].pop()  # the cat
    rules = {
        f.rule: f for f in data.check(num_queries=0).findings if f.rule.startswith(("W3", "I3"))
    }
    assert rules["W306"].image_id == "a" and rules["W308"].image_id == "b"
    assert "1 thing, 0 queries" in rules["W308"].message
    assert set(rules) == {"W306", "W308"}


def test_image_without_things_is_a_note(data):
    data.points["images"][0]["segments"] = [data.segment(2)]
    (found,) = data.only("I307")
    assert found.image_id == "a" and found.severity == "note"
    assert not data.check().failed(strict=True)


def test_small_and_mixed_images(data):
    replace_by(data, picture(31, 40))
    data.points["images"][0].update(width=31, segments=[])
    found = {f.rule: f.message for f in data.check().findings}
    assert "31 x 40 px" in found["W311"]
    assert found["I309"].startswith("2 sizes, from 31 x 40 to 60 x 40 px")


def test_without_reading_files(data):
    shutil.rmtree(data.images)
    result = data.check(read_files=False)
    assert result.findings == []
    assert any("were not looked at" in remark for remark in result.remarks)


def test_findings_are_plain(data):
    found = Finding("W305", "x").to_dict()
    assert found["severity"] == "warning" and found["title"]

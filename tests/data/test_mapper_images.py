"""The dataset mapper on pictures of all kinds, sound and unsound."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from fdd.data.mapper import ImageFileError
from mapper_toys import make


def test_channel_order(folder, points):
    bgr = make(image_format="BGR")(points[0])["image"].numpy()
    assert np.array_equal(bgr, folder.pixels[:, :, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_picture_modes(folder, points, mode):
    path = folder.images / ("2007_000032.tif" if mode == "CMYK" else "2007_000032.png")
    picture = Image.fromarray(folder.pixels).convert(mode)
    picture.save(path)
    example = make()({**points[0], "file_name": str(path)})
    assert example["image"].shape == (3, 40, 60) and example["image"].dtype == torch.uint8
    assert np.array_equal(example["image"].numpy().transpose(1, 2, 0), picture.convert("RGB"))


def test_sixteen_bit_pictures_are_refused(points):
    deep = (np.arange(2400).reshape(40, 60) * 20).astype(np.uint16)
    Image.fromarray(deep).save(points[0]["file_name"])
    with pytest.raises(ImageFileError, match=r"2007_000032.*8 bits"):
        make()(points[0])


def test_exif_orientation_counts(folder, points):
    path = folder.images / "2007_000032.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(folder.pixels).save(path, exif=exif)
    record = {**points[0], "file_name": str(path)}
    with pytest.raises(ImageFileError, match=r"2007_000032.*40 x 60 px.*label file says 60 x 40"):
        make()(record)
    upright = {**record, "height": 60, "width": 40, "points": []}
    assert make()(upright)["image"].shape == (3, 60, 40)


def test_missing_and_broken_images(folder, points):
    path = folder.images / "2007_000032.png"
    whole = path.read_bytes()
    for content in (b"", b"no picture", whole[: len(whole) // 2], whole[:60] + b"x" * 500):
        path.write_bytes(content)
        with pytest.raises(
            ImageFileError, match=r"'2007_000032'.*2007_000032\.png.*not a readable"
        ):
            make()(points[0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"'2007_000032'.*2007_000032\.png.*no such file"):
        make()(points[0])


def test_a_dict_of_an_image_alone_is_enough_for_testing(folder):
    path = str(folder.images / "12.png")
    example = make(T.Resize((20, 30)), is_train=False)({"file_name": path})
    assert (example["height"], example["width"], example["image_id"]) == (40, 60, path)
    assert example["image"].shape == (3, 20, 30)

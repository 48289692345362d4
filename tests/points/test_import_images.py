"""Finding images on disk, and the size they are displayed with."""

import io
import time

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, detection_utils
from PIL import Image

from fdd.data.catalog import forget
from fdd.data.dataset_files import register_dataset_file
from fdd.data.images import read_image
from fdd.points import PointLabelError, write_points
from fdd.points.classes import parse_classes
from fdd.points.image_files import ImageHeaderError, read_image_header
from fdd.points.importers import import_points
from fdd.points.importers.image_folder import ImageFolder
from import_toys import labelme, save_image, segments

CLASSES = parse_classes({"things": ["cow"], "stuff": ["grass"]})


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.v2.png", "set1/c.jpg", "set2/c.jpg", "set1/d.JPG", "e.png", "e.jpg"):
        save_image(tmp_path / "pictures" / name, 4, 4)
    (tmp_path / "pictures" / "a.json").touch()
    save_image(tmp_path / "pictures" / ".trash" / "x.jpg", 4, 4)
    save_image(tmp_path / "pictures" / "._a.jpg", 4, 4)
    return ImageFolder(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("./set1/../a.jpg", "a.jpg"),
        ("C:\\data\\a.jpg", "a.jpg"),
        ("..\\..\\somewhere\\a.jpg", "a.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("/srv/data/a.jpg", "a.jpg"),
        (" a.jpg ", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("a.png", "a.jpg"),
        ("a", "a.jpg"),
        ("b.v2", "b.v2.png"),
        ("b.v2.tif", "b.v2.png"),
        ("set1/c.jpg", "set1/c.jpg"),
        ("D:/all/set2/c.jpg", "set2/c.jpg"),
        ("D:\\all\\SET2\\c.tif", "set2/c.jpg"),
        ("d.jpg", "set1/d.JPG"),
        ("e.jpg", "e.jpg"),
        ("old/pictures/e.png", "e.png"),
    ],
)
def test_names_of_other_machines(folder, name, found):
    assert folder.find(name) == found


def test_a_name_that_is_exact_goes_before_one_that_is_like_it(folder):
    """Two uploads of one name: '1f-e.jpg' is not to become 'e.png', nor is 'e.gif' in doubt."""
    save_image(folder.root / "uploads" / "1f-e.gif.jpg", 4, 4)
    folder = ImageFolder(folder.root)
    assert folder.find("e.gif", "1f-e.gif.jpg") == "uploads/1f-e.gif.jpg"
    assert folder.find("c.jpg", "1f-e.gif.jpg") == "uploads/1f-e.gif.jpg"  # c.jpg is in doubt
    assert folder.find("nope", "a.PNG") == "a.jpg"
    with pytest.raises(PointLabelError, match=r"'e\.gif' may be any of 2"):
        folder.find("e.gif", "nope.jpg")


def test_accents_as_macos_writes_them(tmp_path):
    composed, decomposed = "K\u00fche 1.png", "Ku\u0308he 1.png"
    save_image(tmp_path / "Fl\u00e4che" / decomposed, 4, 4)
    save_image(tmp_path / "b" / decomposed, 4, 4)
    folder = ImageFolder(tmp_path)
    assert folder.find(f"Fla\u0308che/{composed}") == f"Fl\u00e4che/{decomposed}"
    assert folder.find("B\\" + composed.replace("png", "TIF")) == f"b/{decomposed}"


def test_one_name_in_thousands_of_folders_takes_a_moment(tmp_path):
    for i in range(3000):
        (tmp_path / f"case{i}").mkdir()
        (tmp_path / f"case{i}" / "image.png").touch()
    folder = ImageFolder(tmp_path)
    start = time.process_time()
    for i in range(3000):
        assert folder.find(f"C:\\scans\\CASE{i}\\image.png") == f"case{i}/image.png"
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("c.jpg", r"any of 2 files .*'set1/c.jpg', 'set2/c.jpg'\. Write the folder .*--images"),
        ("set3/c.jpg", "may be any of 2 files"),
        ("e", r"may be any of 2 files .*'e.jpg', 'e.png'\. Write the full name"),
        ("e.tif", "may be any of 2 files"),
        ("b.jpg", "no image 'b.jpg' below .*pictures"),
        ("aa.jpg", r"no image 'aa.jpg' .*Close to it: 'a.jpg'"),
        ("x.jpg", "no image"),
        ("b", "no image"),
        ("a.json", "no image"),
        ("", "is empty"),
        ("..", "is empty"),
        ("C:\\", "is empty"),
    ],
)
def test_names_in_doubt(folder, name, message):
    with pytest.raises(PointLabelError, match=message):
        folder.find(name)


def test_folders_of_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no such image folder"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(PointLabelError, match=r"file: a file; expected the folder"):
        ImageFolder(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PointLabelError, match=r"empty, which contains no images"):
        ImageFolder(tmp_path / "empty").find("a.jpg")


def test_links_are_followed_once(tmp_path):
    save_image(tmp_path / "disk" / "a.jpg", 4, 4)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "images")
    assert ImageFolder(tmp_path / "images").names == ["link/a.jpg"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9), 0, 77])
def test_header_agrees_with_the_training_reader(tmp_path, suffix, orientation):
    path = save_image(tmp_path / f"a.{suffix}", 30, 20, "RGB", orientation)
    header = read_image_header(path)
    assert (header.height, header.width) == read_image(str(path), "RGB", "").shape[:2]
    assert header.is_transposed == (orientation in (5, 6, 7, 8))


@pytest.mark.parametrize(
    ("mode", "suffix", "deep"),
    [
        ("L", "png", False),
        ("1", "png", False),
        ("P", "png", False),
        ("RGBA", "png", False),
        ("LA", "png", False),
        ("CMYK", "jpg", False),
        ("L", "jpg", False),
        ("P", "gif", False),
        ("I;16", "png", True),
        ("I;16", "tif", True),
        ("F", "tif", True),
    ],
)
def test_images_of_all_modes(tmp_path, mode, suffix, deep):
    path = save_image(tmp_path / f"a.{suffix}", 30, 20, mode)
    header = read_image_header(path)
    assert (header.width, header.height, header.is_deep) == (30, 20, deep)
    labels = labelme(tmp_path / "a.json", path.name, [("cow", 29.5, 19.5)])
    imported = import_points(labels, tmp_path, CLASSES)
    assert segments(imported.dataset) == [("cow", [(29.5, 19.5)])]
    assert imported.notes.deep == ([path.name] if deep else [])


def test_png_pixels_are_not_decoded(tmp_path, monkeypatch):
    path = save_image(tmp_path / "a.png", 30, 20, "RGB", 6)

    def refuse(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    assert (read_image_header(path).width, read_image_header(path).height) == (20, 30)


def test_png_with_its_tag_behind_the_pixels(tmp_path):
    data = save_image(tmp_path / "a.png", 30, 20, "RGB", 6).read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    closing = data.index(b"IEND") - 4
    assert end < closing
    moved = data[:start] + data[end:closing] + data[start:end] + data[closing:]
    path = tmp_path / "b.png"
    path.write_bytes(moved)
    header = read_image_header(path)
    assert (header.height, header.width) == read_image(str(path), "RGB", "").shape[:2] == (30, 20)


def test_broken_tags_are_passed_over(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=b"Exif\0\0XX*\0 no tags at all")
    path = tmp_path / "a.jpg"
    path.write_bytes(stream.getvalue())
    header = read_image_header(path)
    assert (header.height, header.width) == read_image(str(path), "RGB", "").shape[:2] == (20, 30)


def test_unreadable_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for name, content in (
        ("empty.jpg", b""),
        ("text.jpg", b"not an image, but words"),
        ("cut.png", whole[:500]),
        ("cut.tif", b"II*\x00\x08\x00"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageHeaderError, match=f"{name}: not a readable image"):
            read_image_header(path)
        labels = labelme(tmp_path / "a.json", name, [("cow", 2, 2)])
        with pytest.raises(PointLabelError, match=f"a\\.json: .*{name}: not a readable image"):
            import_points(labels, tmp_path, CLASSES)
    with pytest.raises(FileNotFoundError, match=r"none.png: no such image"):
        read_image_header(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_stay_on_the_displayed_pixel(tmp_path, suffix, orientation):
    """A red pixel is found by looking at the picture upright, labelled, imported, and read back."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4, 25] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    # By hand, from the EXIF standard's table of what the stored first row and column are.
    x, y, turned = {
        1: (25, 4, False),
        2: (4, 4, False),
        3: (4, 15, False),
        4: (25, 15, False),
        5: (4, 25, True),
        6: (15, 25, True),
        7: (15, 4, True),
        8: (4, 4, True),
    }[orientation]
    size = (
        {"imageWidth": 20, "imageHeight": 30} if turned else {"imageWidth": 30, "imageHeight": 20}
    )
    labels = labelme(tmp_path / "a.json", path.name, [("cow", x + 0.5, y + 0.5)], **size)
    imported = import_points(labels, tmp_path, CLASSES)
    ((_, [point]),) = segments(imported.dataset)
    image = imported.dataset.images[0]
    read = read_image(str(path), "RGB", "")
    assert read.shape == (image.height, image.width, 3)
    assert tuple(read[int(point[1]), int(point[0])]) == (255, 0, 0)
    assert imported.notes.turned == ([] if orientation == 1 else [path.name])
    if suffix == "png":
        plain = detection_utils.read_image(str(path), "RGB")
        assert tuple(plain[int(point[1]), int(point[0])]) == (255, 0, 0)


def test_sizes_of_an_export_that_does_not_know_the_tag(tmp_path):
    save_image(tmp_path / "a.jpg", 30, 20, orientation=6)
    points = [("cow", 2, 2)]
    labels = labelme(tmp_path / "a.json", "a.jpg", points, imageWidth=30, imageHeight=20)
    with pytest.raises(PointLabelError) as caught:
        import_points(labels, tmp_path, CLASSES)
    message = str(caught.value)
    for part in ("a.json", "says 30 x 20", "20 x 30", "orientation 6", "follow the displayed"):
        assert part in message
    assert "--exif stored" in message
    assert import_points(labels, tmp_path, CLASSES, exif="stored").notes.turned == ["a.jpg"]
    labelme(labels, "a.jpg", points, imageWidth=20, imageHeight=30)
    with pytest.raises(PointLabelError, match=r"is stored with 30 x 20.*give --exif displayed"):
        import_points(labels, tmp_path, CLASSES, exif="stored")


def test_sizes_of_a_resized_image(tmp_path):
    save_image(tmp_path / "a.jpg", 30, 20)
    labels = labelme(tmp_path / "a.json", "a.jpg", [("cow", 2, 2)], imageWidth=60, imageHeight=40)
    with pytest.raises(PointLabelError, match=r"a\.json: .*says 60 x 40 .*displayed with 30 x 20"):
        import_points(labels, tmp_path, CLASSES)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_of_the_stored_picture_are_turned_with_it(tmp_path, suffix, orientation):
    """A red patch is found in the unturned pixels, labelled there, and read back upright."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[8:16, 24:32] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    # The middle of the patch's upper left quarter, which no turn maps onto itself.
    labels = labelme(
        tmp_path / "a.json",
        path.name,
        [("cow", 26.25, 9.75), ("grass", 0, 24)],
        imageWidth=40,
        imageHeight=24,
    )
    imported = import_points(labels, tmp_path, CLASSES, exif="stored")
    (_, [point]), (_, [corner]) = segments(imported.dataset)
    read = read_image(str(path), "RGB", "")
    image = imported.dataset.images[0]
    assert read.shape == (image.height, image.width, 3)
    red, rest = read[int(point[1]), int(point[0])], read[int(point[1]) - 9, int(point[0])]
    assert red[0] > 200 and red[1] < 60 and rest[0] < 60
    # By hand: where the stored corner (0, 24) and the distances to it go.
    x, y, turned = {
        1: (0, 24, False),
        2: (40, 24, False),
        3: (40, 0, False),
        4: (0, 0, False),
        5: (24, 0, True),
        6: (0, 0, True),
        7: (0, 40, True),
        8: (24, 40, True),
    }[orientation]
    assert corner == (x, y)
    apart = (abs(point[0] - x), abs(point[1] - y))
    assert apart == ((14.25, 26.25) if turned else (26.25, 14.25))
    assert imported.dataset.info["exif"] == "stored"


def test_shares_of_the_stored_picture(tmp_path):
    save_image(tmp_path / "a.jpg", 40, 20, orientation=6)
    (tmp_path / "a.csv").write_text("image,category,x,y\na.jpg,cow,25,10\n")
    options = {"units": "percent", "exif": "stored"}
    imported = import_points(tmp_path / "a.csv", tmp_path, CLASSES, **options)
    assert segments(imported.dataset) == [("cow", [(18, 10)])]


def test_points_outside_the_stored_picture(tmp_path):
    save_image(tmp_path / "a.jpg", 40, 20, orientation=6)
    labels = labelme(tmp_path / "a.json", "a.jpg", [("cow", 15, 35)])
    with pytest.raises(PointLabelError, match=r"40 x 20 pixels .*as stored.*--exif displayed"):
        import_points(labels, tmp_path, CLASSES, exif="stored")
    assert segments(import_points(labels, tmp_path, CLASSES).dataset) == [("cow", [(15, 35)])]
    labelme(labels, "a.jpg", [("cow", 35, 15)])
    with pytest.raises(PointLabelError, match=r"20 x 40 pixels .*--exif stored"):
        import_points(labels, tmp_path, CLASSES)
    with pytest.raises(ValueError, match=r"exif 'raw'; allowed: displayed, stored"):
        import_points(labels, tmp_path, CLASSES, exif="raw")


def test_what_was_imported_can_be_trained_on(tmp_path):
    save_image(tmp_path / "images" / "deep" / "a.png", 30, 20, "P", 6)
    labels = labelme(tmp_path / "labels" / "a.json", "C:\\a.jpg", [("cow", 3, 25), ("grass", 9, 9)])
    imported = import_points(labels, tmp_path / "images", CLASSES)
    write_points(tmp_path / "points.json", imported.dataset)
    (tmp_path / "set.yaml").write_text("images: images\npoints: points.json\n")
    name = register_dataset_file(tmp_path / "set.yaml")
    try:
        (record,) = DatasetCatalog.get(name)
    finally:
        forget(name)
    pixels = read_image(record["file_name"], "RGB", "")
    assert pixels.shape == (record["height"], record["width"], 3) == (30, 20, 3)
    assert [p["coords"] for p in record["points"]] == [[[3.0, 25.0]], [[9.0, 9.0]]]

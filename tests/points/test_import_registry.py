"""Which format an export is, and reading sparse PNGs, the one format with two inputs."""

import json
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from fdd.points import PointLabelError, read_points, write_points
from fdd.points.classes import parse_classes
from fdd.points.importers import get_importer, import_points, importer_names
from fdd.points.importers.registry import read_export, recognize
from import_toys import EXPORTS, labelme, save_image, segments

CLASSES = parse_classes({"things": ["cow"], "stuff": ["grass"]})


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("export", "name"),
    [
        ("labelme", "labelme"),
        ("labelme/field.json", "labelme"),
        ("labelme/old/shed.json", "labelme"),
        ("csv/points.csv", "csv"),
        ("csv/qupath.tsv", "csv"),
        ("csv/imagej", "csv"),
        ("cvat", "cvat"),
        ("datumaro", "datumaro"),
        ("label_studio/tasks.json", "label-studio"),
        ("label_studio/tasks-min.json", "label-studio"),
        ("coco_keypoints", "coco-keypoints"),
        ("pointsup", "pointsup"),
    ],
)
def test_recognized_by_content(export, name):
    assert recognize(EXPORTS / export).name == name


def test_extensions_do_not_matter_to_json(tmp_path):
    path = labelme(tmp_path / "a.json", points=[("cow", 1, 1)])
    for name in ("a.txt", "a", "a.labels"):
        assert recognize(write(tmp_path / name, path.read_bytes())).name == "labelme"
    with_mark = path.read_text().encode("utf-16")
    assert recognize(write(tmp_path / "b.json", with_mark)).name == "labelme"


def test_a_folder_with_labels_between_images(tmp_path):
    for i in range(40):
        save_image(tmp_path / f"{i}.jpg", 8, 8)
        labelme(tmp_path / f"{i}.json", f"{i}.jpg", [("cow", 2, 2)])
    assert recognize(tmp_path).name == "labelme"
    assert len(import_points(tmp_path, tmp_path, CLASSES).dataset.images) == 40


def test_folders_of_two_formats(tmp_path):
    labelme(tmp_path / "a.json")
    write(tmp_path / "b.csv", "image,category,x,y\n")
    with pytest.raises(
        PointLabelError, match=r"a\.json may be labelme; .*b\.csv may be csv.*--for"
    ):
        recognize(tmp_path)


def test_stray_texts_beside_labels(tmp_path):
    """LabelMe itself is given a labels.txt."""
    labelme(tmp_path / "a.json")
    write(tmp_path / "labels.txt", "__ignore__\ncow\ncalf\n")
    write(tmp_path / "README.txt", "Labels, made in May, of cows.\nSee 2025, 2026, for more.\n")
    write(tmp_path / "empty.txt", "")
    assert recognize(tmp_path).name == "labelme"


def test_tables_that_end_in_txt(tmp_path):
    table = write(tmp_path / "a.txt", "Image\tX\tY\n\na.jpg\t1.5\t2\n")
    assert recognize(table).name == "csv"
    assert recognize(write(tmp_path / "b.csv", "image;category;x;y\n")).name == "csv"
    with pytest.raises(PointLabelError, match=r"not a format"):
        recognize(write(tmp_path / "c.txt", "a,b,c\nd,e,f\n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "not a format that can be imported"),
        ("a.json", '{"format": "fdd-points"}', "file of point labels already"),
        ("a.json", '{"images": [], "annotations": [], "categories": []}', "fdd points sample"),
        (
            "a.json",
            '{"version": "2.0", "item": {"name": "a.jpg"}, "annotations": [{"keypoint": {}}]}',
            r"looks like Darwin JSON \(V7\).*a table \(CSV\)",
        ),
        ("a.json", '{"dataset": "d", "image": {}, "annotations": []}', r"Darwin JSON \(V7\)"),
        ("a.json", '{"objects": [], "size": {"height": 1}}', "looks like Supervisely's JSON"),
        ("a.json", '[{"data_row": {}, "projects": {}}]', "looks like Labelbox's JSON"),
        ("a.json", '{"annotations": [], "b": 1}', "JSON with the keys 'annotations', 'b'. Write"),
        ("a.json", '{"a": 1,\n ]', r"a\.json, line 2, column 2: not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", "", "empty file"),
        ("a.csv", "", "empty file"),
        ("a.xyz", "some words", "not a format that can be imported"),
        ("a.png", b"\x89PNG\r\n", "--panoptic-json"),
        ("a.bin", bytes(range(256)), "not a format that can be imported"),
        ("a.xlsx", b"PK", "not a format that can be imported. A spreadsheet: save it as CSV"),
    ],
)
def test_files_that_cannot_be_imported(tmp_path, name, content, message):
    with pytest.raises(PointLabelError, match=message) as caught:
        recognize(write(tmp_path / name, content))
    assert name in str(caught.value)
    assert ("COCO" in str(caught.value).split("Choose")[0]) == ("points sample" in message)
    if "not a format" in message:
        assert all(format in str(caught.value) for format in importer_names())


def test_a_zip_archive_of_anything_but_cvat_is_to_be_unpacked(tmp_path):
    """As CVAT hands out Datumaro JSON."""
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(EXPORTS / "datumaro/annotations/default.json", "annotations/default.json")
    with pytest.raises(PointLabelError, match=r"not a format .*A zip archive: unpack it"):
        recognize(path)


@pytest.mark.parametrize(
    "export",
    [
        "labelme/field.json",
        "datumaro/annotations/default.json",
        "label_studio/tasks.json",
        "coco_keypoints/person_keypoints.json",
        "pointsup/instances_n4_v1_without_masks.json",
    ],
)
def test_point_labels_beside_the_export_are_passed_over(tmp_path, export):
    """What an earlier import has written into the same folder."""
    source = EXPORTS / export
    write(tmp_path / "a.json", source.read_bytes())
    alone = read_export(tmp_path, recognize(tmp_path), {})
    write(tmp_path / "points.json", '{"format": "fdd-points"}')
    together = read_export(tmp_path, recognize(tmp_path), {})
    assert together == alone
    with pytest.raises(PointLabelError):
        read_export(tmp_path / "points.json", recognize(tmp_path), {})


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no such file or folder"):
        recognize(tmp_path / "none")
    with pytest.raises(PointLabelError, match=r"a folder without files"):
        recognize(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none: no such file or folder"):
        import_points(tmp_path / "none", tmp_path, CLASSES, format="csv")
    with pytest.raises(ValueError, match=r"format 'xml'; allowed: auto, .*labelme"):
        import_points(tmp_path, tmp_path, CLASSES, format="xml")


def test_options_of_other_formats_are_refused(tmp_path):
    path = labelme(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"--delimiter .* LabelMe JSON.*--skip-shapes"):
        read_export(path, get_importer("labelme"), {"delimiter": ";"})


def test_refused_options_are_called_as_on_the_command_line(tmp_path):
    path = labelme(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"--column \(columns=...\)"):
        read_export(path, get_importer("labelme"), {"columns": {"x": "cx"}})


def test_a_format_that_is_said_is_not_looked_for(tmp_path):
    save_image(tmp_path / "a.jpg")
    write(tmp_path / "b.dat", "image,category,x,y\na.jpg,cow,1,2\n")
    dataset = import_points(tmp_path / "b.dat", tmp_path, CLASSES, format="csv").dataset
    assert segments(dataset) == [("cow", [(1, 2)])]


def test_a_class_file_of_a_data_set_will_do(tmp_path):
    save_image(tmp_path / "field.jpg")
    write(
        tmp_path / "data.yaml",
        "images: .\npoints: p.json\nclasses: {things: [cow], stuff: [sky]}\n",
    )
    path = labelme(tmp_path / "a.json", points=[("cow", 2, 2)])
    imported = import_points(path, tmp_path, tmp_path / "data.yaml")
    assert [(c.category.name, c.images, c.points) for c in imported.classes] == [
        ("cow", 1, 1),
        ("sky", 0, 0),
    ]
    with pytest.raises(PointLabelError, match=r"data\.yaml"):
        labelme(path, points=[("car", 2, 2)])
        import_points(path, tmp_path, tmp_path / "data.yaml")


def sparse(folder):
    """By hand: the colour (R, G, B) is the id R + 256 G + 65536 B of a segment."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[3, 12] = pixels[4, 13] = (3, 2, 1)  # segment 66051, a cow
    pixels[19, 0] = (7, 0, 0)  # segment 7, grass
    pixels[2, 20] = (9, 0, 0)  # a crowd of cows
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "field.png")
    return folder


def test_sparse_pngs(tmp_path):
    save_image(tmp_path / "images" / "deep" / "field.jpg")
    panoptic = EXPORTS / "sparse_png" / "panoptic.json"
    imported = import_points(sparse(tmp_path / "p"), tmp_path / "images", panoptic_json=panoptic)
    assert imported.format == "sparse-png"
    (image,) = imported.dataset.images
    assert (image.image_id, image.file_name) == (581929, "deep/field.jpg")
    assert [(c.id, c.name, c.isthing) for c in imported.dataset.categories] == [
        (21, "cow", True),
        (193, "grass", False),
    ]
    found = {s.id: (s.category_id, sorted(s.points)) for s in image.segments}
    assert found == {66051: (21, [(12.5, 3.5), (13.5, 4.5)]), 7: (193, [(0.5, 19.5)])}
    assert sum(imported.notes.left_out.values()) == 1
    write_points(tmp_path / "p.json", imported.dataset)
    assert read_points(tmp_path / "p.json").images == imported.dataset.images


def test_masks_in_the_panoptic_json_change_nothing(tmp_path):
    save_image(tmp_path / "field.jpg")
    folder = sparse(tmp_path / "p")
    text = (EXPORTS / "sparse_png" / "panoptic.json").read_text()
    document = json.loads(text)
    for segment in document["annotations"][0]["segments_info"]:
        segment["area"], segment["bbox"] = 1_000_000, ["nonsense"]
    write(tmp_path / "other.json", json.dumps(document))
    write(tmp_path / "same.json", text)
    sets = [
        import_points(folder, tmp_path, panoptic_json=tmp_path / name).dataset.images
        for name in ("same.json", "other.json")
    ]
    assert sets[0] == sets[1]


def test_sparse_pngs_with_classes_of_ones_own(tmp_path):
    save_image(tmp_path / "field.jpg")
    panoptic = EXPORTS / "sparse_png" / "panoptic.json"
    classes = parse_classes({"things": [{"name": "animal", "aliases": ["cow"]}]}, ["grass"])
    imported = import_points(
        sparse(tmp_path / "p"), tmp_path, classes, format="sparse-png", panoptic_json=panoptic
    )
    assert [s.id for s in imported.dataset.images[0].segments] == [66051]
    assert imported.notes.ignored == {"grass": 1}


def test_sparse_pngs_need_their_json(tmp_path):
    save_image(tmp_path / "field.jpg")
    folder = sparse(tmp_path / "p")
    with pytest.raises(PointLabelError, match=r"--panoptic-json"):
        import_points(folder, tmp_path, format="sparse-png")
    with pytest.raises(PointLabelError, match=r"--panoptic-json"):
        import_points(folder, tmp_path)
    panoptic = EXPORTS / "sparse_png" / "panoptic.json"
    with pytest.raises(PointLabelError, match=r"expected the folder"):
        import_points(folder / "field.png", tmp_path, panoptic_json=panoptic)


@pytest.mark.parametrize(
    "export",
    ["labelme", "cvat", "datumaro", "label_studio/tasks.json", "coco_keypoints", "pointsup"],
)
def test_every_format_becomes_point_labels(tmp_path, export):
    """With classes from the message that asks for them, and images of the sizes it speaks of."""
    source = EXPORTS / export
    images = read_export(source, recognize(source), {})
    for image in images:
        name = image.file_name.replace("\\", "/").rpartition("/")[2]
        name += "" if "." in name else ".png"  # Datumaro has none where it is unknown
        save_image(tmp_path / "all" / name, image.width or 12, image.height or 10)
    labels = {point.label for image in images for point in image.points}
    classes = parse_classes({"things": sorted(labels)})
    imported = import_points(source, tmp_path / "all", classes)
    write_points(tmp_path / "p.json", imported.dataset)
    assert len(read_points(tmp_path / "p.json").images) == len(images) >= 1
    assert sum(c.points for c in imported.classes) + imported.notes.duplicates == sum(
        len(image.points) for image in images
    )


def test_nothing_of_torch_is_imported():
    """Label commands start in a moment."""
    import subprocess

    code = "import sys, fdd.points.importers, fdd.cli.points_import; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

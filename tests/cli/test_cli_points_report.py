"""The page about points before any training: what it shows of sound, broken and absent things."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from fdd.cli.main import main
from fdd.points.rules import CheckOptions, CheckTarget, check_data
from fdd.visualization import draw_points
from fdd.visualization.points_report import write_points_report

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": False},
    {"id": 3, "name": "cow & calf", "isthing": True},
]


def entry(name, *segments, side=64, **others):
    """An image of the label file; a segment is category and points."""
    made = [
        {"id": n, "category_id": category, "points": points}
        for n, (category, points) in enumerate(segments, start=1)
    ]
    image = {"id": name, "file_name": f"{name}.png", "height": side, "width": side}
    return {**image, "segments": made, **others}


def sound(name):
    return entry(name, (3, [[10, 10], [12, 14]]), (3, [[50, 40]]), (7, [[40, 8]]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four sound images, and one without points."""
    monkeypatch.chdir(tmp_path)
    write([sound(name) for name in "abcd"] + [entry("e")])
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in "abcde":
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "data.yaml").write_text("name: farm\nimages: images\npoints: points.json\n")
    return tmp_path


def write(images, file="points.json", categories=CATEGORIES):
    document = {"format": "fdd-points", "version": 1, "categories": categories, "images": images}
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(document, stream)


def page(*words, status=0):
    assert main(["points", "report", *words, "--output", "page.html"]) == status
    with open("page.html", encoding="utf-8") as stream:
        return stream.read()


def rows(html):
    """The page's images in order: name, and the text of the row's head."""
    found = re.findall(
        r'<article.*?data-name="(.*?)".*?<header>(.*?)</header>(.*?)</article>', html, re.S
    )
    return {name: (head, pictures.count("<img")) for name, head, pictures in found}


def test_a_page_without_a_model_or_torch(folder) -> None:
    code = (
        "import sys; from fdd.cli.main import main\n"
        "assert main(['points', 'report', 'data.yaml']) == 0\n"
        "sys.exit('torch' in sys.modules or 'detectron2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 images, 12 segments, 16 points" in done.stdout and "points.html" in done.stdout
    html = (folder / "points.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"?(https?:)?//|url\((?!#|data:image/)|@import", html)
    assert "Points of farm" in html and "cow &amp; calf" in html and "cow & calf" not in html


def test_counts_legend_and_pictures(folder) -> None:
    html = page("data.yaml")
    found = rows(html)
    assert list(found) == ["e.png", "a.png", "b.png", "c.png", "d.png"]
    head, pictures = found["a.png"]
    assert pictures == 2 and "Segments <b>3</b>" in head and "Points <b>4</b>" in head
    assert "cow &amp; calf 2, sky 1" in head and "warn" not in head
    assert "no points" in found["e.png"][0] and found["e.png"][1] == 2
    table = re.search(r'<table id="classes">.*?</table>', html, re.S)[0]
    cells = {
        re.search('data-class="(.*?)"', row)[1]: re.findall('data-value="(.*?)"', row)
        for row in re.findall("<tr data-class.*?</tr>", table)
    }
    assert cells == {"cow &amp; calf": ["4", "8", "12"], "sky": ["4", "4", "4"]}


def test_what_the_check_finds_comes_first_and_names_its_image(folder) -> None:
    images = [sound(name) for name in "abcd"]
    images[3]["segments"][0]["points"] = [[65.5, 2], [10, 10]]  # outside
    images[2]["segments"][1]["points"].append([50, 40])  # twice
    write(images)
    found = rows(page("data.yaml", "--ignore", "W305"))
    assert list(found)[:2] == ["d.png", "c.png"]
    assert "E202 error" in found["d.png"][0] and "(65.5, 2)" in found["d.png"][0]
    assert "W204 warning" in found["c.png"][0] and "warn" not in found["a.png"][0]
    html = page("data.yaml")
    assert "E202 error: a point outside the image (1)" in html and "d.png. Correct or" in html
    assert "e.png: not in the labels" in html
    assert "W204" not in page("data.yaml", "--ignore", "W204")
    result = check_data(CheckTarget.find("data.yaml"), CheckOptions())
    assert result.count("error") == 1


def test_images_that_cannot_be_read_are_named_on_the_page(folder, capsys) -> None:
    (folder / "images" / "b.png").write_bytes(b"no picture")
    (folder / "images" / "c.png").unlink()
    found = rows(page("data.yaml", status=1))
    assert {n for n, (_, pictures) in found.items() if not pictures} == {"b.png", "c.png"}
    assert "cannot be read" in found["b.png"][0] and "E302 error" in found["b.png"][0]
    assert "E301 error" in found["c.png"][0] and "Points <b>4</b>" in found["c.png"][0]
    said = capsys.readouterr()
    assert "2 images could not be read" in said.err and "b.png" in said.err
    assert "Unreadable images" in (folder / "page.html").read_text(encoding="utf-8")


HOSTILE = [
    {"segments": [{"id": 1, "category_id": 3, "points": [["x", 1], [1, None], [float("nan"), 2]]}]},
    {"segments": [{"id": 1, "category_id": 99, "points": [[1, 1]]}]},
    {"segments": [{"id": "</b>", "category_id": 3, "points": [[1e9, -1e9], [1, 1]]}]},
    {"segments": [{"id": 1, "category_id": 3, "points": []}], "height": -1},
    {"file_name": "../<script>.png"},
    {"file_name": ""},
    {"id": None},
    {"id": "a"},
    {"segments": [{"id": 1, "category_id": 3, "points": [[1, 1]], "bbox": [0, 0, 1, 1]}]},
]


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
def test_labels_that_are_unsound_are_shown_as_far_as_they_go(folder, change) -> None:
    write([sound("a"), {**sound("b"), **change}])
    assert main(["points", "report", "data.yaml", "--output", "page.html"]) in (0, 1)
    html = (folder / "page.html").read_text(encoding="utf-8")
    assert "<script>.png" not in html and "</b>" not in re.sub("<b>.*?</b>", "", html)
    assert re.search(r"E\d\d\d error", html) and "a.png" in rows(html)


@pytest.mark.parametrize(
    "categories",
    [
        [],
        [*CATEGORIES, {"id": 3, "name": "horse", "isthing": True}],
        [*CATEGORIES, {"id": 9, "name": "sky", "isthing": True}],
    ],
)
def test_unsound_classes(folder, categories) -> None:
    write([sound("a")], categories=categories)
    assert "E103 error" in page("data.yaml")


def test_some_images_those_with_findings_first(folder) -> None:
    images = [sound(name) for name in "abcd"]
    images[3]["segments"][0]["points"].append([10, 10])
    write(images)
    assert list(rows(page("data.yaml", "--max-images", "1"))) == ["d.png"]
    html = page("data.yaml", "--max-images", "2")
    assert list(rows(html)) == ["d.png", "b.png"] and "2 of them are on this page" in html
    assert main(["points", "report", "data.yaml", "--max-images", "0"]) == 2


def test_large_images_are_scaled_down(folder) -> None:
    Image.new("RGB", (3000, 1000)).save(folder / "images" / "a.png")
    image = entry("a", (3, [[2990, 990]]))
    write([{**image, "width": 3000, "height": 1000}])
    html = page("data.yaml", "--thumbnail", "300")
    sizes = re.findall(r'<img[^>]* width="(\d+)" height="(\d+)"', html)
    assert sizes == [("300", "100")] * 2


def test_validation_points_and_bare_label_files(folder, capsys) -> None:
    write([sound("a")], "val.json")
    dataset = yaml.safe_load((folder / "data.yaml").read_text())
    dataset["validation"] = {"masks": {"json": "m.json", "folder": "m"}}
    (folder / "data.yaml").write_text(yaml.safe_dump(dataset))
    assert main(["points", "report", "data.yaml#validation"]) == 2
    assert "names no points" in capsys.readouterr().err
    dataset["validation"]["points"] = "val.json"
    (folder / "data.yaml").write_text(yaml.safe_dump(dataset))
    html = page("data.yaml#validation")
    assert list(rows(html)) == ["a.png"] and "farm, validation" in html
    assert list(rows(page("val.json", "--images", "images"))) == ["a.png"]
    assert main(["points", "report", "val.json"]) == 2
    assert "--images" in capsys.readouterr().err


def test_refused_commands_change_no_file(folder, capsys) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for words in (
        ["data.yaml", "--output", "data.yaml"],
        ["data.yaml", "--output", "images"],
        ["none.yaml", "--output", "page.html"],
        ["points.json", "--images", "images", "--output", "points.json"],
        ["data.yaml", "--output", "points.json"],
        ["data.yaml", "--ignore", "Q1", "--output", "page.html"],
        ["data.yaml", "--thumbnail", "1", "--output", "page.html"],
    ):
        assert main(["points", "report", *words]) == 2, words
        assert capsys.readouterr().err.startswith("fdd points report: error: ")
    (folder / "broken.json").write_text("{")
    assert main(["points", "report", "broken.json", "--images", "images"]) == 2
    assert "broken.json" in capsys.readouterr().err
    (folder / "broken.json").unlink()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["images/a.png", "points.json", "data.yaml"])
def test_a_page_replaces_nothing_but_a_page(folder, capsys, name) -> None:
    before = (folder / name).read_bytes()
    assert main(["points", "report", "data.yaml", "--output", name]) == 2
    assert name in capsys.readouterr().err and (folder / name).read_bytes() == before


def test_the_page_of_before_is_replaced(folder) -> None:
    page("data.yaml")
    write([sound("a")])
    assert list(rows(page("data.yaml"))) == ["a.png"]


def test_as_a_function(folder) -> None:
    report = write_points_report("p.html", CheckTarget.find("data.yaml"), title="<mine>")
    assert (report.images, report.errors, report.counts.points) == (5, 0, 16)
    assert "&lt;mine&gt;" in (folder / "p.html").read_text()


def test_numbers_stand_beside_the_first_point_that_is_seen() -> None:
    image = np.full((60, 90, 3), 128, np.uint8)
    coords = np.array([[-500.0, 5.0], [20.0, 20.0], [20.0, 50.0]])
    index, classes = np.array([0, 0, 1]), np.array([0, 0])
    categories = [{"name": "cow", "isthing": True}]
    plain = draw_points(image, coords, index, classes, categories)
    numbered = draw_points(image, coords, index, classes, categories, numbers=["12", "7"])
    rows_changed = np.flatnonzero((plain != numbered).any(axis=(1, 2)))
    assert rows_changed.min() > 10 and rows_changed.max() < 60
    assert 20 in rows_changed and 50 in rows_changed and not {32, 36} & set(rows_changed.tolist())
    assert (draw_points(image, coords, index, classes, categories) == plain).all()

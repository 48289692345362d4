"""The report with classes, as a file: what a reader without a script, or offline, gets."""

from __future__ import annotations

import base64
import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs

import cv2
import numpy as np
import pytest

from fdd.visualization import write_report
from fdd.visualization.draw import fit_into
from fdd.visualization.report import Row, encode_image
from report_toys import CATEGORIES, assert_self_contained, picture, read_tree, words, write_toy_page


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = write_toy_page(tmp_path_factory.mktemp("page") / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def root(text: str) -> ET.Element:
    return read_tree(text)


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    assert_self_contained(text)


def test_without_a_script_every_picture_is_there_worst_first(root: ET.Element) -> None:
    rows = list(root.iter("article"))
    assert [r.get("data-name") for r in rows] == ["b10.png", "b2.png", "a/c.png", "void.png"]
    for row in rows:
        assert row.get("hidden") is None
        pictures = row.findall(".//noscript//img")
        assert [p.get("alt") for p in pictures] == [
            f"{title}, {row.get('data-name')}" for title in ("Image", "Label")
        ]
        assert {(p.get("width"), p.get("height")) for p in pictures} == {("60", "40")}
    # What only a script can do is not offered without one.
    tools = next(e for e in root.iter() if e.get("id") == "tools")
    assert tools.get("hidden") is not None


def test_rows_carry_what_they_are_sorted_and_filtered_by(root: ET.Element) -> None:
    by_name = {r.get("data-name"): r for r in root.iter("article")}
    assert json.loads(by_name["a/c.png"].get("data-classes")) == {"0": 60.0, "2": None}
    assert json.loads(by_name["b2.png"].get("data-values")) == {"instances": 4.0}
    assert by_name["void.png"].get("data-score") == ""
    assert "no <points>" in words(by_name["void.png"])
    sorts = [e.get("data-sort") for e in root.iter("button") if e.get("data-sort")]
    assert sorts == ["worst", "best", "instances", "name"]  # those that there are figures for


def test_classes_are_worst_first_and_link_to_their_images(root: ET.Element) -> None:
    table = next(e for e in root.iter("table") if e.get("id") == "classes")
    rows = table.findall("tbody/tr")
    assert [r.get("data-class") for r in rows] == ["ядро=1#2", "cell & co", "<ground>"]
    assert [words(cell) for cell in rows[0]] == ["ядро=1#2", "2", "41.2"]
    assert [words(cell) for cell in rows[2]] == ["<ground>", "1", "–"]
    for row in rows:
        href = row.find("th/a").get("href")
        assert parse_qs(href[1:]) == {"class": [row.get("data-class")]}
    assert "Not in these images: unseen." in words(root)
    options = [e for e in root.iter("option") if e.get("value")]
    assert [words(e) for e in options] == ["cell & co (3)", "ядро=1#2 (2)", "<ground> (1)"]


def test_text_around_the_images_is_shown_and_escaped(text: str, root: ET.Element) -> None:
    for part in ("Of a & b", "All <of> them", "runs/<x>.pth", "Training curves"):
        assert part in words(root)
    assert "<of>" not in text and "<x>" not in text and "<points>" not in text
    assert sum(e.tag == "script" for e in root.iter()) == 1


def layer(color: tuple[int, int, int], opacity: int) -> np.ndarray:
    made = np.zeros((40, 60, 4), np.uint8)
    made[:, :30] = (*color, opacity)
    return made


def test_an_image_below_its_panels_is_on_the_page_once(tmp_path: Path) -> None:
    panels = {"A": layer((200, 0, 0), 153), "B": layer((0, 200, 0), 153), "C": picture(3)}
    samples = [{"file_name": "a.png", "image": picture(), "panels": panels}]
    page = write_report(tmp_path / "r.html", "T", {}, samples, CATEGORIES)
    text = page.read_text(encoding="utf-8")
    root = read_tree(text)
    below = next(e.get("style") for e in root.iter("div") if e.get("class") == "panels")
    assert text.count(below.removeprefix("--image:url(").removesuffix(")")) == 1
    assert [i.get("class") for i in root.iter("img")][:3] == ["layer", "layer", None]
    assert next(e for e in root.iter("input") if e.get("id") == "fill").get("value") == "60"


def test_nothing_is_offered_where_no_picture_is_a_layer(root: ET.Element) -> None:
    assert not [e for e in root.iter("input") if e.get("id") == "fill"]


def test_a_reduced_layer_keeps_its_colour_to_the_rim() -> None:
    small = fit_into(layer((200, 100, 40), 153), 7)
    seen = small[small[:, :, 3] > 8].astype(int)
    assert len(seen) and np.abs(seen[:, :3] - (200, 100, 40)).max() <= 2
    assert {0, 153} <= set(small[:, :, 3].ravel().tolist())


def test_a_file_name_cannot_end_the_pictures(tmp_path: Path) -> None:
    name = "</noscript><script>alert(1)</script>'\".png"
    hostile = "'\"><script>"
    sample = {"file_name": name, "panels": {"</noscript>": picture()}, "classes": {0: 1.0}}
    sample |= {"values": {hostile: 2.0}, "warnings": [hostile + "\x07"]}
    page = write_report(tmp_path / "r.html", "t", {}, [sample], CATEGORIES)
    tree = read_tree(page.read_text(encoding="utf-8"))
    (row,) = tree.iter("article")
    assert row.get("data-name") == name and json.loads(row.get("data-classes")) == {"0": 1.0}
    assert json.loads(row.get("data-values")) == {hostile: 2.0}
    assert len(tree.findall(".//noscript//img")) == 1
    assert sum(e.tag == "script" for e in tree.iter()) == 1


def test_a_file_name_that_is_no_utf8_is_shown_as_escapes(tmp_path: Path) -> None:
    sample = {"file_name": os.fsdecode(b"caf\xe9.png"), "panels": {"Image": picture()}}
    page = write_report(tmp_path / "r.html", "T", {}, [sample], CATEGORIES)
    assert r'<h3 class="name">caf\udce9.png</h3>' in page.read_text(encoding="utf-8")


def test_the_score_sorts_where_there_is_no_pq() -> None:
    assert Row({"score": 30.0}, 99).score == 30.0
    assert Row({"score": 30.0, "pq": 70.0}, 99).score == 70.0
    assert Row({"score": float("nan")}, 99).score is None
    assert Row({"pq": 0, "score": 5.0}, 99).score == 0.0


def test_a_failing_sample_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")

    def samples():
        yield {"file_name": "a", "panels": {"A": picture()}}
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_report(path, "t", {}, samples(), CATEGORIES)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_pictures_are_reduced_to_the_side_and_keep_their_shape() -> None:
    for before, after in (((100, 400), (20, 80)), ((500, 1), (80, 1)), ((30, 40), (30, 40))):
        assert fit_into(np.zeros((*before, 3), np.uint8), 80).shape == (*after, 3)
    panels = {"none": np.zeros((0, 4, 3), np.uint8), "wide": np.zeros((100, 400, 3), np.uint8)}
    (shown,) = Row({"panels": panels}, 80).pictures
    assert (shown.title, shown.width, shown.height) == ("wide", 80, 20)


def test_textures_are_smaller_as_webp() -> None:
    noise = picture()
    small, large = encode_image(noise, webp=True), encode_image(noise)
    assert small.startswith(("data:image/webp", large[:14])) and len(small) <= len(large)


@pytest.mark.parametrize("webp", [False, True])
def test_layers_are_kept_without_loss_and_small(webp: bool) -> None:
    made = layer((200, 100, 40), 153)
    made[::7, :, 3] = 255
    url = encode_image(made, webp=webp)
    content = np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8)
    found = cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    np.testing.assert_array_equal(found[found[:, :, 3] > 0], made[made[:, :, 3] > 0])
    np.testing.assert_array_equal(found[:, :, 3], made[:, :, 3])
    assert len(content) < made.size / 20

"""The report in a real browser: order, filter, search, keys, and pictures that wait."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from fdd.visualization import write_report
from headless import BROWSER, FLAGS, browser, needs_browser
from report_toys import CATEGORIES, write_toy_page

pytestmark = needs_browser
WORST = ["b10.png", "b2.png", "a/c.png", "void.png"]
SHOWN = "[...document.querySelectorAll('.row')].filter(r => !r.hidden).map(r => r.dataset.name)"


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    return write_toy_page(tmp_path_factory.mktemp("report") / "отчёт 1.html").as_uri()


@pytest.fixture(scope="module")
def shared():
    with browser() as tab:
        yield tab


@pytest.fixture
def tab(shared, url):
    """The page, freshly loaded without a hash."""
    shared.open("about:blank")
    shared.open(url)
    return shared


def test_the_hash_is_the_state_of_a_page_that_is_opened(url: str, tmp_path: Path) -> None:
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom"]
    link = f"{url}#class={quote('cell & co', safe='')}&sort=best"
    done = subprocess.run([*command, link], capture_output=True, timeout=60)
    rows = re.findall(r'<article ([^>]*data-name="([^"]*)"[^>]*)>', done.stdout.decode())
    assert [name for attributes, name in rows if "hidden" not in attributes] == [
        "b2.png",  # 90 of this class, though 50 in all
        "a/c.png",
        "b10.png",
    ]
    assert [name for attributes, name in rows if "hidden" in attributes] == ["void.png"]


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ("", WORST),
        ("#sort=best", ["a/c.png", "b2.png", "b10.png", "void.png"]),
        ("#sort=name", ["a/c.png", "b2.png", "b10.png", "void.png"]),
        ("#sort=instances", ["b10.png", "b2.png", "a/c.png", "void.png"]),
        ("#q=B", ["b10.png", "b2.png"]),
        ("#class=%D1%8F%D0%B4%D1%80%D0%BE%3D1%232", ["b2.png", "void.png"]),
        ("#class=%3Cground%3E&q=b", []),
        ("#class=nonsense&sort=nonsense", WORST),
        ("#%", WORST),
    ],
)
def test_links_show_what_they_name(shared, url, state: str, names: list[str]) -> None:
    shared.open("about:blank")
    shared.open(url + state)
    assert shared.run(SHOWN) == names


def test_a_click_on_a_class_shows_its_images_worst_first(tab) -> None:
    tab.click("tr[data-class='cell & co'] a")
    assert tab.run(SHOWN) == ["b10.png", "a/c.png", "b2.png"]  # 30, 60, 90 of this class
    assert tab.run("location.hash") == "#class=cell+%26+co"
    assert tab.run("document.getElementById('count').textContent") == (
        "3 of 4 images with cell & co"
    )
    assert tab.run("document.querySelector('.mine').textContent") == "cell & co: label PQ 30.0"
    assert tab.run("document.getElementById('class').value") == "cell & co"
    tab.click("[data-sort='best']")
    assert tab.run(SHOWN) == ["b2.png", "a/c.png", "b10.png"]
    assert tab.run("location.hash") == "#class=cell+%26+co&sort=best"
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.sort)"
    assert tab.run(pressed) == ["best"]
    tab.run("history.back()")
    tab.wait("location.hash === '#class=cell+%26+co'")
    assert tab.run(SHOWN) == ["b10.png", "a/c.png", "b2.png"]
    tab.click("tr.on")  # a second click takes the filter away
    assert tab.run(SHOWN) == WORST
    assert tab.run("document.querySelector('.mine').textContent") == ""


def test_the_list_of_classes_and_show_all(tab) -> None:
    tab.run(
        "(() => { const s = document.getElementById('class'); s.selectedIndex = 2;"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert tab.run(SHOWN) == ["b2.png", "void.png"]
    tab.click("#clear")
    assert tab.run(SHOWN) == WORST
    assert tab.run("document.getElementById('clear').hidden")


def test_keys(tab) -> None:
    tab.press("/", "/")
    for letter in "c.":
        tab.press(letter, letter)
    assert tab.run(SHOWN) == ["a/c.png"] and tab.run("location.hash") == "#q=c."
    tab.press("Escape")
    assert tab.run(SHOWN) == WORST
    assert tab.run("document.activeElement === document.body")
    tab.press("j", "j")
    tab.press("j", "j")
    assert tab.run("document.activeElement.dataset.name") == "b2.png"
    tab.press("k", "k")
    assert tab.run("document.activeElement.dataset.name") == "b10.png"


def test_an_enlarged_picture_walks_by_arrows(tab) -> None:
    caption = "document.querySelector('dialog[open] p')?.textContent"
    tab.wait("document.querySelectorAll('.shot img').length === 8")
    tab.click("#rows .row:nth-child(2) .shot")
    assert tab.run(caption) == "Image, b2.png"
    for key, said in (
        ("ArrowRight", "Label, b2.png"),
        ("ArrowRight", "Image, b2.png"),
        ("ArrowDown", "Image, a/c.png"),
        ("ArrowUp", "Image, b2.png"),
    ):
        tab.press(key)
        assert tab.run(caption) == said
    assert tab.run("document.querySelector('dialog img').src.startsWith('data:image/')")
    tab.press("Escape")
    assert tab.run("document.querySelector('dialog').open") is False


def test_a_column_head_sorts_the_classes(tab) -> None:
    order = "[...document.querySelectorAll('tr[data-class]')].map(r => r.dataset.class)"
    assert tab.run(order) == ["ядро=1#2", "cell & co", "<ground>"]
    tab.click("#classes th:nth-child(2) button")
    assert tab.run(order) == ["<ground>", "ядро=1#2", "cell & co"]
    tab.click("#classes th:nth-child(2) button")
    assert tab.run(order) == ["cell & co", "ядро=1#2", "<ground>"]
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1
    tab.click("#classes th:nth-child(3) button")
    assert tab.run(order) == ["ядро=1#2", "cell & co", "<ground>"]  # without a figure last


def test_nothing_is_asked_of_a_network(tab) -> None:
    tab.wait("document.querySelectorAll('.shot img').length === 8")
    asked = [e for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert {e["params"]["request"]["url"].split(":")[0] for e in asked} <= {"file", "data", "about"}
    assert not [e for e in tab.events if e["method"] == "Runtime.exceptionThrown"]


def test_pictures_wait_until_their_row_is_near(shared, tmp_path: Path) -> None:
    page = write_toy_page(tmp_path / "long.html", repeat=40)
    shared.open(page.as_uri())
    there = "document.querySelectorAll('.shot img').length"
    shared.wait(f"{there} > 0")
    assert shared.run("document.querySelectorAll('.row').length") == 160
    assert shared.run(there) < 80  # of 320
    last = "[...document.querySelectorAll('.row')].at(-1)"
    assert shared.run(f"{last}.querySelectorAll('img').length") == 0
    shared.run(f"{last}.scrollIntoView()")
    shared.wait(f"{last}.querySelectorAll('img').length === 2")
    shared.wait(f"[...{last}.querySelectorAll('img')].every(i => i.complete && i.naturalWidth)")
    # A row that the filter brings up has its pictures, too.
    shared.run("location.hash = '#q=more/39_void'")
    shared.wait(f"{SHOWN}.length === 1")
    shared.wait("document.querySelector('.row:not([hidden]) img')?.naturalWidth === 60")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_scrolls_sideways(tab, width: int) -> None:
    metrics = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 600}
    tab.call("Emulation.setDeviceMetricsOverride", metrics)
    try:
        tab.wait(f"innerWidth === {width}")
        assert tab.run("document.documentElement.scrollWidth") <= width
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")


def test_without_a_script_pictures_show(shared, url) -> None:
    shared.call("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shared.open("about:blank")
        shared.open(url + "#sort=name")
    finally:
        shared.call("Emulation.setScriptExecutionDisabled", {"value": False})
    assert shared.run(SHOWN) == WORST
    shared.wait("document.querySelector('.row img').naturalWidth === 60")
    assert shared.run("getComputedStyle(document.getElementById('tools')).display") == "none"


@pytest.fixture
def layered(shared, tmp_path: Path):
    """A page of one grey image with a fill of 0.6, an outline of 1 and nothing side by side."""
    layer = np.zeros((40, 60, 4), np.uint8)
    layer[:, :20], layer[:, 20:40] = (255, 0, 0, 153), (0, 0, 255, 255)
    image = np.full((40, 60, 3), 100, np.uint8)
    samples = [{"file_name": "a.png", "image": image, "panels": {"A": layer}, "classes": {0: 1.0}}]
    page = write_report(tmp_path / "layers.html", "T", {}, samples, CATEGORIES)
    shared.open("about:blank")
    shared.open(page.as_uri())
    shared.wait("document.querySelector('.row img')?.complete")
    return shared


def seen(tab, selector: str = ".row .shot") -> list[list[int]]:
    return [tab.pixel(selector, share, 0.5) for share in (0.17, 0.5, 0.83)]


def near(found: list[list[int]], expected: list[list[int]]) -> bool:
    return bool(np.abs(np.array(found) - np.array(expected)).max() <= 6)


FILLED = [[193, 40, 40], [0, 0, 255], [100, 100, 100]]
OUTLINES = [[100, 100, 100], [0, 0, 255], [100, 100, 100]]


def test_the_reader_chooses_how_much_the_colours_hide(layered) -> None:
    assert near(seen(layered), FILLED)
    layered.press("o", "o")
    assert near(seen(layered), OUTLINES)
    assert layered.run("location.hash") == "#fill=0"
    layered.press("o", "o")
    assert near(seen(layered), FILLED) and layered.run("location.hash") == ""
    layered.run(
        "(() => { const f = document.getElementById('fill'); f.value = 100;"
        "f.dispatchEvent(new Event('input')); f.dispatchEvent(new Event('change')); })()"
    )
    assert near(seen(layered), [[255, 0, 0], [0, 0, 255], [100, 100, 100]])
    assert layered.run("location.hash") == "#fill=100"


def test_an_enlarged_layer_lies_over_its_image(layered) -> None:
    layered.click(".row .shot")
    layered.wait("document.querySelector('dialog[open] img')?.complete")
    assert near(seen(layered, "dialog img"), FILLED)
    layered.press("o", "o")
    assert near(seen(layered, "dialog img"), OUTLINES)
    layered.press("Escape")


def test_an_enlarged_wide_picture_and_its_layer_stay_together(shared, tmp_path: Path) -> None:
    """One part in nine of image and layer is bright: nothing of them may part."""
    image, layer = np.zeros((60, 360, 3), np.uint8), np.zeros((60, 360, 4), np.uint8)
    image[20:40, 120:240] = 200
    layer[20:40, 120:240] = (255, 0, 0, 255)
    samples = [{"file_name": "a.png", "image": image, "panels": {"A": layer}, "classes": {0: 1.0}}]
    page = write_report(tmp_path / "wide.html", "T", {}, samples, CATEGORIES)
    shared.open("about:blank")
    shared.open(page.as_uri())
    shared.wait("document.querySelector('.row img')?.complete")
    shared.click(".row .shot")
    shared.wait("document.querySelector('dialog[open] img')?.complete")
    places = [(x / 20, y / 20) for x in range(1, 20, 2) for y in range(1, 20, 2)]
    colors = [shared.pixel("dialog img", x, y) for x, y in places]
    assert any(color[0] > 240 for color in colors)
    grey = [c for c in colors if max(c) - min(c) < 20 and 150 < min(c) < 230]
    assert not grey, "the image looks out from below its layer"
    shared.press("Escape")


def test_the_slider_leaves_the_reader_where_he_is(shared, tmp_path: Path) -> None:
    layer = np.full((40, 60, 4), 153, np.uint8)
    samples = [
        {
            "file_name": f"{n:02d}.png",
            "pq": float(n),
            "image": layer[:, :, :3],
            "panels": {"A": layer},
            "classes": {0: 1.0},
        }
        for n in range(12)
    ]
    page = write_report(tmp_path / "many.html", "T", {}, samples, CATEGORIES)
    shared.open("about:blank")
    shared.open(page.as_uri())
    for _ in range(5):
        shared.press("j", "j")
    focused = "document.activeElement.dataset.name"
    in_view = (
        "(() => { const b = document.activeElement.getBoundingClientRect();"
        "return b.bottom > 0 && b.top < innerHeight; })()"
    )
    assert shared.run(focused) == "04.png" and shared.run(in_view)
    shared.press("o", "o")
    assert shared.run("location.hash") == "#fill=0"
    assert shared.run(focused) == "04.png" and shared.run(in_view)


def test_without_a_script_layers_lie_over_their_image(shared, layered) -> None:
    url = shared.run("location.href")
    shared.call("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shared.open("about:blank")
        shared.open(url)
        shared.wait("document.querySelector('.row img')?.complete")
        assert near(seen(shared), FILLED)
    finally:
        shared.call("Emulation.setScriptExecutionDisabled", {"value": False})

"""The annotation page in a real browser: clicks, keys, undo, two windows, a server that goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotate_toys import (
    CELL,
    GROUND,
    HEIGHT,
    NAMES,
    NUCLEUS,
    TOKEN,
    WIDTH,
    Client,
    ToyWorkshop,
    begin,
    serving,
)
from fdd.annotate.server import AnnotationServer, AnnotationSession
from fdd.annotate.shelf import ModelShelf
from fdd.annotate.start import open_dataset
from fdd.annotate.workshop import Workshop
from fdd.inference.trained_model import load_trained
from fdd.points.format import read_points
from headless import Tab, browser, needs_browser
from labels_toys import write_images as write_labels_toy
from labels_toys import write_run

pytestmark = [needs_browser, pytest.mark.slow]
LONG = 60  # seconds, of a machine that has other things to do
CTRL, SHIFT, ALT = 2, 8, 1


class Page:
    """The page in a tab, by what its user does."""

    def __init__(self, tab: Tab, server: AnnotationServer) -> None:
        self.tab, self.server, self.client = tab, server, Client(server)

    def open(self) -> Page:
        self.tab.open("about:blank")
        self.tab.open(self.server.url)
        self.loaded()
        return self

    def loaded(self, index: int = 0) -> None:
        self.until(f"document.body.dataset.photo === '{index}' && document.body.dataset.revision")

    def until(self, script: str) -> None:
        self.tab.wait(script, LONG)

    def state(self, index: int = 0) -> list[tuple[int, list[list[float]]]]:
        """Class and points of each segment, as the server has them."""
        _, state, _ = self.client.get(f"/api/images/{index}?parts=")
        return [(s["category_id"], s["points"]) for s in state["segments"]]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the image is in the window."""
        view = json.loads(self.tab.run("document.getElementById('overlay').dataset.view"))
        box = self.tab.run(
            "(() => { const b = document.getElementById('overlay').getBoundingClientRect();"
            "return [b.x, b.y]; })()"
        )
        return box[0] + view["x"] + x * view["scale"], box[1] + view["y"] + y * view["scale"]

    def mouse(
        self, kind: str, x: float, y: float, modifiers: int = 0, button: str = "left"
    ) -> None:
        params = {"type": f"mouse{kind}", "x": x, "y": y, "button": button, "clickCount": 1}
        self.tab.call("Input.dispatchMouseEvent", params | {"modifiers": modifiers})

    def click(self, x: float, y: float, modifiers: int = 0) -> None:
        place = self.at(x, y)
        self.mouse("Pressed", *place, modifiers)
        self.mouse("Released", *place, modifiers)

    def drag(self, start: tuple[float, float], end: tuple[float, float], button: str) -> None:
        a, b = self.at(*start), self.at(*end)
        self.mouse("Pressed", *a, button=button)
        for share in (0.5, 1):
            middle = [u + share * (v - u) for u, v in zip(a, b, strict=True)]
            self.mouse("Moved", *middle, button=button)
        self.mouse("Released", *b, button=button)

    def press(self, key: str, modifiers: int = 0) -> None:
        params = {"key": key, "modifiers": modifiers}
        if key.isdigit():
            params["code"] = f"Digit{key}"
        self.tab.call("Input.dispatchKeyEvent", {"type": "keyDown", **params})
        self.tab.call("Input.dispatchKeyEvent", {"type": "keyUp", **params})

    def saved(self) -> None:
        self.until("document.getElementById('saved').dataset.state === 'saved'")

    def said(self, name: str) -> str:
        return self.tab.run(f"document.getElementById('{name}').textContent")

    def color(self, x: float, y: float) -> int:
        """How far from grey the reader sees a place of the image."""
        view = json.loads(self.tab.run("document.getElementById('overlay').dataset.view"))
        size = self.tab.run(
            "[document.getElementById('overlay').clientWidth,"
            "document.getElementById('overlay').clientHeight]"
        )
        shares = (
            (view[axis] + at * view["scale"]) / side
            for axis, at, side in zip("xy", (x, y), size, strict=True)
        )
        pixel = self.tab.pixel("#overlay", *shares)
        return max(pixel) - min(pixel)

    def rows(self) -> list[str]:
        return self.tab.run(
            "[...document.querySelectorAll('#segments .row')].map(r => r.textContent)"
        )


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as found:
        yield found


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return begin(tmp_path)


@pytest.fixture
def page(tab: Tab, dataset: Path) -> Iterator[Page]:
    with serving(dataset) as server:
        yield Page(tab, server).open()
        problems = [e for e in tab.events if e["method"] == "Runtime.exceptionThrown"]
        assert not problems, problems
        tab.open("about:blank")


def rounded(points: list[list[float]]) -> list[list[int]]:
    return [[round(x), round(y)] for x, y in points]


def test_clicks_make_segments_and_the_label_is_shown(page: Page) -> None:
    page.click(20, 40)
    page.click(30, 20)  # of the same thing
    page.press("n")
    page.click(60, 40)
    page.press("3")
    page.click(100, 40)
    page.press("3")
    page.click(110, 10)  # stuff of a class belongs together
    page.saved()
    assert [(c, rounded(p)) for c, p in page.state()] == [
        (CELL, [[20, 40], [30, 20]]),
        (CELL, [[60, 40]]),
        (GROUND, [[100, 40], [110, 10]]),
    ]
    assert page.rows() == ["cell 12 points", "cell 21 point", "ground2 points"]
    page.until("document.body.dataset.label === document.body.dataset.revision")
    # Grey below, the colour of the label above it.
    assert page.color(25, 60) > 20
    page.press("l")
    assert page.color(25, 60) < 5


def test_fast_clicks_are_all_kept_in_order(page: Page) -> None:
    for n in range(12):
        page.click(8 * n + 5, 30)
    page.saved()
    assert [(c, rounded(p)) for c, p in page.state()] == [
        (CELL, [[8 * n + 5, 30] for n in range(12)])
    ]


def test_one_point_a_thing(page: Page) -> None:
    page.press("t")
    for x in (20, 50, 80):
        page.click(x, 30)
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[20, 30]], [[50, 30]], [[80, 30]]]


def test_undo_and_redo(page: Page) -> None:
    page.click(20, 40)
    page.click(30, 20)
    page.saved()
    page.press("z", CTRL)
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[20, 40]]]
    page.press("y", CTRL)
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[20, 40], [30, 20]]]
    page.press("z", CTRL)
    page.press("z", CTRL)
    page.saved()
    assert page.state() == []
    page.until("document.getElementById('undo').disabled")
    page.tab.click("#redo")
    page.saved()
    assert len(page.state()) == 1


def test_points_are_moved_and_deleted(page: Page) -> None:
    page.click(20, 40)
    page.click(60, 40)
    page.saved()
    page.drag((60, 40), (90, 60), "left")
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[20, 40], [90, 60]]]
    page.click(20, 40)  # selects the point
    assert page.said("segment-name") == "cell 1, 1 of 2 points"
    page.press("Delete")
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[90, 60]]]
    page.press("Escape")
    page.press("]")
    page.press("Delete")  # no point is selected: the segment
    page.saved()
    assert page.state() == []


def test_class_merge_and_split(page: Page) -> None:
    page.click(20, 40)
    page.click(40, 40)
    page.press("n")
    page.click(80, 40)
    page.saved()
    page.press("2", SHIFT)
    page.saved()
    assert [c for c, _ in page.state()] == [CELL, NUCLEUS]
    page.press("m")
    page.click(20, 40)
    page.saved()
    assert [(c, rounded(p)) for c, p in page.state()] == [(CELL, [[20, 40], [40, 40], [80, 40]])]
    page.click(40, 40)
    page.click(80, 40, SHIFT)
    page.tab.click("#split")
    page.saved()
    assert [(c, rounded(p)) for c, p in page.state()] == [
        (CELL, [[20, 40]]),
        (CELL, [[40, 40], [80, 40]]),
    ]


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.press("2")
    for _ in range(3):
        page.press("ArrowLeft")
    page.press("Enter")
    page.saved()
    ((category, (point,)),) = page.state()
    assert category == NUCLEUS and point[0] < WIDTH / 2 - 1 and abs(point[1] - HEIGHT / 2) < 1
    page.press("ArrowUp")
    page.press("ArrowUp")
    page.press("ArrowUp")
    page.press("Enter")
    page.saved()
    assert len(page.state()[0][1]) == 2 and page.state()[0][1][1][1] < HEIGHT / 2 - 1
    page.press("PageDown")
    page.loaded(1)
    page.press("/")
    assert page.tab.run("document.activeElement.id") == "search"
    page.press("Escape")
    page.press("PageUp")
    page.loaded(0)
    page.press("]")
    page.press("Delete")
    page.saved()
    assert page.state() == []
    page.press("?")
    assert page.tab.run("document.getElementById('keys').open")


def strokes(page: Page) -> list[dict[str, object]]:
    return page.client.get("/api/images/0?parts=")[1]["void"]


def test_the_void_brush_paints_and_removes_strokes(page: Page) -> None:
    page.click(20, 40)
    page.saved()
    page.until("document.body.dataset.label === document.body.dataset.revision")
    assert page.color(70, 20) > 20
    page.press("v")
    page.until("!document.getElementById('void-tools').hidden")
    assert "ignored" in page.said("next-click")
    page.drag((60, 20), (100, 20), "left")
    page.saved()
    (stroke,) = strokes(page)
    line = stroke["line"]
    assert [round(v) for v in (*line[0], *line[-1])] == [60, 20, 100, 20]
    view = json.loads(page.tab.run("document.getElementById('overlay').dataset.view"))
    assert stroke["width"] == pytest.approx(24 / view["scale"], rel=0.02)
    page.until("document.body.dataset.label === document.body.dataset.revision")
    assert page.color(70, 20) < 20, "neither labelled nor coloured"
    page.press("]")
    page.tab.run("document.getElementById('overlay').focus()")
    page.drag((20, 40), (20, 42), "left")
    page.saved()
    assert len(strokes(page)) == 2 and strokes(page)[1]["width"] > stroke["width"]
    assert page.state() == [(CELL, [[pytest.approx(20, abs=1), pytest.approx(40, abs=1)]])]
    page.press("z", CTRL)
    page.saved()
    assert strokes(page) == [stroke]
    page.tab.click("#void-remove")
    page.drag((80, 40), (80, 21), "left")  # over the middle of it
    page.saved()
    assert strokes(page) == []
    page.press("Escape")
    page.until("document.getElementById('void-tools').hidden")
    page.click(60, 40)
    page.saved()
    assert sum(len(points) for _, points in page.state()) == 2


def test_the_void_brush_with_the_keyboard_alone(page: Page) -> None:
    page.press("ArrowRight")
    page.press("v")
    page.press("Enter")
    page.saved()
    assert len(strokes(page)) == 1
    page.press("Escape")
    page.press("Enter")
    page.saved()
    assert page.state() == [], "no point is put there"
    assert "void" in page.said("problem-text")


def test_a_class_is_added_and_seen_by_the_other_window(page: Page) -> None:
    page.tab.click("#add-class")
    page.until("document.activeElement.id === 'new-class-name'")
    page.tab.call("Input.insertText", {"text": "dog 7"})
    page.press("n")  # a letter of a name now, not a key of the page
    page.tab.run("document.getElementById('new-class-name').value = 'dog 7'")
    page.tab.run("document.getElementById('new-class').requestSubmit()")
    page.until(
        "[...document.querySelectorAll('#classes .name')].some(n => n.textContent === 'dog 7')"
    )
    page.until("document.getElementById('new-class').hidden")
    page.click(20, 40)
    page.saved()
    ((new, points),) = page.state()
    assert new not in (CELL, NUCLEUS, GROUND) and rounded(points) == [[20, 40]]
    assert page.rows() == ["dog 7 11 point"]
    # As if another window had added one and used it.
    status, answer, _ = page.client.post("/api/classes", {"name": "sea", "isthing": False})
    assert status == 200
    _, state, _ = page.client.get("/api/images/0?parts=")
    action = {"kind": "add", "x": 90, "y": 9, "segment": None, "category_id": answer["id"]}
    body = {"revision": state["revision"], "action": action}
    assert page.client.post("/api/images/0/edit", body)[0] == 200
    page.until("document.querySelectorAll('#segments .row').length === 2")
    assert page.rows()[1] == "sea1 point"
    page.tab.click("#add-class")
    page.press("Escape")
    page.until("document.getElementById('new-class').hidden")


def test_panels_follow_the_width_of_the_window_and_what_was_chosen(page: Page) -> None:
    def width(pixels: int) -> None:
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page.tab.call("Emulation.setDeviceMetricsOverride", size)
        page.until(f"innerWidth === {pixels}")

    def panels() -> list[bool]:
        return page.tab.run(
            "['images', 'details'].map(n => document.getElementById(n).offsetWidth > 0)"
        )

    def until(*wanted: bool) -> None:
        shown = str(list(wanted)).lower().replace(" ", "")
        page.until(
            "JSON.stringify(['images', 'details'].map(n => "
            f"document.getElementById(n).offsetWidth > 0)) === '{shown}'"
        )

    try:
        width(1440)
        until(True, True)
        width(600)
        until(False, False)
        page.press("i")
        until(True, False)
        page.tab.open("about:blank")
        page.tab.open(page.server.url)  # opened while it is narrow
        page.loaded()
        assert panels() == [False, False]
        width(1440)
        until(True, True)
        page.press("d")
        until(True, False)
        width(900)
        width(1440)
        until(True, False)
        page.press("d")
    finally:
        page.tab.call("Emulation.clearDeviceMetricsOverride")


def test_a_reload_shows_the_same(page: Page) -> None:
    page.press("PageDown")
    page.loaded(1)
    page.click(20, 40)
    page.saved()
    page.tab.run("void (window.isOld = true)")
    page.tab.call("Page.reload")
    page.until("!window.isOld")
    page.until("document.querySelectorAll('#segments .row').length === 1")
    assert page.said("image-number") == "2 of 3"
    assert page.tab.run("location.search") == ""  # the token has left the address
    page.press("z", CTRL)
    page.saved()
    page.until("document.querySelectorAll('#segments .row').length === 0")
    assert page.state(1) == []


def test_names_with_markup_are_text(page: Page) -> None:
    shown = page.tab.run("[...document.querySelectorAll('.image .name')].map(n => n.textContent)")
    assert shown == sorted(NAMES)
    assert page.tab.run("document.querySelectorAll('img, main script').length") == 0
    page.press("PageDown")
    page.loaded(1)
    assert page.said("image-name") == sorted(NAMES)[1]


def test_two_windows_do_not_overwrite_each_other(page: Page) -> None:
    page.click(20, 40)
    page.saved()
    # The other window.
    _, state, _ = page.client.get("/api/images/0?parts=")
    page.client.add(0, state["revision"], 100.5, 70.5, category_id=NUCLEUS)
    page.press("n")
    page.click(60, 40)
    page.until("document.querySelectorAll('#segments .row').length === 2")
    page.saved()
    told = page.said("problem-text")
    if told:  # unless the page had seen it by itself before the click
        assert "nother window" in told
        assert [rounded(p) for _, p in page.state()] == [[[20, 40]], [[100, 70]]]
    page.press("n")
    page.click(60, 60)
    page.saved()
    assert [60, 60] in [rounded(p)[-1] for _, p in page.state()]
    assert [100, 70] in [rounded(p)[0] for _, p in page.state()]


def test_a_change_by_another_window_is_seen_without_a_click(page: Page) -> None:
    page.client.add(0, 0, 100.5, 70.5)
    page.until("document.querySelectorAll('#segments .row').length === 1")
    assert page.tab.run("document.getElementById('problem').hidden")


def test_clicks_wait_for_a_server_that_has_gone(tab: Tab, dataset: Path) -> None:
    with serving(dataset) as server:
        page = Page(tab, server).open()
        page.click(20, 40)
        page.saved()
        port = server.server_port
    page.click(40, 40)
    page.until("document.getElementById('saved').dataset.state === 'lost'")
    assert "your last click is not saved" in page.said("problem-text")
    assert page.said("saved") == "Not saved"
    page.click(60, 40)
    with serving(dataset, port=port) as server:
        page.server, page.client = server, Client(server)
        page.saved()
        assert page.tab.run("document.getElementById('problem').hidden")
        assert [rounded(p) for _, p in page.state()] == [[[20, 40], [40, 40], [60, 40]]]
        tab.open("about:blank")


def test_a_server_with_another_token_asks_to_be_opened(tab: Tab, dataset: Path) -> None:
    with serving(dataset, token="one") as server:
        page = Page(tab, server).open()
        port = server.server_port
    with serving(dataset, port=port, token="two") as server:
        page.click(40, 40)
        page.until("document.getElementById('saved').dataset.state === 'lost'")
        page.until("document.getElementById('problem-text').textContent.includes('fdd annotate')")
        # Its address is opened in another tab, which has the same cookies.
        # In this process, connections to the first server are still open, to be told that it ended.
        tab.run(
            "(async () => { for (let n = 0; n < 20; n++) if ((await fetch("
            f"{server.url!r})).ok) return; }})()"
        )
        page.saved()
        tab.open("about:blank")
    assert len(read_points(dataset.with_name("points.json")).images[0].segments) == 1


def test_hints_are_shown_with_their_reason(page: Page) -> None:
    page.click(20, 40)
    page.saved()
    page.press("h")
    page.press("g")
    page.until("document.getElementById('next-click').textContent.includes('far from <all>')")
    page.press("Enter")  # the cross is there
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[20, 40], [60, 40]]]


def test_zoom_and_pan(page: Page) -> None:
    before = page.at(60, 40)
    page.press("+")
    page.until("JSON.parse(document.getElementById('overlay').dataset.view).scale > 0")
    page.drag((60, 40), (70, 50), "middle")
    page.click(60, 40)
    page.saved()
    assert [rounded(p) for _, p in page.state()] == [[[60, 40]]]
    page.press("0")
    page.tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.at(60, 40) == pytest.approx(before, abs=0.01)


def test_search_and_filter(page: Page) -> None:
    page.click(20, 40)
    page.saved()
    names = "[...document.querySelectorAll('.image .name')].map(n => n.textContent)"
    page.tab.run(
        "(() => { const f = document.getElementById('filter'); f.value = 'without';"
        "f.dispatchEvent(new Event('change')); })()"
    )
    assert page.tab.run(names) == sorted(NAMES)[1:]
    page.press("/")
    for letter in "onerror":
        page.tab.press(letter, letter)
    assert page.tab.run(names) == [sorted(NAMES)[1]]
    assert page.said("progress") == "1 of 3 images with points"


def shown_order(page: Page) -> list[int]:
    return page.tab.run(
        "[...document.querySelectorAll('.image[data-index]')].map(n => Number(n.dataset.index))"
    )


def choose_order(page: Page, which: str) -> None:
    page.tab.run(
        "(() => { const s = document.getElementById('order');"
        f"s.value = {which!r}; s.dispatchEvent(new Event('change')); }})()"
    )


def orders_offered(page: Page) -> list[str]:
    return page.tab.run(
        "[...document.getElementById('order').options].filter(o => !o.disabled).map(o => o.value)"
    )


def test_the_order_of_the_list_and_label_scores(tab: Tab, dataset: Path) -> None:
    workshop = ToyWorkshop({}, {})
    with serving(dataset, workshop=workshop) as server:
        page = Page(tab, server).open()
        assert orders_offered(page) == ["listed", "fewest"]
        for index, times in ((0, 2), (1, 1)):
            for n in range(times):
                page.client.add(index, n, 20.5 + 30 * n, 40.5)
        workshop.given, workshop.gains = {0: 81.3, 1: 0.0}, {0: 0.5, 1: 0.2}
        page.tab.call("Page.reload")
        page.until("document.querySelectorAll('.image .score i').length === 2")
        assert orders_offered(page) == ["listed", "fewest", "gain", "worst"]
        scores = "[...document.querySelectorAll('.image .score')].map(n => n.textContent)"
        assert page.tab.run(scores) == ["81", "0", ""]
        assert "81.3" in page.tab.run("document.querySelector('.image .score').title")
        assert shown_order(page) == [0, 1, 2]
        for which, expected in (("fewest", [2, 1, 0]), ("gain", [2, 0, 1]), ("worst", [1, 0, 2])):
            choose_order(page, which)
            assert shown_order(page) == expected, which
        # The keys follow the list: 0 is in its middle.
        page.press("PageUp")
        page.loaded(1)
        assert page.tab.run("document.getElementById('previous').disabled")
        # A new score does not carry the image away that is worked on; a click does not, either.
        workshop.given = {0: 81.3, 1: 99.0}
        page.until("document.querySelectorAll('.image .score')[0].textContent === '99'")
        assert shown_order(page) == [1, 0, 2]
        choose_order(page, "fewest")
        assert shown_order(page) == [2, 1, 0]
        page.click(60, 60)
        page.click(90, 60)
        page.saved()
        assert shown_order(page) == [2, 1, 0]
        page.press("PageDown")
        page.loaded(0)
        assert shown_order(page) == [2, 0, 1]
        tab.open("about:blank")


def test_without_scores_images_are_ordered_by_their_points(tab: Tab, dataset: Path) -> None:
    workshop = ToyWorkshop(None, {})
    with serving(dataset, workshop=workshop) as server:
        page = Page(tab, server).open()
        page.click(20, 40)
        page.saved()
        assert orders_offered(page) == ["listed", "fewest"] and workshop.asked == 1
        choose_order(page, "fewest")
        assert shown_order(page) == [1, 2, 0]
        page.press("PageUp")
        page.loaded(2)
        assert page.tab.run("document.querySelectorAll('.score').length") == 0
        tab.open("about:blank")


def test_nothing_is_asked_of_another_address(page: Page) -> None:
    asked = [e for e in page.tab.events if e["method"] == "Network.requestWillBeSent"]
    places = {e["params"]["request"]["url"].split("?")[0].rsplit("/", 1)[0] for e in asked}
    assert all(place.startswith(f"http://127.0.0.1:{page.server.server_port}") for place in places)


def test_every_button_says_what_it_does_and_with_which_key(page: Page) -> None:
    silent = page.tab.run(
        "[...document.querySelectorAll('button')]"
        ".filter(b => !b.title && b.id !== 'problem-button')"
        ".map(b => b.outerHTML)"
    )
    assert silent == []


def test_training_on_from_the_page(tab: Tab, tmp_path: Path) -> None:
    write_labels_toy(tmp_path)
    write_run(tmp_path / "first", tmp_path / "toy.yaml", {"MODEL.FDD.CLICKS.RESIDUAL": True})
    opened = open_dataset(tmp_path / "toy.yaml")
    run = str(tmp_path / "first")
    shelf = ModelShelf(opened.store.categories, load_trained(run, full=True), path=run)
    session = AnnotationSession(opened, shelf, workshop=Workshop(opened, shelf, steps=2))
    with AnnotationServer(session, 0, token=TOKEN) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        page = Page(tab, server).open()
        page.until("document.body.dataset.label")
        assert page.tab.run("!document.getElementById('work').hidden")
        page.tab.click("#train")
        page.until("!document.getElementById('stop').hidden")
        page.until("document.getElementById('model').options.length === 2")
        page.until("document.getElementById('model').value === '1'")
        page.until("document.getElementById('work-said').textContent.includes('training_1')")
        page.click(20, 20)  # the new weights answer
        page.saved()
        page.until("document.getElementById('made').textContent.startsWith('learned')")
        page.tab.run(
            "(() => { const s = document.getElementById('model'); s.value = '0';"
            "s.dispatchEvent(new Event('change')); })()"
        )
        page.until("document.getElementById('model').title.endsWith('first')")
        page.until("!document.getElementById('export').hidden")
        page.tab.click("#export")
        page.until("document.getElementById('work-said').textContent.includes('export_1')")
        assert (opened.work / "export_1" / "labels" / "panoptic.json").exists()
        server.shutdown()
        thread.join()
    session.close()
    opened.store.close()

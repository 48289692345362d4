"""The server of the annotation page: what it answers, and whom it answers."""

from __future__ import annotations

import base64
import io
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from annotate_toys import CELL, GROUND, HEIGHT, NAMES, TOKEN, WIDTH, Client, begin, serving
from fdd.annotate.page import KEYS
from fdd.annotate.server import MAX_BODY, AnnotationServer
from fdd.annotate.store import PointsChanged
from fdd.points.dataset_file import read_dataset_file
from fdd.points.format import read_points


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return begin(tmp_path)


@pytest.fixture
def client(dataset: Path):
    with serving(dataset) as server:
        yield Client(server)


def read_index(png: str) -> np.ndarray:
    """Position among the segments, of each pixel; -1 none."""
    rgb = np.array(Image.open(io.BytesIO(base64.b64decode(png)))).astype(int)
    return rgb @ [1, 256, 65536] - 1


def points_on_disk(dataset: Path, index: int = 0) -> list[tuple[float, float]]:
    image = read_points(dataset.with_name("points.json")).images[index]
    return [p for segment in image.segments for p in segment.points]


def test_the_set_and_its_images(client: Client) -> None:
    status, found, _ = client.get("/api/set")
    assert status == 200
    assert [image["name"] for image in found["images"]] == sorted(NAMES)
    assert found["images"][0] | {"name": ""} == {
        "name": "",
        "width": WIDTH,
        "height": HEIGHT,
        "points": 0,
    }
    assert [(c["name"], c["isthing"]) for c in found["classes"]] == [
        ("cell", True),
        ("nucleus", True),
        ("ground", False),
    ]
    assert len({tuple(c["color"]) for c in found["classes"]}) == 3
    status, state, _ = client.get("/api/images/0")
    assert (status, state["revision"], state["segments"], state["label"]) == (200, 0, [], None)
    assert state["problem"] is None


def test_a_click_is_answered_by_the_label_of_the_whole_image(client: Client) -> None:
    status, state = client.add(0, 0, 20.5, 40.5)
    assert status == 200 and state["can_undo"] and not state["can_redo"]
    status, state = client.add(0, state["revision"], 100.5, 40.5, category_id=GROUND)
    assert [(s["category_id"], s["points"]) for s in state["segments"]] == [
        (CELL, [[20.5, 40.5]]),
        (GROUND, [[100.5, 40.5]]),
    ]
    index = read_index(state["label"]["png"])
    assert index.shape == (HEIGHT, WIDTH) and index.min() == 0
    assert (index[:, :58] == 0).all() and (index[:, 63:] == 1).all()
    assert state["label"]["maker"] == "toy" and state["label"]["milliseconds"] == 1
    confidence = Image.open(io.BytesIO(base64.b64decode(state["label"]["confidence"])))
    assert confidence.mode == "L" and np.array(confidence).max() == 200
    _, again, _ = client.get("/api/images/0")
    assert again["segments"] == state["segments"] and again["label"]["png"]
    assert [hint["reason"] for hint in again["suggestions"]] == ["far from <all> points"]
    _, alone, _ = client.get("/api/images/0?parts=")
    assert "label" not in alone and "suggestions" not in alone


def test_a_label_of_more_than_255_segments_has_24_bits(client: Client) -> None:
    revision = 0
    for n in range(300):
        body = {
            "revision": revision,
            "action": {
                "kind": "add",
                "x": n % 30 * 4 + 0.5,
                "y": n // 30 * 8 + 0.5,
                "segment": None,
                "category_id": CELL,
            },
            "label": n == 299,
        }
        _, state, _ = client.post("/api/images/0/edit", body)
        assert ("label" in state) == (n == 299)
        revision = state["revision"]
    index = read_index(state["label"]["png"])
    assert set(np.unique(index)) == set(range(300))
    assert index[72, 116] == 299 and len({tuple(s["color"]) for s in state["segments"]}) == 300


def test_the_next_image_is_read_ahead(client: Client) -> None:
    labeller, paths = client.server.session.labeller, client.server.session.paths
    for ahead in ("1", "99", "-1", "x", ""):
        assert client.get(f"/api/images/0?ahead={ahead}")[0] == 200
    assert labeller.went_ahead == [paths[1]]  # type: ignore[attr-defined]


def test_an_edit_on_an_old_revision_is_refused_with_the_state(client: Client) -> None:
    _, first = client.add(0, 0, 10, 10)
    status, refused = client.add(0, 0, 50, 50)
    assert status == 409 and "another window" in refused["error"]
    assert refused["state"]["revision"] == first["revision"]
    assert refused["state"]["segments"] == first["segments"]
    assert client.add(0, first["revision"], 50, 50)[0] == 200


def test_an_edit_that_is_sent_again_is_made_once(client: Client) -> None:
    action = {"kind": "add", "x": 5, "y": 6, "segment": None, "category_id": CELL}
    body = {"revision": 0, "action": action, "key": "abc"}
    _, first, _ = client.post("/api/images/1/edit", body)
    status, second, _ = client.post("/api/images/1/edit", body)
    assert status == 200 and second["segments"] == first["segments"]
    # Not with another key, and not once something else has happened.
    assert client.post("/api/images/1/edit", body | {"key": "abd"})[0] == 409
    client.add(1, first["revision"], 7, 8)
    assert client.post("/api/images/1/edit", body)[0] == 409


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b"[" * 100_000,
        b'{"revision": 0}',
        b'{"revision": "0", "action": {"kind": "undo"}}',
        b'{"revision": true, "action": {"kind": "undo"}}',
        b'{"revision": 0, "action": ["undo"]}',
        b'{"revision": 0, "action": {"kind": "undo"}}',  # there is nothing to undo
        b'{"revision": 0, "action": {"kind": "explode"}}',
        b'{"revision": 0, "action": {}}',
        b'{"revision": 0, "action": {"kind": "add", "x": NaN, "y": 1, "segment": null, '
        b'"category_id": 1}}',
        b'{"revision": 0, "action": {"kind": "add", "x": 1e400, "y": 1, "segment": null, '
        b'"category_id": 1}}',
        b'{"revision": 0, "action": {"kind": "add", "x": 500, "y": 1, "segment": null, '
        b'"category_id": 1}}',
        b'{"revision": 0, "action": {"kind": "add", "x": "1", "y": 1, "segment": null, '
        b'"category_id": 1}}',
        b'{"revision": 0, "action": {"kind": "add", "x": 1, "y": 1, "segment": null, '
        b'"category_id": 77}}',
        b'{"revision": 0, "action": {"kind": "add", "x": 1, "y": 1, "segment": 9, '
        b'"category_id": 1}}',
    ],
)
def test_nonsense_is_refused_with_a_message_and_changes_nothing(client: Client, body) -> None:
    status, answer, _ = client.post("/api/images/0/edit", body)
    assert status == 400 and answer["error"]
    _, state, _ = client.get("/api/images/0")
    assert state["revision"] == 0 and state["segments"] == []


def test_large_and_endless_bodies_are_not_read(client: Client) -> None:
    path = "/api/images/0/edit"
    assert client.post(path, b"{}", Content_Length=str(MAX_BODY + 1))[0] == 413
    assert client.post(path, b"{}", Content_Length="9" * 50)[0] == 413
    for length in ("-1", "1e3", "", "²"):
        try:
            assert client.post(path, b"{}", Content_Length=length)[0] == 411
        except UnicodeEncodeError:
            assert length == "²"
    chunked = client.post(path, b"2\r\n{}\r\n0\r\n\r\n", Transfer_Encoding="chunked")
    assert chunked[0] == 411
    assert client.get("/api/set")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/images/99", 404),
        ("/api/images/999999999999", 404),
        ("/api/images/-1", 404),
        ("/api/images/0/nothing", 404),
        ("/api/images/0/edit", 405),
        ("/static/../server.py", 404),
        ("/static/%2e%2e/server.py", 404),
        ("/static/page.html", 404),
        ("/etc/passwd", 404),
        ("//127.0.0.1/api/set", 404),
    ],
)
def test_other_paths(client: Client, path: str, status: int) -> None:
    found, answer, _ = client.get(path)
    assert found == status and answer["error"]


def test_methods_that_there_are_not(client: Client) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert client.ask(method, "/api/set")[0] == 501
    assert client.post("/api/images/0/picture", {})[0] == 405
    assert client.post("/api/set", {})[0] == 404


def test_the_token_becomes_a_cookie_and_leaves_the_address(client: Client) -> None:
    status, _, headers = client.get(f"/?token={TOKEN}", Cookie=None)
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get("/", Cookie=cookie.split(";")[0])[0] == 200
    assert client.server.url.endswith(f"/?token={TOKEN}")


@pytest.mark.parametrize("cookie", [None, "", "x", "fdd_annotate=the-token", '="', "{name}=тест"])
def test_nothing_is_told_without_the_token(client: Client, cookie: str | None) -> None:
    if cookie is not None:
        cookie = cookie.replace("{name}", client.server.cookie).encode().decode("latin-1")
    for path in ("/", "/api/set", "/api/images/0", "/api/images/0/picture", "/static/main.js"):
        status, answer, _ = client.get(path, Cookie=cookie)
        assert status == 403 and "fdd annotate" in answer["error"]
        assert TOKEN not in json.dumps(answer)
    assert client.get("/?token=wrong", Cookie=None)[0] == 403
    assert client.post("/api/save", {}, Cookie=cookie)[0] == 403


def test_tokens_of_two_servers_differ(dataset: Path) -> None:
    tokens = set()
    for _ in range(2):
        with AnnotationServer(SimpleNamespace()) as server:  # type: ignore[arg-type]
            tokens.add(server.token)
            assert server.server_address[0] == "127.0.0.1"
    assert len(tokens) == 2 and min(map(len, tokens)) > 30


@pytest.mark.parametrize(
    "host", [None, "", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", "127.0.0.1.evil.com"]
)
def test_a_name_that_was_made_to_point_here_is_refused(client: Client, host: str | None) -> None:
    host = host and host.replace("{port}", str(client.server.server_port))
    for path in ("/", "/api/set", f"/?token={TOKEN}"):
        assert client.get(path, Host=host)[0] == 403
    assert client.get("/api/set", Host=f"LocalHost:{client.server.server_port}")[0] == 200


def test_pages_of_others_change_nothing(client: Client) -> None:
    port = client.server.server_port
    action = {"kind": "add", "x": 5, "y": 6, "segment": None, "category_id": CELL}
    body, path = {"revision": 0, "action": action}, "/api/images/0/edit"
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"https://127.0.0.1:{port}",
    ):
        assert client.post(path, body, Origin=origin)[0] == 403
    # What a form can send without asking.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", None):
        assert client.post(path, body, Content_Type=kind)[0] == 415
    for site in ("cross-site", "same-site"):
        assert client.post(path, body, Sec_Fetch_Site=site)[0] == 403
        assert client.get("/api/set", Sec_Fetch_Site=site)[0] == 403
    assert client.get("/api/images/0")[1]["revision"] == 0
    kind = "application/json; charset=utf-8"
    assert client.post(path, body, Origin=None, Content_Type=kind)[0] == 200


def test_the_page_may_load_only_what_is_its_own(client: Client) -> None:
    status, page, headers = client.get("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    text = page.decode()
    assert "http://" not in text and "https://" not in text and "style=" not in text
    assert "onclick" not in text and "<script>" not in text
    for name in ("annotate.css", "main.js"):
        assert client.get(f"/static/{name}")[0] == 200 and f"/static/{name}" in text


def test_requests_that_are_not_http(client: Client) -> None:
    for data in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / " + b"x" * 70_000):
        with socket.create_connection(("127.0.0.1", client.server.server_port), 10) as peer:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
    assert client.get("/api/set")[0] == 200


def test_save_writes_the_points_file(client: Client, dataset: Path) -> None:
    client.add(0, 0, 20.5, 40.5)
    status, answer, _ = client.post("/api/save", {})
    assert status == 200 and answer["saved"].endswith("points.json")
    assert points_on_disk(dataset) == [(20.5, 40.5)]


def test_a_points_file_that_somebody_has_changed_is_not_overwritten(dataset: Path) -> None:
    points = dataset.with_name("points.json")
    with pytest.raises(PointsChanged), serving(dataset) as server:
        client = Client(server)
        client.add(0, 0, 20.5, 40.5)
        theirs = points.read_text().replace("\n]}", "\n ]}")
        points.write_text(theirs)
        status, answer, _ = client.post("/api/save", {})
        assert status == 409 and "recovered" in answer["error"]
        assert client.add(0, 1, 30.5, 40.5)[0] == 200  # it goes on
    assert points.read_text() == theirs
    assert len(list(points.parent.glob("points.recovered*.json"))) == 1


def test_what_is_clicked_is_there_after_the_end(dataset: Path) -> None:
    with serving(dataset) as server:
        Client(server).add(0, 0, 20.5, 40.5)
    assert points_on_disk(dataset) == [(20.5, 40.5)]
    with serving(dataset) as server:
        _, state, _ = Client(server).get("/api/images/0")
        assert state["segments"][0]["points"] == [[20.5, 40.5]]


def test_points_are_kept_where_no_label_can_be_made(dataset: Path) -> None:
    def fail(*_):
        raise RuntimeError("no memory for this image")

    broken = SimpleNamespace(label=fail, suggestions=fail, ahead=id, close=lambda: None)
    with serving(dataset, labeller=broken) as server:
        status, state = Client(server).add(0, 0, 20.5, 40.5)
        assert status == 200 and state["label_error"] == "no memory for this image"
        assert len(state["segments"]) == 1
    assert points_on_disk(dataset) == [(20.5, 40.5)]


def test_an_image_that_is_gone(dataset: Path) -> None:
    with serving(dataset) as server:
        client = Client(server)
        server.session.paths[1].unlink()
        status, answer, _ = client.get("/api/images/1/picture")
        assert status == 422 and answer["error"]
        status, state, _ = client.get("/api/images/1")
        assert status == 200 and NAMES[1] in state["problem"] and "label" not in state


def test_colors_of_segments_stay_while_others_go(client: Client) -> None:
    revision = 0
    for x in (10, 40, 70):
        _, state = client.add(0, revision, x, 10)
        revision = state["revision"]
    colors = {s["id"]: s["color"] for s in state["segments"]}
    first = state["segments"][0]["id"]
    _, state = client.edit(0, revision, kind="delete_segment", segment=first)
    assert {s["id"]: s["color"] for s in state["segments"]} == {
        k: v for k, v in colors.items() if k != first
    }
    _, state = client.add(0, state["revision"], 100, 10)
    assert len({tuple(s["color"]) for s in state["segments"]}) == 3


def test_a_port_that_is_taken(client: Client) -> None:
    port = client.server.server_port
    with pytest.raises(OSError, match=rf"port {port} .*another one"):
        AnnotationServer(SimpleNamespace(), port)  # type: ignore[arg-type]


def test_the_documentation_has_the_keys_of_the_page() -> None:
    text = (Path(__file__).parents[2] / "docs" / "annotate.md").read_text(encoding="utf-8")
    letters = {
        letter
        for keys in KEYS.values()
        for key in keys
        for name in key.keys
        for letter in [name.split("+")[-1]]
        if len(letter) == 1 and letter.isalpha()
    }
    assert len(letters) > 10
    missing = {k for k in letters if f"<kbd>{k}</kbd>" not in text and f"+{k}</kbd>" not in text}
    assert not missing


def test_a_class_is_added(tmp_path: Path) -> None:
    dataset = begin(tmp_path)
    with serving(dataset) as server:
        client = Client(server)
        before = client.get("/api/set")[1]["classes"]
        status, answer, _ = client.post("/api/classes", {"name": " Glass <b> ", "isthing": False})
        assert status == 200
        assert [c["name"] for c in answer["classes"]] == ["cell", "nucleus", "ground", "Glass <b>"]
        assert [c["color"] for c in answer["classes"][:3]] == [c["color"] for c in before]
        new = answer["id"]
        action = {"kind": "add", "x": 5, "y": 6, "segment": None, "category_id": new}
        status, state, _ = client.post("/api/images/0/edit", {"revision": 0, "action": action})
        assert status == 200 and state["segments"][0]["category_id"] == new
        file = read_dataset_file(dataset)
        assert file.classes is not None
        assert [(c.name, c.isthing) for c in file.classes.categories][-1] == ("Glass <b>", False)
        text = dataset.read_bytes()
        for body, says in (
            ({"name": "CELL", "isthing": True}, "already"),
            ({"name": "  ", "isthing": True}, "not the name"),
            ({"name": "a\nb", "isthing": True}, "not the name"),
            ({"name": "x" * 101, "isthing": True}, "not the name"),
            ({"name": "dog"}, "isthing"),
            ({"name": 3, "isthing": True}, "'name'"),
            ([], "'name'"),
        ):
            status, answer, _ = client.post("/api/classes", body)
            assert status == 400 and says in answer["error"], body
        assert dataset.read_bytes() == text
        status, _, _ = client.post(
            "/api/classes", {"name": "dog", "isthing": True}, Origin="http://evil.example"
        )
        assert status == 403
    # It is opened again with it.
    with serving(dataset) as server:
        names = [c["name"] for c in Client(server).get("/api/set")[1]["classes"]]
        assert names == ["cell", "nucleus", "ground", "Glass <b>"]


def test_a_class_in_a_file_that_cannot_be_changed_is_refused_everywhere(tmp_path: Path) -> None:
    dataset = begin(tmp_path)
    dataset.write_text(dataset.read_text().replace("[cell, nucleus]", "[cell, nucleus, ]"))
    points = dataset.with_name("points.json").read_bytes()
    with serving(dataset) as server:
        client = Client(server)
        status, answer, _ = client.post("/api/classes", {"name": "dog", "isthing": True})
        assert status == 400 and "dataset.yaml" in answer["error"] and "by hand" in answer["error"]
        assert len(client.get("/api/set")[1]["classes"]) == 3
    assert dataset.with_name("points.json").read_bytes() == points

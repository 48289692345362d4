"""A small data set that is being annotated, its server, and a client that speaks HTTP to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdd.annotate.live import LiveLabel
from fdd.annotate.server import AnnotationServer, AnnotationSession
from fdd.annotate.start import begin_dataset, open_dataset
from fdd.annotate.suggest import Suggestion
from fdd.points.void import void_mask

TOKEN = "the-token-of-a-test"
#: The names would be markup, or an attribute, if they were not shown as text.
NAMES = ("a.png", "b<img src=x onerror=alert(1)>.png", 'c\' &amp; "д".png')
WIDTH, HEIGHT = 120, 80
CELL, NUCLEUS, GROUND = 1, 2, 3


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    ramp = np.linspace(40, 200, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    for n, name in enumerate(NAMES):
        Image.fromarray((ramp + 10 * n).astype(np.uint8)).convert("RGB").save(folder / name)
    return folder


def begin(root: Path) -> Path:
    """Images and ``dataset.yaml`` below a folder; returns the latter."""
    return begin_dataset(write_images(root / "images"), ["cell", "nucleus"], ["ground"])


class ToyLabeller:
    """Each pixel belongs to its nearest point; says what it was asked."""

    def __init__(self) -> None:
        self.went_ahead: list[Path] = []

    def ahead(self, path: Path) -> None:
        self.went_ahead.append(path)

    def label(self, path: Path, segments: Any, size: tuple[int, int], void: Any = ()) -> LiveLabel:
        points = np.array([p for segment in segments for p in segment.points])
        owner = np.array([n for n, segment in enumerate(segments) for _ in segment.points])
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        squares = (columns[..., None] - points[:, 0]) ** 2 + (rows[..., None] - points[:, 1]) ** 2
        label = owner[squares.argmin(-1)].astype(np.int32)
        label[void_mask(void, *size)] = -1
        return LiveLabel(label, np.full(size, 200, np.uint8), "toy", 1.0)

    def suggestions(
        self, path: Path, segments: Any, size: tuple[int, int], void: Any = ()
    ) -> list[Suggestion]:
        return [Suggestion(60.5, 40.5, "far from <all> points", "coverage", 0)][: len(segments)]

    def close(self) -> None:
        pass


class ToyWorkshop:
    """A model that is given scores and gains of its labels, by image; None: they are not made."""

    def __init__(self, scores: dict[int, float | None] | None, gains: dict[int, float]) -> None:
        self.given, self.gains, self.asked, self.shelf = scores, gains, 0, self
        self.model = "a toy"

    def record(self) -> dict[str, Any]:
        names = {"models": [self.model], "model": self.model, "formats": ["panoptic"]}
        return names | {"job": None, "current": 0, "unlearned": []}

    def scores(self) -> dict[str, Any] | None:
        self.asked += 1
        if self.given is None:
            return None
        found = {"scores": self.given, "gains": self.gains}
        return {name: {str(n): v for n, v in one.items()} for name, one in found.items()}

    def disturb(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def serving(
    dataset: Path,
    *,
    port: int = 0,
    token: str = TOKEN,
    labeller: Any = None,
    workshop: Any = None,
) -> Iterator[AnnotationServer]:
    """A server of a data set; with the block it ends, and saves."""
    opened = open_dataset(dataset)
    try:
        session = AnnotationSession(
            opened, labeller or ToyLabeller(), workshop=workshop, model="a toy"
        )
        with AnnotationServer(session, port, token=token) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            yield server
            server.shutdown()
            thread.join()
        session.close()
    finally:
        opened.store.close()


@dataclass
class Client:
    """Requests of a browser that has the cookie; headers may replace what it sends."""

    server: AnnotationServer

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str | None] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (JSON as it is read, else bytes), and headers."""
        port = self.server.server_port
        sent: dict[str, str | None] = {
            "Host": f"127.0.0.1:{port}",
            "Cookie": f"{self.server.cookie}={TOKEN}",
        }
        if method == "POST":
            origin = f"http://127.0.0.1:{port}"
            sent |= {"Content-Type": "application/json", "Origin": origin}
        sent |= headers or {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None and "Content-Length" not in sent:
            sent["Content-Length"] = str(len(data))
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            content = answer.read()
            found = dict(answer.getheaders())
        finally:
            connection.close()
        is_json = found.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(content) if is_json else content, found

    def get(self, path: str, **headers: str | None) -> tuple[int, Any, dict[str, str]]:
        return self.ask("GET", path, headers=_dashed(headers))

    def post(self, path: str, body: Any, **headers: str | None) -> tuple[int, Any, dict[str, str]]:
        return self.ask("POST", path, body, _dashed(headers))

    def edit(self, index: int, revision: int, **action: Any) -> tuple[int, Any]:
        body = {"revision": revision, "action": action}
        return self.post(f"/api/images/{index}/edit", body)[:2]

    def add(self, index: int, revision: int, x: float, y: float, **more: Any) -> tuple[int, Any]:
        action = {"segment": None, "category_id": CELL} | more
        return self.edit(index, revision, kind="add", x=x, y=y, **action)


def _dashed(headers: dict[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in headers.items()}

"""The server of the annotation page: this machine only, this user only, one token.

The page's program is trusted with the points of the data set; other pages in the same browser are
not, nor other users of the machine. So every request needs the token (given in the address that
is opened first, then kept in a cookie), a ``Host`` of this machine, and where something is
changed, an ``Origin`` that is this page or none.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import socketserver
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from fdd.annotate.jobs import Busy
from fdd.annotate.live import LiveLabeller
from fdd.annotate.page import (
    FOLDER,
    STATIC,
    SegmentColors,
    label_record,
    render_page,
    state_record,
    suggestion_records,
)
from fdd.annotate.picture import browser_picture
from fdd.annotate.shelf import ModelShelf
from fdd.annotate.start import OpenedDataset
from fdd.annotate.store import ImageState, InvalidEdit, PointsChanged, StaleEdit
from fdd.annotate.workshop import Workshop
from fdd.points.structures import is_integer
from fdd.visualization.palette import Palette

__all__ = ["HOST", "MAX_BODY", "AnnotationServer", "AnnotationSession"]

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
#: Bytes of a request's body.
MAX_BODY = 1 << 20
_PARTS = frozenset(["label", "suggestions"])
_JSON = "application/json"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_IMAGE_ROUTE = re.compile(r"/api/images/(\d{1,9})(/picture|/edit)?")
_T = TypeVar("_T")


class AnnotationSession:
    """What the routes answer, as JSON-able dicts: the points, and the labels made of them."""

    def __init__(
        self,
        opened: OpenedDataset,
        labeller: LiveLabeller | ModelShelf,
        *,
        workshop: Workshop | None = None,
        model: str | None = None,
    ) -> None:
        """
        Args:
            opened: the data set, with the store of its points, which its owner closes.
            labeller: makes labels of them.
            workshop: trains and exports; None: not offered.
            model: what is behind the labels, for the reader, if no workshop says it; None: a
                rule.
        """
        self.store, self.paths, self.name = opened.store, opened.paths, opened.dataset.name
        self.labeller, self.workshop, self._model = labeller, workshop, model
        self._opened = opened
        self._palette, self._colors = self._make_colors()
        self._classes = threading.Lock()  # held while one is added
        self._edits = threading.Lock()
        self._last: dict[int, tuple[str, int]] = {}  # image -> key of the last edit, revision after
        # One thread for all labels: OpenMP has a pool of threads for each thread that computes.
        self._work = ThreadPoolExecutor(1, thread_name_prefix="label")

    def _make_colors(self) -> tuple[Palette, SegmentColors]:
        classes, categories = self._opened.dataset.classes, self.store.categories
        colors = classes.colors if classes else {}
        entries = [
            {"name": c.name, "isthing": c.isthing, "color": colors.get(c.name)} for c in categories
        ]
        palette = Palette.from_categories(entries)
        return palette, SegmentColors(palette, {c.id: k for k, c in enumerate(categories)})

    def describe_classes(self) -> list[dict[str, Any]]:
        """Of each class ``id``, ``name``, ``isthing``, ``color``."""
        return [
            {"id": c.id, "name": c.name, "isthing": c.isthing, "color": color.tolist()}
            for c, color in zip(self.store.categories, self._palette.colors, strict=True)
        ]

    def add_class(self, body: Any) -> dict[str, Any]:
        """Add a class to the data set, and have the labels know it.

        Args:
            body: ``name``, ``isthing``.

        Returns:
            ``id`` of the new one; ``classes``, all of them.

        Raises:
            ValueError: it is not a name, or there is such a class; or the model in use has no class
                of the kind.
            PointsChanged, OSError: it cannot be written.
        """
        given = body if isinstance(body, dict) else {}
        name, isthing = given.get("name"), given.get("isthing")
        if not isinstance(name, str) or not isinstance(isthing, bool):
            raise ValueError("a new class is an object with 'name', a text, and 'isthing'")
        with self._classes:
            category = self._opened.new_category(name, isthing)
            # First, as a model may not fit; that it knows one class more than the data set does no
            # harm.
            if isinstance(self.labeller, ModelShelf):
                self.labeller.know([*self.store.categories, category])
            self._opened.add_category(category)
            self._palette, self._colors = self._make_colors()
            return {"id": category.id, "classes": self.describe_classes()}

    def describe_set(self) -> dict[str, Any]:
        """Name, classes with colours, and of each image its name, size and number of points."""
        return {
            "name": self.name,
            "model": self._model if self.workshop is None else self.workshop.shelf.model,
            "work": None if self.workshop is None else self.workshop.record(),
            "points_file": str(self.store.points_file),
            "notices": list(self._opened.notes),
            "classes": self.describe_classes(),
            "images": [
                {
                    "name": image.file_name,
                    "width": image.width,
                    "height": image.height,
                    "points": points,
                }
                for image, points in zip(self.store.images, self.store.num_points(), strict=True)
            ],
        }

    def describe_image(self, index: int, parts: frozenset[str] = _PARTS) -> dict[str, Any]:
        """Points of an image and, as ``parts`` say, its label and where to click next; ``problem``
        says why it cannot be annotated, if so."""
        problem = self._opened.problem(index)
        answer = self._answer(self.store.state(index), parts if problem is None else frozenset())
        return answer | {"problem": problem}

    def edit(self, index: int, body: Any) -> dict[str, Any]:
        """Change the points of an image; the answer is that of :meth:`describe_image`.

        Args:
            index: of the image.
            body: ``revision`` and ``action``, see :class:`AnnotationStore`; ``label``: whether a
                label is wanted (default: yes); ``key``: a text that is the same when the same edit
                is sent again, because no answer has come: it is made once.

        Raises:
            InvalidEdit: it cannot be made, and nothing has changed.
            StaleEdit: it was made on another revision.
        """
        if not isinstance(body, dict):
            raise InvalidEdit("the body is not an object with 'revision' and 'action'")
        revision, action, key = (body.get(k) for k in ("revision", "action", "key"))
        if isinstance(revision, bool) or not isinstance(revision, int):
            raise InvalidEdit(f"'revision' is {revision!r}; expected an integer")
        if not isinstance(action, dict):
            raise InvalidEdit("'action' is not an object; expected such as {'kind': 'undo'}")
        with self._edits:
            state = self.store.state(index)
            if not (isinstance(key, str) and self._last.get(index) == (key, state.revision)):
                state = self.store.edit(index, revision, action)
                if isinstance(key, str):
                    self._last[index] = (key, state.revision)
        return self._answer(state, frozenset(["label"] if body.get("label", True) else []))

    def state(self, state: ImageState) -> dict[str, Any]:
        """The points of an image alone."""
        return state_record(state, self._colors)

    def ahead(self, index: int) -> None:
        """The image that comes next, if there is one."""
        if 0 <= index < len(self.paths):
            self.labeller.ahead(self.paths[index])

    def close(self) -> None:
        """Wait for the labels in progress, and end trainings; the points are for the store's owner
        to save."""
        if self.workshop is not None:
            self.workshop.close()
        self._work.shutdown(cancel_futures=True)
        self.labeller.close()

    def _answer(self, state: ImageState, parts: frozenset[str]) -> dict[str, Any]:
        answer = self.state(state)
        if self.workshop is not None and parts:
            self.workshop.disturb()
        image = self.store.images[state.index]
        where = self.paths[state.index], state.segments, (image.height, image.width)
        void = state.void
        try:
            if "label" in parts:
                answer["label"] = self._in_turn(
                    lambda: (
                        label_record(self.labeller.label(*where, void)) if state.segments else None
                    )
                )
            if "suggestions" in parts:
                answer["suggestions"] = self._in_turn(
                    lambda: suggestion_records(self.labeller.suggestions(*where, void=void))
                )
        except (OSError, ValueError, RuntimeError) as error:
            # The points are kept whatever becomes of the label.
            logger.warning("no label for %s: %s", image.file_name, error)
            answer["label_error"] = str(error)
        return answer

    def _in_turn(self, make: Callable[[], _T]) -> _T:
        return self._work.submit(make).result()


@dataclass(frozen=True)
class _Answer:
    status: int
    data: bytes
    kind: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, text: str, **more: Any) -> None:
        super().__init__(text)
        self.status, self.text, self.more = status, text, more


class AnnotationServer(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1."""

    daemon_threads = True

    def __init__(
        self, session: AnnotationSession, port: int = 0, *, token: str | None = None
    ) -> None:
        """
        Args:
            port: 0 for a free one.
            token: of those who may use it; None: a random one.

        Raises:
            OSError: the port is taken.
        """
        self.session = session
        self.ended = False
        self.token = secrets.token_urlsafe(32) if token is None else token
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise OSError(
                f"port {port} of {HOST} cannot be used ({error}); name another one, or 0 for a "
                "free one"
            ) from error

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers do not tell ports apart, and there may be other servers."""
        return f"fdd_annotate_{self.server_port}"

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks for the name of the machine: that can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def server_close(self) -> None:
        self.ended = True  # for connections that are still open: the points are about to be closed
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that has gone on to another image does not wait for the answer.
        logger.debug("a request was not answered", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: AnnotationServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "fdd", ""
    timeout = 60  # of a connection that says nothing

    def do_GET(self) -> None:
        self._handle(self._get)

    def do_POST(self) -> None:
        self._handle(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of requests that are not HTTP, or of methods that there are not."""
        self.close_connection = True
        self._send(_error(code, message or HTTPStatus(code).phrase))

    def _handle(self, respond: Callable[[str, dict[str, list[str]]], _Answer]) -> None:
        try:
            self._check_host()
            if self.server.ended:
                raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "fdd annotate has ended")
            parts = urlsplit(self.path)
            answer = respond(parts.path, parse_qs(parts.query, keep_blank_values=True))
        except _Refused as refused:
            # What is left of the request would be read as the next one.
            self.close_connection |= self.command == "POST" or self.server.ended
            answer = _error(refused.status, refused.text, **refused.more)
        except Exception as error:
            logger.exception("%s %s", self.command, self.path.split("?")[0])
            self.close_connection = True
            answer = _error(500, f"{type(error).__name__}: {error}")
        self._send(answer)

    def _get(self, path: str, query: dict[str, list[str]]) -> _Answer:
        if path == "/" and "token" in query:
            return self._enter(query["token"][0])
        self._check_token()
        session = self.server.session
        if path == "/":
            page = render_page(session.name)
            # File names need not be UTF-8, nor the name of a data set that comes from one.
            return _Answer(200, page.encode("utf-8", "backslashreplace"), "text/html")
        if path == "/favicon.ico":
            return _Answer(204, b"", "image/x-icon")
        if path.startswith("/static/") and (name := path.removeprefix("/static/")) in STATIC:
            return _Answer(200, (FOLDER / name).read_bytes(), STATIC[name])
        self._check_reader()
        if path == "/api/set":
            return _json(session.describe_set())
        if path == "/api/work":
            return _json(self._workshop().record())
        if path == "/api/scores":
            return _json(self._workshop().scores() or {"scores": None, "gains": None})
        index, what = self._image(path)
        if what == "/picture":
            try:
                picture = browser_picture(session.paths[index])
            except (OSError, ValueError) as error:
                raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
            return _Answer(200, picture.data, picture.kind)
        if what:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path}: expected POST")
        wanted = frozenset(",".join(query.get("parts", ["label,suggestions"])).split(","))
        answer = _json(session.describe_image(index, wanted & _PARTS))
        if "ahead" in query and query["ahead"][0].isdecimal():
            session.ahead(int(query["ahead"][0]))
        return answer

    def _post(self, path: str, query: dict[str, list[str]]) -> _Answer:
        self._check_token()
        self._check_origin()
        body = self._read_json()
        session = self.server.session
        if path == "/api/save":
            try:
                session.store.save()
            except (OSError, PointsChanged) as error:
                raise _Refused(HTTPStatus.CONFLICT, str(error)) from None
            return _json({"saved": str(session.store.points_file)})
        if path == "/api/classes":
            return self._post_class(body)
        if path.startswith("/api/work/"):
            return self._post_work(path.removeprefix("/api/work/"), body)
        index, what = self._image(path)
        if what != "/edit":
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path}: expected GET")
        try:
            return _json(session.edit(index, body))
        except StaleEdit as stale:
            state = session.state(stale.state)
            raise _Refused(HTTPStatus.CONFLICT, str(stale), state=state) from None
        except InvalidEdit as invalid:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(invalid)) from None
        except OSError as error:  # a full disk: the edit is not kept, and so not made
            raise _Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None

    def _post_class(self, body: Any) -> _Answer:
        try:
            return _json(self.server.session.add_class(body))
        except PointsChanged as error:
            raise _Refused(HTTPStatus.CONFLICT, str(error)) from None
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        except OSError as error:
            raise _Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None

    def _workshop(self) -> Workshop:
        workshop = self.server.session.workshop
        if workshop is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "this server neither trains nor exports")
        return workshop

    def _post_work(self, what: str, body: Any) -> _Answer:
        workshop, given = self._workshop(), body if isinstance(body, dict) else {}
        formats, place = given.get("formats", ["panoptic"]), given.get("model")
        try:
            if what == "train":
                workshop.train()
            elif what == "resume":
                workshop.resume()
            elif what == "stop":
                workshop.stop()
            elif what == "export" and isinstance(formats, list):
                workshop.export([str(name) for name in formats])
            elif what == "model" and isinstance(place, int) and is_integer(place):
                workshop.shelf.use(place)
            else:
                raise _Refused(HTTPStatus.BAD_REQUEST, f"/api/work/{what} cannot be done so")
        except (Busy, PointsChanged) as error:
            raise _Refused(HTTPStatus.CONFLICT, str(error)) from None
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        except OSError as error:
            raise _Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None
        return _json(workshop.record())

    def _enter(self, token: str) -> _Answer:
        """From the address with the token to one without, which may stand in the history."""
        if not _same(token, self.server.token):
            raise _Refused(HTTPStatus.FORBIDDEN, _NO_TOKEN)
        cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        return _Answer(303, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})

    def _check_host(self) -> None:
        """Refuse the names of other machines that have been made to point here."""
        port = self.server.server_port
        names = {f"{name}:{port}" for name in (HOST, "localhost")}
        if port == 80:
            names |= {HOST, "localhost"}
        if self.headers.get("Host", "").lower() not in names:
            raise _Refused(
                HTTPStatus.FORBIDDEN,
                f"asked for as {self.headers.get('Host')!r}; expected {HOST}:{port} or "
                f"localhost:{port}. Through a tunnel, use the same port on both sides",
            )

    def _check_token(self) -> None:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            cookie = None
        if cookie is None or not _same(cookie.value, self.server.token):
            raise _Refused(HTTPStatus.FORBIDDEN, _NO_TOKEN)

    def _check_origin(self) -> None:
        """Refuse changes by the pages of others."""
        self._check_reader()
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host'].lower()}":
            raise _Refused(HTTPStatus.FORBIDDEN, f"asked for by a page of {origin!r}, not by ours")
        kind = self.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if kind != _JSON:
            raise _Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a body of type {kind!r}; expected {_JSON}"
            )

    def _check_reader(self) -> None:
        # Browsers send it, and cookies go to all ports of this machine.
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refused(HTTPStatus.FORBIDDEN, "asked for by a page of another address")

    def _read_json(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "no Content-Length")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {length[:20]} bytes; expected at "
                f"most {MAX_BODY}"
            )  # fmt: skip
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the body ends after {len(data)} bytes")
        try:
            return json.loads(data, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None

    def _image(self, path: str) -> tuple[int, str]:
        """Index of the image that a path names, and what of it."""
        match = _IMAGE_ROUTE.fullmatch(path)
        count = len(self.server.session.store.images)
        if match is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"{path}: there is no such page")
        if int(match[1]) >= count:
            raise _Refused(HTTPStatus.NOT_FOUND, f"no image {match[1]}; there are {count}, from 0")
        return int(match[1]), match[2] or ""

    def _send(self, answer: _Answer) -> None:
        kind = answer.kind if answer.kind.startswith("image/") else f"{answer.kind}; charset=utf-8"
        self.send_response(answer.status)
        headers = {"Content-Type": kind, "Content-Length": str(len(answer.data))}
        for name, value in {**headers, **_HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.data)


_NO_TOKEN = (
    "this address needs the token of the server that runs now: open the whole address that "
    "`fdd annotate` has printed"
)


def _same(given: str, token: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _json(record: Mapping[str, Any], status: int = 200) -> _Answer:
    # ASCII: file names that are not UTF-8 become escapes that JavaScript reads.
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    return _Answer(status, text.encode("ascii"))


def _error(status: int, text: str, **more: Any) -> _Answer:
    return _json({"error": text, **more}, status)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")

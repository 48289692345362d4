"""A real browser for the tests of the report: headless Chromium, spoken to through two pipes.

Needs nothing but the browser. ``needs_browser`` skips where none is found.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None or sys.platform == "win32", reason=f"no browser on PATH ({', '.join(NAMES)})"
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-extensions", "--disable-background-networking", "--no-first-run"),
    *("--hide-scrollbars", "--mute-audio", "--window-size=1280,900"),
)


class Tab:
    """One page, by the DevTools protocol (JSON, each message ended by a zero byte)."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest, self._number = send, receive, b"", 0
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def _call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params or {}}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(30)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    call = _call

    def _read(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser did not answer"
            more = os.read(self._receive, 1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        first, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(first)
        if "method" in message and hasattr(self, "events"):
            self.events.append(message)
        return message

    def open(self, url: str) -> None:
        """Load a page and wait for it."""
        self.events.clear()
        self.call("Page.navigate", {"url": url})
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._read(60)

    def run(self, script: str) -> Any:
        """Value of an expression in the page (of a promise: what it comes to)."""
        params = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", params)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 10) -> None:
        """Until an expression is true; the page may be loaded anew meanwhile."""
        end = time.monotonic() + seconds

        def found() -> Any:
            try:
                return self.run(script)
            except AssertionError as error:
                if "navigated" not in str(error):
                    raise
                return None

        while not found():
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.03)

    def click(self, selector: str) -> None:
        """A real click in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            params = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", params)

    def pixel(self, selector: str, across: float, down: float) -> list[int]:
        """RGB that the reader sees at a place of an element, in shares of its width and height."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + scrollX, b.y + scrollY, b.width, b.height]; })()"
        )
        x, y = box[0] + across * box[2], box[1] + down * box[3]
        clip = {"x": x - 1, "y": y - 1, "width": 3, "height": 3, "scale": 1}
        shot = self.call("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        return list(picture.getpixel((1, 1)))

    def press(self, key: str, text: str = "") -> None:
        """A key, as named by ``KeyboardEvent.key``."""
        # The browser's own keys, such as the one that closes a dialog, go by their number.
        params = {"key": key, "windowsVirtualKeyCode": 27 if key == "Escape" else 0}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", "text": text, **params})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **params})


@contextmanager
def browser() -> Iterator[Tab]:
    """A fresh browser with an empty profile; ended with the block."""
    assert BROWSER is not None
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()

    def give_pipes() -> None:
        # The protocol wants descriptors 3 and 4, which may be some of these already.
        source, sink = (fcntl.fcntl(n, fcntl.F_DUPFD, 10) for n in (to_browser, from_browser))
        os.dup2(source, 3)
        os.dup2(sink, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=give_pipes,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Tab(send, receive)
        finally:
            os.close(send)
            os.close(receive)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

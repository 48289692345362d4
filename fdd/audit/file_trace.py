"""Which files Python code opens for reading, and who asks for it."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ["OpenedFile", "trace_opens"]

# Whoever calls these wants the file.
_PASSED_OVER = frozenset({"PIL", "numpy", "yaml", "iopath"})
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr/share", "/usr/lib")
_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")

# Python never removes an audit hook, so one is installed, which does nothing without listeners.
_listeners: list[list[OpenedFile]] = []
_installed = False


@dataclass(frozen=True)
class OpenedFile:
    """A file that was opened for reading.

    Attributes:
        path: as it was given.
        reader: who asked for it, ``module.function``: the innermost that belongs neither to the
            standard library nor to Pillow and the like.
    """

    path: str
    reader: str

    @property
    def is_library(self) -> bool:
        """Whether it belongs to Python, to installed packages or to the operating system."""
        path = os.path.realpath(self.path)
        # Not "data": that is the environment itself, below which a project may lie.
        places = (p for name, p in sysconfig.get_paths().items() if p and name != "data")
        roots = [*map(os.path.realpath, places), *_SYSTEM]
        return path.endswith(_CODE) or any(path.startswith(root + os.sep) for root in roots)


@contextmanager
def trace_opens() -> Iterator[list[OpenedFile]]:
    """Record what is opened for reading within the block, by this process.

    Files that a C library opens by itself (``cv2.imread``) are not seen.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    opened: list[OpenedFile] = []
    _listeners.append(opened)
    try:
        yield opened
    finally:
        # Not remove(): lists that are equal are not the same.
        _listeners[:] = [listener for listener in _listeners if listener is not opened]


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event != "open" or not _listeners:
        return
    path, mode, flags = args
    if isinstance(path, int) or not _reads(mode, flags):
        return
    file = OpenedFile(os.fsdecode(path), _reader(sys._getframe(1)))
    for listener in _listeners:
        listener.append(file)


def _reads(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return "r" in mode or "+" in mode
    return not isinstance(flags, int) or flags & (os.O_WRONLY | os.O_RDWR) != os.O_WRONLY


def _reader(frame: FrameType | None) -> str:
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        root = module.partition(".")[0]
        if root not in _PASSED_OVER and root not in sys.stdlib_module_names:
            return f"{module}.{frame.f_code.co_name}"
        frame = frame.f_back
    return ""

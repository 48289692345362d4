"""Logs: no colours in files, one message about a full disk, no long dumps on the terminal."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.utils.logger import setup_logger

from fdd.points.files import find_no_room

__all__ = ["set_up_logs", "without_colours", "without_dumps"]

_LOGGERS = ("fvcore", "detectron2", "fdd")
# What Detectron2's programs print whole when they begin.
_DUMP = re.compile(r".*?\b(Environment info|Contents of .+|Running with full config|Model):")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def set_up_logs(
    output_dir: str | None = None, rank: int = 0, *, names: Iterable[str] = _LOGGERS
) -> logging.Logger:
    """Detectron2's logs on the terminal (of the main process) and, with ``output_dir``, in its
    ``log.txt``.

    With a ``log.txt``, the terminal gets one line in place of each config, environment and network.
    Colours stay out of ``log.txt`` and of pipes. If ``log.txt`` cannot be written any more, that is
    said once, and logging continues on the terminal.

    Returns:
        The logger "fdd".
    """
    for name in names:
        # The very arguments of Detectron2's default_setup, whose call then changes nothing.
        kind = {} if name == "detectron2" else {"name": name}
        setup_logger(output_dir, distributed_rank=rank, **kind)
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                _make_plain(handler)
                if output_dir and handler.stream is sys.stdout:
                    _make_short(handler)
    return logging.getLogger("fdd")


def without_colours(text: str) -> str:
    """A text without ANSI colour codes."""
    return _COLOUR.sub("", text)


def without_dumps(text: str) -> str:
    """The first line of a log entry that is a whole config, environment or network, and how many
    lines of it are in ``log.txt``; any other entry as it is."""
    first, _, rest = text.partition("\n")
    count = len(rest.splitlines())
    if count < 3 or not _DUMP.fullmatch(without_colours(first)):
        return text
    return f"{first} {count:,} lines, in log.txt"


def _make_short(handler: logging.StreamHandler[Any]) -> None:
    inner = handler.formatter
    if inner is not None and getattr(inner, "edit", None) is not without_dumps:
        handler.setFormatter(_Edited(inner, without_dumps))


def _make_plain(handler: logging.StreamHandler[Any]) -> None:
    if isinstance(handler.formatter, _Edited):
        return
    if handler.formatter is not None and not handler.stream.isatty():
        handler.setFormatter(_Edited(handler.formatter, without_colours))
    usual = handler.handleError

    def handle_error(record: logging.LogRecord) -> None:
        if (error := find_no_room(sys.exc_info()[1])) is None:
            usual(record)
            return
        handler.setLevel(logging.CRITICAL + 1)
        name = getattr(handler.stream, "name", "the log")
        print(f"{name}: {error.strerror}; no more log lines are written to it", file=sys.stderr)
        # What is left in the buffer would be an error again when the file is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), handler.stream.fileno())

    handler.handleError = handle_error  # type: ignore[method-assign]


class _Edited(logging.Formatter):
    """Another formatter's lines, changed by a function of the text."""

    def __init__(self, inner: logging.Formatter, edit: Callable[[str], str]) -> None:
        super().__init__()
        self._inner, self.edit = inner, edit

    def format(self, record: logging.LogRecord) -> str:
        return self.edit(self._inner.format(record))

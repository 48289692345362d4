"""Untrusted text on a terminal: nothing that moves the cursor, and no endless lines."""

from __future__ import annotations

import sys

__all__ = ["forgive_encoding", "printable"]

_LONGEST = 2000


def printable(text: str) -> str:
    """``text`` with control characters written as escapes, and lines over 2,000 characters cut."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST:
        return text
    return "\n".join(map(_line, text.split("\n")))


def forgive_encoding() -> None:
    """Let the terminal's streams write an escape for a character that they do not know.

    Otherwise a class name in another script ends a command that has done its work.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _line(line: str) -> str:
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]} ... ({len(line) - _LONGEST:,} characters more)"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else _escape(c) for c in line)


def _escape(character: str) -> str:
    # A blank of another width stays a blank.
    return " " if character.isspace() and not character.isascii() else repr(character)[1:-1]

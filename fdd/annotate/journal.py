"""The journal: edits since the points file was last written, so that a killed session loses none.

A text file beside the points file, one JSON object a line, the first of which is the head. A line
is on the disk (fsync) when :meth:`Journal.append` returns. What is begun and not complete, as when
the process is killed in the middle of it, was never confirmed to anybody and is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fdd.points.files import atomic_path, named_errors, sync

__all__ = ["Journal", "JournalError", "read_journal"]

_FORMAT = "fdd-annotate-journal"
_VERSION = 1


class JournalError(ValueError):
    """A journal that cannot be read; it is left as it is."""


class Journal:
    """Appends entries to a journal; begins one where there is none, once there is an entry.

    Entries are JSON objects. Not for several threads at a time.

    Args:
        path: of its file.
        head: further keys of the first line.
    """

    def __init__(self, path: str | os.PathLike[str], head: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._head = _line({"format": _FORMAT, "version": _VERSION, **head})
        self._descriptor = -1
        self._end = 0

    @property
    def end(self) -> int:
        """Bytes of what is complete, the head with it; 0 where there is no journal."""
        return self._end

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Write entries, all of them or none.

        Raises:
            OSError: they cannot be written; names the file.
        """
        data = b"".join(map(_line, entries))
        with named_errors(self.path):
            is_new = self._descriptor < 0
            if is_new:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
                self._end = 0
                data = self._head + data
            try:
                # What a failed attempt left is written over, and cut off.
                os.ftruncate(self._descriptor, self._end)
                written = 0
                while written < len(data):
                    place = self._end + written
                    written += os.pwrite(self._descriptor, data[written:], place)
                os.fsync(self._descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                if is_new:
                    self.remove()
                raise
            if is_new:
                sync(self.path.parent)
        self._end += len(data)

    def rewrite(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace everything by these entries; without any, remove the file.

        Raises:
            OSError: it cannot be written; the journal is as it was.
        """
        self._replace(b"".join(map(_line, entries)))

    def drop_before(self, end: int) -> None:
        """Forget what was complete when :attr:`end` had this value, and keep what came after.

        Raises:
            OSError: it cannot be written; the journal is as it was.
        """
        if end:
            with named_errors(self.path):
                kept = os.pread(self._descriptor, self._end - end, end)
            self._replace(kept)

    def _replace(self, data: bytes) -> None:
        if not data:
            self.remove()
            return
        descriptor = -1
        try:
            with atomic_path(self.path, durable=True) as temporary:
                temporary.write_bytes(self._head + data)
                descriptor = os.open(temporary, os.O_RDWR)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        self.close()
        self._descriptor, self._end = descriptor, len(self._head) + len(data)

    def remove(self) -> None:
        """Remove the file, if there is one.

        Raises:
            OSError: it cannot be removed.
        """
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file, which stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._end = -1, 0


def read_journal(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The head of a journal and its entries; None where there is no journal, or not even its head
    was completed.

    Raises:
        JournalError: it is of another program or version, or something but its end is damaged.
        OSError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    # After the last line break there is what was not completed. Some disks fill a block that was
    # not completed with zeros, and lines end where their data would have.
    lines = data.split(b"\n")[:-1]
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise JournalError(
                f"{os.fspath(path)}, line {number}: not a line of a journal. {_ASIDE}"
            ) from None
        parsed.append(entry)
    if not parsed:
        if not _HEAD.startswith(data[: len(_HEAD)].rstrip(b"\0")):
            raise JournalError(f"{os.fspath(path)}: not a journal of `fdd annotate`. {_ASIDE}")
        return None
    head, *entries = parsed
    if head.get("format") != _FORMAT or head.get("version") != _VERSION:
        found = f"format {head.get('format')!r:.40}, version {head.get('version')!r:.40}"
        raise JournalError(
            f"{os.fspath(path)}: {found}; this package reads {_FORMAT!r}, version {_VERSION}. "
            f"Open it with the version that wrote it, or: {_ASIDE}"
        )
    return head, entries


#: What every journal begins with.
_HEAD = f'{{"format":"{_FORMAT}"'.encode()
_ASIDE = "Move the file elsewhere to go on without the edits in it."


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"

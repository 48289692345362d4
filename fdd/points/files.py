"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "NO_ROOM_CAUSES",
    "atomic_path",
    "check_file_writable",
    "check_new_folder",
    "find_no_room",
    "is_no_room",
    "named_errors",
    "new_folder",
    "sync",
    "write_json",
]

#: What may be behind an error of writing for lack of room.
NO_ROOM_CAUSES = (
    "It is the disk that is full, or a quota, or the limit of a file's size (`ulimit -f`)"
)

#: A full disk, quota, or limit of a file's size. Such errors of writing name no file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(
    path: str | os.PathLike[str],
    temporary: str | os.PathLike[str] | None = None,
    *,
    durable: bool = False,
) -> Iterator[Path]:
    """Hand out a temporary path that replaces ``path`` once the block ends without an error.

    The temporary file lies in the same folder (created if need be), so that the replacement is one
    rename. It keeps the extension, because image writers choose the format by it. On an error the
    temporary file is removed and an older ``path`` stays as it was.

    Args:
        path: of the file.
        temporary: a name that is always the same, so that what a killed process leaves behind is
            overwritten by the next attempt; None: one that no other process has.
        durable: the new file is on the disk before it replaces the old one, so that not even a
            power cut leaves neither.

    Raises:
        OSError: the file cannot be written (no permission, the disk is full); names ``path``.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if temporary is None:
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}{target.suffix}"
    place = Path(temporary)
    try:
        with named_errors(target, place):
            yield place
            if durable:
                sync(place)
            os.replace(place, target)
            if durable:
                sync(target.parent)
    finally:
        with suppress(OSError):
            place.unlink()


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the list of the files of a folder, is on the disk.

    Raises:
        OSError: it is not, or not known to be; not of a folder, where systems differ.
    """
    is_folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not is_folder:
            raise


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that has something in it.

    Raises:
        FileExistsError: it is there and not empty, or a file.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not a new or empty folder; name another one")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hand out a folder whose content lies in ``path`` once the block ends without an error.

    Raises:
        FileExistsError: see :func:`check_new_folder`.
        OSError: it cannot be written; of a full disk, names ``path``, for what was begun is gone.
    """
    target = Path(path).expanduser().absolute()
    check_new_folder(target)
    is_there = target.exists()  # maybe the working folder, or a link: stays the folder that it is
    beside = target if is_there else target.parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".tmp-") as scratch:
            content = Path(scratch, "content")
            content.mkdir()
            yield content
            for entry in sorted(content.iterdir()) if is_there else ():
                entry.rename(target / entry.name)
            if not is_there:
                content.rename(target)
    except OSError as error:
        if (full := find_no_room(error)) is None:
            raise
        raise OSError(full.errno, full.strerror, str(target)) from error


def write_json(
    path: str | os.PathLike[str],
    content: Any,
    *,
    indent: int | None = None,
    end: str = "",
    allow_nan: bool = False,
) -> None:
    """Write JSON in UTF-8 atomically; ``end`` comes after it, such as a line break.

    File names that are not UTF-8: Python's stand-ins for their bytes become JSON's escapes.

    Raises:
        ValueError: a number is not finite, and not ``allow_nan`` (for content read elsewhere).
        OSError: see :func:`atomic_path`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=allow_nan) + end
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def named_errors(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let write errors name the file that the user knows; those of a full disk name none."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in _NO_ROOM
        if nameless or (temporary is not None and error.filename in (temporary, str(temporary))):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


def is_no_room(error: BaseException | None) -> bool:
    """Whether an error is itself that of a full disk (or quota, or limit of a file's size)."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def find_no_room(error: BaseException | None) -> OSError | None:
    """The error of a full disk (or quota, or limit of a file's size) behind an error, if any:
    the last that names a file, or else the last."""
    found: list[OSError] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and is_no_room(error):
            found.append(error)
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return next((e for e in found if e.filename is not None), found[0] if found else None)


def check_file_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written, before anything costly is done for it.

    Raises:
        OSError: its folder, or the first of its parents that is there, takes no new files.
    """
    folder = Path(path).expanduser().absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write here", str(folder))

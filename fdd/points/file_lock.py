"""Locks that keep a second process out of files that one is writing.

The lock is the operating system's: it ends with its process however that ends, also in a container
or on a machine that is gone, so nothing that a killed process leaves has to be cleared away. The
file says who has the lock, ``{"pid": ..., "host": ...}``, for people; it means nothing without it.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileHeldError", "FileLock", "lock_holder"]

#: Descriptors of the locks that this process holds.
_held: set[int] = set()


def _let_go() -> None:
    """In a forked process, such as a loader's worker: it must not keep the lock when the process
    that took it is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def lock_holder(path: str | os.PathLike[str]) -> str:
    """Who has the lock, such as "process 12 on host"; empty where nobody has."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return "" if _lock(descriptor, shared=True) else _describe(Path(path))
    finally:
        os.close(descriptor)


class FileHeldError(OSError):
    """A lock that somebody has; ``who`` is that, as :func:`lock_holder` says it."""

    def __init__(self, path: Path, who: str) -> None:
        super().__init__(f"{path}: {who} has this lock")
        self.who = who


class FileLock:
    """A lock that this process takes when it is made, and holds until :meth:`release`.

    On a file system without locks, nobody is kept out.

    Attributes:
        path: of the lock's file, whose folder must exist.

    Raises:
        FileHeldError: another process has it, or another lock of this process.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = _take(self.path)

    def release(self) -> None:
        """Give it back, and remove the file. Twice is no error, and in a forked process nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor in _held:
            # Removed first: whoever opened it meanwhile sees that it is not there any more. Unless
            # this one's file was deleted and the path is another process's.
            with suppress(OSError):
                if _is_at(descriptor, self.path):
                    self.path.unlink()
            _held.discard(descriptor)
            os.close(descriptor)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(descriptor):
                raise FileHeldError(path, _describe(path))
            if not _is_at(descriptor, path):
                os.close(descriptor)
                continue  # its holder has removed it meanwhile
            os.ftruncate(descriptor, 0)
            entry = {"pid": os.getpid(), "host": socket.gethostname()}
            os.pwrite(descriptor, json.dumps(entry).encode(), 0)
        except OSError:
            os.close(descriptor)
            raise
        _held.add(descriptor)
        return descriptor


def _describe(path: Path) -> str:
    with suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads(path.read_bytes())
        return f"process {entry['pid']} on {entry['host']}"
    return "another process"


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock a file, or see that another process has; True also where the disk knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

"""One training at a time in a folder: the process that trains there holds a lock on a file in it.

The lock is the operating system's: it ends with its process however that ends, also in a container
or on a machine that is gone, so that nothing a killed training leaves has to be cleared away.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detectron2.utils import comm

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "describe_holder", "hold_folder", "refuse_held_folder"]

#: In the folder of a run as long as it is trained, ``{"pid": ..., "host": ...}`` for people. It
#: means nothing without the lock.
LOCK = "training.lock"

#: Descriptors of the locks that this process holds.
_held: set[int] = set()


def _let_go() -> None:
    """In a forked process, such as a loader's worker: it must not keep the lock when the training
    is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def describe_holder(folder: str | os.PathLike[str]) -> str:
    """Which training is running in ``folder``, and what to do; empty where none is."""
    path = Path(folder, LOCK)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return "" if _lock(descriptor, shared=True) else _describe(path)
    finally:
        os.close(descriptor)


def _describe(path: Path) -> str:
    who = "another process"
    with suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads(path.read_bytes())
        who = f"process {entry['pid']} on {entry['host']}"
    return (
        f"OUTPUT_DIR {path.parent}: a training is running in it ({who}): wait for its end, stop "
        "it, or choose another OUTPUT_DIR"
    )


def refuse_held_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which a training is running; to be called by every process.

    Raises:
        FileExistsError: on every process; names the training, and says what to do.
    """
    found = comm.all_gather(describe_holder(folder))
    if held := next(filter(None, found), ""):
        raise FileExistsError(held)


@contextmanager
def hold_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other trainings out of ``folder``, which is made; to be called by every process.

    On a disk that knows no locks, nobody is kept out.

    Raises:
        FileExistsError: on every process; one is running there.
        OSError: on every process; the folder cannot be written to.
    """
    path = Path(folder or ".", LOCK)
    error: OSError | None = None
    descriptor = -1
    if comm.is_main_process():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _take(path)
        except OSError as problem:
            error = problem
    first = next((e for e in comm.all_gather(error) if e is not None), None)
    try:
        if first is not None:
            raise first
        yield
    finally:
        if descriptor in _held:
            # Removed first: whoever opened it meanwhile sees that it is not there any more. Unless
            # it is another training's, because somebody has deleted this one's.
            with suppress(OSError):
                if _is_at(descriptor, path):
                    path.unlink()
            _held.discard(descriptor)
            os.close(descriptor)


def _take(path: Path) -> int:
    """Lock the file for this process; its descriptor.

    Raises:
        FileExistsError: another process has it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(descriptor):
                raise FileExistsError(_describe(path))
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

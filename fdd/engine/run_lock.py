"""One training at a time in a folder: a file in it says which process trains there."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from detectron2.utils import comm

__all__ = ["LOCK", "describe_holder", "hold_folder", "refuse_held_folder"]

#: In the folder of a run as long as it is trained: ``{"pid": ..., "host": ..., "space": ...,
#: "started": ...}``. What a killed process left of it counts for nothing.
LOCK = "training.lock"


@dataclass(frozen=True)
class _Process:
    """Which process it is.

    Attributes:
        pid: its number.
        host: name of its machine.
        space: where its number counts: two containers may have a process 1 each. Empty: unknown.
        started: differs between two processes that have had the same number. Empty: unknown.
    """

    pid: int
    host: str
    space: str
    started: str

    @classmethod
    def find(cls, pid: int) -> _Process | None:
        """The running process with this number here; None where there is none."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # somebody else's
            pass
        space = started = ""
        with suppress(OSError, IndexError):
            # The name, in brackets, may hold anything.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] in "ZX":  # it has ended, and its parent has not asked yet
                return None
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            started = f"{boot}/{fields[19]}"
            space = os.readlink("/proc/self/ns/pid")
        return cls(pid, socket.gethostname(), space, started)

    @classmethod
    def read(cls, content: bytes) -> _Process | None:
        """From the content of a lock file; None where it is none (its writer was killed)."""
        try:
            process = cls(**json.loads(content))
        except (TypeError, ValueError):
            return None
        return process if isinstance(process.pid, int) and process.pid > 0 else None

    @property
    def is_elsewhere(self) -> bool:
        """Whether it cannot be seen from here."""
        here = _Process.find(os.getpid())
        return here is None or (here.host, here.space) != (self.host, self.space)

    @property
    def has_ended(self) -> bool:
        if self.is_elsewhere:
            return False
        now = _Process.find(self.pid)
        return now is None or now.started != self.started


def describe_holder(folder: str | os.PathLike[str]) -> str:
    """Which training is running in ``folder``, and what to do; empty where none is."""
    path = Path(folder, LOCK)
    try:
        return _describe(path, path.read_bytes())
    except OSError:
        return ""


def _describe(path: Path, content: bytes) -> str:
    process = _Process.read(content)
    if process is None or process.has_ended:
        return ""
    if not process.is_elsewhere:
        return (
            f"OUTPUT_DIR {path.parent}: a training is running in it (process {process.pid}): wait "
            "for its end, stop it, or choose another OUTPUT_DIR"
        )
    return (
        f"OUTPUT_DIR {path.parent}: a training of another host, {process.host}, was begun in it "
        f"(process {process.pid}), and whether it is still running cannot be seen from here "
        f"({socket.gethostname()}): choose another OUTPUT_DIR or, if it has ended, delete {path}"
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

    Raises:
        FileExistsError: on every process; one is running there.
        OSError: on every process; the folder cannot be written to.
    """
    path = Path(folder or ".", LOCK)
    error: OSError | None = None
    if comm.is_main_process():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if held := _take(path):
                error = FileExistsError(held)
        except OSError as problem:
            error = problem
    error = next((e for e in comm.all_gather(error) if e is not None), None)
    if error is not None:
        raise error
    try:
        yield
    finally:
        if comm.is_main_process():
            with suppress(OSError):
                path.unlink()


def _take(path: Path) -> str:
    """Write this process into the lock file; returns who has it already, see
    :func:`describe_holder`."""
    while True:
        with open(path, "a+b") as handle:
            # Two that find a lock of a killed process take it one after the other.
            with suppress(OSError):  # some network disks know no such locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle.fileno(), path):
                continue  # its holder has removed it meanwhile
            handle.seek(0)
            if held := _describe(path, handle.read()):
                return held
            handle.truncate(0)
            own = _Process.find(os.getpid())
            handle.write(json.dumps(asdict(own) if own else {}).encode())
            return ""


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

"""A long command beside the server: a training or an export, one at a time, in its own process.

It works on files that were copied when it began, so that clicks go on meanwhile, and at a lower
priority, so that they are answered first. What it says goes into ``log.txt`` of its folder. With
the server it ends, too.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

__all__ = ["Busy", "Job", "JobRunner", "new_folder"]

_NICE = 10
_GRACE = 10.0  # seconds from asking a process to end to making it
_LAST_LINES = 12
_ERROR = re.compile(r"^fdd [a-z -]+: error: ", re.MULTILINE)


class Busy(RuntimeError):
    """Another job is running."""


@dataclass
class Job:
    """What is done.

    Attributes:
        kind: "training" or "export".
        folder: new, the job's own; log.txt and its results are in it.
        commands: run one after the other; the first that fails ends the job.
        finish: called after the last command, in a thread of its own; gives what there is to say,
            or raises.
        progress: gives the share that is done, 0 to 1, and words for it; None as long as nothing is
            known.
        ended: called at the end, whatever it was.
        state: "running", then "done", "failed" or "stopped".
        said: for the user, at the end.
    """

    kind: str
    folder: Path
    commands: Sequence[Sequence[str]]
    finish: Callable[[], str]
    progress: Callable[[], tuple[float, str] | None] = lambda: None
    ended: Callable[[], None] = lambda: None
    state: str = "running"
    said: str = ""
    started: float = field(default_factory=time.monotonic)

    def record(self) -> dict[str, Any]:
        """``kind``, ``state``, ``folder``, ``said``, ``share``, ``words``, ``seconds``."""
        found = self.progress() if self.state == "running" else None
        share, words = found if found is not None else (0.0, "")
        record = {"kind": self.kind, "state": self.state, "folder": str(self.folder)}
        seconds = round(time.monotonic() - self.started)
        return record | {"said": self.said, "share": share, "words": words, "seconds": seconds}


class JobRunner:
    """Runs jobs, one at a time; every method may be called from any thread."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._job: Job | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def last(self) -> Job | None:
        """The job that is running, or else the one before."""
        with self._state:
            return self._job

    def start(self, make: Callable[[], Job]) -> Job:
        """Begin a job, made only if none is running.

        Raises:
            Busy: one is.
        """
        with self._state:
            if self._job is not None and self._job.state == "running":
                what = {"training": "a training", "export": "an export"}[self._job.kind]
                raise Busy(f"{what} is running; wait for it, or stop it")
            job = make()
            self._job, self._stopping = job, False
            self._thread = threading.Thread(target=self._run, args=(job,), name=job.kind)
            self._thread.daemon = True
            self._thread.start()
            return job

    def stop(self) -> None:
        """End what is running; returns when it has."""
        with self._state:
            self._stopping = True
            process, thread = self._process, self._thread
        if process is not None:
            _end(process)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, job: Job) -> None:
        try:
            for command in job.commands:
                self._run_command(job, command)
            with self._state:
                if self._stopping:
                    raise _Stopped
            said = job.finish()
            state = "done"
        except _Stopped:
            state, said = "stopped", f"stopped; what there is of it is in {job.folder}"
        except Exception as error:
            state, said = "failed", str(error) or type(error).__name__
        try:
            job.ended()
        except Exception:
            logger.exception("after a %s", job.kind)
        with self._state:
            job.said = said
            job.state = state

    def _run_command(self, job: Job, command: Sequence[str]) -> None:
        log = job.folder / "log.txt"
        # One core is left to the labels, if nothing else is asked for.
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))}
        environment = threads | os.environ
        with open(log, "ab") as out:
            with self._state:
                if self._stopping:
                    raise _Stopped
                process = self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # Ctrl-C in the terminal is for the server, which ends this.
                    start_new_session=True,
                )
            if hasattr(os, "setpriority"):
                with suppress(OSError):
                    os.setpriority(os.PRIO_PGRP, process.pid, _NICE)
            code = process.wait()
        with self._state:
            self._process = None
            if self._stopping:
                raise _Stopped
        if code:
            raise RuntimeError(f"failed (exit status {code}): {_what_failed(log)}\nSee {log}")


class _Stopped(Exception):
    pass


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has begun: by asking first."""
    ways = [signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)]
    for way in ways:
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, way)
            else:
                process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def _what_failed(log: Path) -> str:
    """The error that a command of this program ends with, or else its last lines."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = "".join(deque(file, _LAST_LINES)).strip()
    except OSError as error:
        return str(error)
    found = _ERROR.search(lines)
    return lines if found is None else lines[found.end() :]


def new_folder(parent: Path, name: str) -> Path:
    """Make the first of ``name_1``, ``name_2``, ... that is not there.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        return folder

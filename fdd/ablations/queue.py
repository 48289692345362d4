"""Runs one after another, or some at a time, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from fdd.ablations.records import read_record


class QueuedRun(Protocol):
    """What the queue knows of a run: its results lie in ``<output>/<group>/<name>``."""

    @property
    def group(self) -> str: ...

    @property
    def name(self) -> str: ...

    def record(self, folder: Path) -> Path: ...


_R = TypeVar("_R", bound=QueuedRun)


@dataclass
class _Job(Generic[_R]):
    run: _R
    process: subprocess.Popen[bytes]
    console: Path
    start: float
    slot: int


class RunQueue(Generic[_R]):
    """Starts the runs that are not done yet and tells about each of them in one line.

    A run that fails is named with the end of its output; the others go on.
    """

    def __init__(
        self,
        command: Callable[[_R], Sequence[str]],
        finished: Callable[[_R], dict[str, Any] | None],
        output: Path,
        jobs: int = 1,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """
        Args:
            command: of a run, with its arguments.
            finished: a run's record if it is done.
            output: a run's console goes to ``<output>/<group>/<name>/console.txt``.
            jobs: runs at a time; each gets its share of the CPU's threads, and on a machine with
                several GPUs they take turns on these.
            environment: variables that the runs get beside the caller's own.
        """
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}; expected at least 1")
        self.command, self.finished, self.output = command, finished, output
        self.jobs, self.environment, self.say = jobs, dict(environment or {}), say
        self.failed: list[_R] = []
        self._active: list[_Job[_R]] = []
        self._times: list[float] = []

    def work(self, runs: Sequence[_R], seconds: float | None = None) -> bool:
        """Run what is not done.

        Args:
            runs: in the order in which they start.
            seconds: after which no run is started any more; those that are under way end.

        Returns:
            Whether all runs have a record now.
        """
        until = None if seconds is None else time.monotonic() + seconds
        waiting = [run for run in runs if self.finished(run) is None]
        skipped = len(runs) - len(waiting)
        if skipped:
            self.say(f"{skipped} of {len(runs)} runs are done already")
        self._total, self._done = len(runs), skipped
        left, late = list(waiting), 0
        try:
            while left or self._active:
                if left and until is not None and time.monotonic() >= until:
                    late = len(left)
                    left.clear()
                    self.say(f"The time is up: {late} runs are not started")
                while left and len(self._active) < self.jobs:
                    run = left.pop(0)
                    if self.finished(run) is None:  # nobody else did it meanwhile
                        self._start(run)
                    else:
                        self._done += 1
                time.sleep(0.1)
                for job in [job for job in self._active if job.process.poll() is not None]:
                    self._active.remove(job)
                    self._end(job, len(left))
        finally:
            self.terminate()
        return not self.failed and not late

    def terminate(self) -> None:
        """End the runs that are under way; they go on from their last checkpoints another time."""
        for job in self._active:
            job.process.terminate()

    def _start(self, run: _R) -> None:
        slot = next(n for n in range(self.jobs) if all(job.slot != n for job in self._active))
        console = self.output / run.group / run.name / "console.txt"
        console.parent.mkdir(parents=True, exist_ok=True)
        with open(console, "ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *self.command(run)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._share(slot), **self.environment},
            )
        self._active.append(_Job(run, process, console, time.perf_counter(), slot))

    def _share(self, slot: int) -> dict[str, str]:
        if self.jobs == 1:
            return {}
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count() if named is None else 0
        devices = named.split(",") if named else [str(n) for n in range(count)]
        if len(devices) > 1:
            share["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return share

    def _end(self, job: _Job[_R], waiting: int) -> None:
        self._done += 1
        seconds = time.perf_counter() - job.start
        head = f"[{self._done:>4d}/{self._total}] {job.run.group} {job.run.name:<44s}"
        record = self.finished(job.run)
        if job.process.returncode or record is None:
            self.failed.append(job.run)
            self.say(f"{head} FAILED (exit code {job.process.returncode}), {job.console}:")
            self.say(_last_lines(job.console))
            return
        self._times.append(seconds)
        left = (waiting + len(self._active) / 2) / self.jobs * sum(self._times) / len(self._times)
        label = record["labels"].get(f"{record.get('maker', 'learned')}/PQ")
        labels = "" if label is None else f"  labels {label:5.1f}"
        self.say(
            f"{head} PQ {_figure(record['val'].get('PQ'))}{labels}  {seconds:4.0f} s, "
            f"about {left / 60:.0f} min left"
        )


def finished_in(
    records: Path, digest: Callable[[_R], str]
) -> Callable[[_R], dict[str, Any] | None]:
    """Looks for records in a folder; one of another config does not count."""
    return lambda run: read_record(run.record(records), digest(run))


def _figure(value: float | None) -> str:
    return "  nan" if value is None else f"{value:5.1f}"


def _last_lines(path: Path, count: int = 8) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join("    " + line for line in lines[-count:])

"""Rows of the benchmark: two arrangements of one computation, proven equal, then measured.

Every row runs in processes of its own, forked from one that has imported everything and computed
nothing: a crash stays in its row, memory that one row kept does not slow the next, and timing and
memory get the allocator that suits them.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from benchmarks.measure import MIN_QUIET, keep_pages, peak_extra_bytes, return_pages, time_rounds

if TYPE_CHECKING:
    from typing_extensions import Self

# What the kernel's memory counters resolve; a smaller peak counts as this much in a ratio.
_RESOLUTION_MIB = 0.25


_PR_SET_PDEATHSIG = 1


class Skip(Exception):
    """Raised by what is called: it does not exist on this machine."""


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
        value: what was returned. status: "ok", "failed" or "skipped". note: why it is not ok.
    """

    value: Any
    status: str = "ok"
    note: str = ""


def call_in_child(
    function: Callable[..., Any], arguments: tuple[Any, ...], threads: int, limit_s: float
) -> Answer:
    """Call ``function`` in a forked process with a folder for temporary files of its own.

    This process must not have computed anything on several threads: a fork would miss them.

    Args:
        threads: of torch, in the process.
        limit_s: the process is ended after so long.
    """
    with tempfile.TemporaryDirectory(prefix="fdd_bench_") as folder:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(sender, folder, threads, function, arguments))
        child.start()
        sender.close()
        try:
            if not receiver.poll(limit_s):
                return Answer(None, "failed", f"stopped after {limit_s:.0f} s")
            answer = receiver.recv()
            child.join(10)
            return answer
        except EOFError:
            child.join(10)
            return Answer(None, "failed", _how_it_ended(child.exitcode or 0))
        finally:
            receiver.close()
            if child.is_alive():
                os.killpg(child.pid, signal.SIGKILL)  # with the worker processes that it may have
            child.join()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the row's process ended with status {code}"
    memory = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the row's process was killed by signal {-code}{memory}"


def _child(
    sender: Any,
    folder: str,
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.setpgrp()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # do not outlive a killed run
    tempfile.tempdir = folder  # it goes with the process, whatever happens to that
    gc.freeze()  # what was imported is not looked through again at every collection
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        answer = Answer(function(*arguments))
    except Skip as reason:
        answer = Answer(None, "skipped", str(reason))
    except Exception as error:  # whatever it is, it belongs into the report
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        answer = Answer(None, "failed", f"{type(error).__name__} at {place}: {error}")
    sender.send(answer)
    sender.close()


@dataclass(frozen=True)
class Case:
    """The closures of one row, with their inputs inside.

    Attributes:
        ours: the package's form, forward and backward where there is one.
        peer: the plain form; ``None`` for a row that is measured in items a second.
        check: deviation of ours from the peer's results (the row's tolerance bounds it), or an
            ``AssertionError``. Runs before anything is timed.
        variants: further forms by name, timed in the same rounds: each becomes a row of its own,
            ``row/name``, without a target and without a peak, beside the same peer.
    """

    ours: Callable[[], object]
    peer: Callable[[], object] | None
    check: Callable[[], float]
    variants: Mapping[str, Callable[[], object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        name: ``part/variant/size``; unique.
        what: sizes, and where the peer's form is published, in one line.
        setup: makes the case; called again in every process.
        target: least ratio peer / ours of the time, or least items a second where ``items`` is
            given; ``None`` for a row that only informs.
        memory_target: least ratio peer / ours of the peak extra memory.
        tolerance: largest deviation that :attr:`Case.check` may find.
        items: what one call of ours handles, for rows in items a second.
        unit: of the target.
        seconds: time for the timing rounds. rounds: at least so many, however long they take.
        memory: False leaves the peaks away (worker processes, or nothing to learn).
        filter_noise: False where closures have worker processes.
    """

    name: str
    what: str
    setup: Callable[[], Case]
    target: float | None = None
    memory_target: float | None = None
    tolerance: float = 0.0
    items: int = 0
    unit: str = "x"
    seconds: float = 8.0
    rounds: int = 3
    memory: bool = True
    filter_noise: bool = True


@dataclass(frozen=True)
class Result:
    """What was found for a row; the fields of one entry of the JSON file.

    Attributes:
        status: "ok", "failed" (unequal or crashed) or "skipped" (a part is missing here).
        ours_s, peer_s: median seconds a call. ours_min_s, peer_min_s: least.
        ratio: peer_s / ours_s. ratio_min: of the least.
        rate: items a second of ours.
        ours_mib, peer_mib: peak extra memory. memory_ratio: peer_mib / ours_mib.
        met: whether all targets of the row are reached; ``None`` without one, or if not ``ok``.
        rounds, quiet_rounds: taken, and undisturbed by other processes.
        deviation: what the check found; at most ``tolerance``.
        wall_s: everything about this row.
        note: why a figure is missing.
    """

    name: str
    what: str
    status: str = "ok"
    ours_s: float | None = None
    peer_s: float | None = None
    ours_min_s: float | None = None
    peer_min_s: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    rate: float | None = None
    unit: str = "x"
    ours_mib: float | None = None
    peer_mib: float | None = None
    memory_ratio: float | None = None
    target: float | None = None
    memory_target: float | None = None
    met: bool | None = None
    rounds: int = 0
    quiet_rounds: int = 0
    deviation: float | None = None
    tolerance: float = 0.0
    wall_s: float = 0.0
    note: str = ""

    @classmethod
    def of(cls, row: Row) -> Self:
        """The result of a row before anything is known of it."""
        return cls(
            name=row.name,
            what=row.what,
            unit=row.unit,
            tolerance=row.tolerance,
            target=row.target,
            memory_target=row.memory_target,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def skipped(name: str, why: str) -> Result:
    """A row that cannot run here, and the reason."""
    return Result(name=name, what="", status="skipped", note=why)


@dataclass(frozen=True)
class Options:
    """How rows are measured.

    Attributes:
        threads: of torch, in every process.
        keep_pages: False leaves glibc's malloc as it is while time is taken.
        time_scale: factor on every row's seconds.
        min_rounds: least number of timing rounds.
        memory: whether peaks are taken.
        limit_s: no process of a row may take longer.
    """

    threads: int = 2
    keep_pages: bool = True
    time_scale: float = 1.0
    min_rounds: int = 3
    memory: bool = True
    limit_s: float = 240.0


def run_row(row: Row, options: Options) -> list[Result]:
    """Check a row, time it and take its peaks; never raises for what happens inside the row.

    Returns:
        The row's result, and one for each variant.
    """
    start = time.perf_counter()
    base = Result.of(row)

    def ended(answer: Answer) -> list[Result]:
        spent = time.perf_counter() - start
        return [replace(base, status=answer.status, note=answer.note, wall_s=spent)]

    def in_child(function: Callable[..., Any], *more: Any) -> Answer:
        return call_in_child(function, (row, options, *more), options.threads, options.limit_s)

    answer = in_child(_check_and_time)
    if answer.status != "ok":
        return ended(answer)
    times, common = answer.value
    sides = [side for side in ("ours", "peer") if side in times]
    figures: dict[str, Any] = {}
    for side in sides:
        figures[f"{side}_s"], figures[f"{side}_min_s"] = times.pop(side)
        if row.memory and options.memory:
            answer = in_child(_take_peak, side)
            if answer.status != "ok":
                return ended(answer)
            figures[f"{side}_mib"] = answer.value
    if common["quiet_rounds"] < MIN_QUIET:
        common["note"] = "fewer than three rounds were quiet: of little worth"
    results = [judge(replace(base, **common, **figures), row)]
    for name, (median, least) in times.items():
        theirs = {key: figures.get(key) for key in ("peer_s", "peer_min_s")}
        own = {"name": f"{row.name}/{name}", "target": None, "memory_target": None}
        variant = replace(base, **common, **own, **theirs, ours_s=median, ours_min_s=least)
        results.append(judge(variant, replace(row, target=None, memory_target=None)))
    results[0] = replace(results[0], wall_s=time.perf_counter() - start)
    return results


def judge(result: Result, row: Row) -> Result:
    """Fill in what follows from the measured figures."""
    ratio = rate = memory_ratio = ratio_min = None
    if result.ours_s and result.peer_s:
        ratio = result.peer_s / result.ours_s
    if result.ours_min_s and result.peer_min_s:
        ratio_min = result.peer_min_s / result.ours_min_s
    if result.ours_s and row.items:
        rate = row.items / result.ours_s
    if result.ours_mib is not None and result.peer_mib is not None:
        memory_ratio = result.peer_mib / max(result.ours_mib, _RESOLUTION_MIB)
    value = rate if row.items else ratio
    wanted = [(value, row.target), (memory_ratio, row.memory_target)]
    judged = [(v, t) for v, t in wanted if t is not None]
    # A figure that was not taken (no memory wanted) is no verdict.
    complete = judged and all(v is not None for v, _ in judged)
    return replace(
        result,
        ratio=ratio,
        ratio_min=ratio_min,
        rate=rate,
        memory_ratio=memory_ratio,
        met=all(v >= t for v, t in judged) if complete else None,
    )


def _check_and_time(
    row: Row, options: Options
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """(median and least seconds) of every side, and what is common to them."""
    if options.keep_pages:
        keep_pages()
    case = row.setup()
    deviation = float(case.check())
    if not deviation <= row.tolerance:  # NaN is a failure
        raise AssertionError(
            f"ours and the peer's form differ by {deviation:.3g}; at most {row.tolerance:.3g} is "
            "allowed, so the times would compare different computations"
        )
    sides = {"ours": case.ours}
    if case.peer is not None:
        sides["peer"] = case.peer
    timing = time_rounds(
        sides | dict(case.variants),
        row.seconds * options.time_scale,
        min_rounds=min(row.rounds, options.min_rounds),
        filter_noise=row.filter_noise,
    )
    times = {side: (timing.median(side), timing.least(side)) for side in timing.seconds}
    rounds = {"rounds": len(timing.quiet), "quiet_rounds": sum(timing.quiet)}
    return times, rounds | {"deviation": deviation}


def _take_peak(row: Row, options: Options, side: str) -> float:
    return_pages()
    case = row.setup()
    run = case.ours if side == "ours" else case.peer
    assert run is not None
    return peak_extra_bytes(run) / 2**20

"""Time and memory of closures, in ways that survive a shared machine (Linux with glibc).

Three things spoil figures on a small machine. *Neighbours*: one busy core beside a two-thread
operation slows it many times over, because OpenMP's barriers wait for the slower thread; rounds
during which other processes worked are dropped. *First touches*: glibc gives big blocks back to the
system and each new one costs a page fault every 4 KiB, so the same function reads two or three
times slower; pages are kept while time is taken. *Kept pages* in turn hide memory, so the peak is
taken in a process of its own that keeps none.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Share of a core that other processes may use during a quiet round.
QUIET = 0.1
# A round's measurement of one side lasts at least this long: /proc/stat counts in ticks of 10 ms.
_MIN_SIDE_SECONDS = 0.15
# Calls that last longer need fewer repetitions to be known.
_SLOW_SECONDS = 1.0
# Medians of fewer quiet rounds than this are worse than medians of all rounds.
MIN_QUIET = 3
# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4


def _mallopt(settings: Mapping[int, int]) -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        raise RuntimeError("the C library has no mallopt; the benchmarks need Linux with glibc")
    for parameter, value in settings.items():
        if libc.mallopt(parameter, value) != 1:
            raise RuntimeError(f"mallopt({parameter}, {value}) was refused by the C library")


def keep_pages() -> None:
    """Let malloc keep what it once had, so that no figure holds first-touch page faults.

    The effect of MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ (256 MiB), set from
    inside: no second start of Python is needed.
    """
    _mallopt({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 << 20})


def return_pages() -> None:
    """Let malloc give every block above 64 KiB back when it is freed, so that peaks are exact."""
    _mallopt({_MMAP_THRESHOLD: 64 << 10, _TRIM_THRESHOLD: 64 << 10, _TOP_PAD: 0})


def _status_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}; the benchmarks need Linux")


def peak_extra_bytes(run: Callable[[], object], repeats: int = 2) -> int:
    """Most memory that ``run`` held beyond what was there before, its result included.

    The high-water mark of the resident set (VmHWM), set back by writing 5 to
    /proc/self/clear_refs, less the resident set before. ``run`` goes once in advance, so that
    libraries, thread stacks and caches do not count. Right only where pages are given back, see
    :func:`return_pages`; correct to about 0.25 MiB, since the kernel counts in batches.

    Args:
        run: called ``repeats + 1`` times; twice if it is slow.
        repeats: the least of so many peaks is taken: now and then a library loads something late.
    """
    start = time.perf_counter()
    run()
    if time.perf_counter() - start > _SLOW_SECONDS:
        repeats = 1
    peaks = []
    for _ in range(repeats):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_kib("VmRSS")
        result = run()
        peaks.append(_status_kib("VmHWM") - before)
        del result
    return 1024 * max(0, min(peaks))


def _machine_cpu_seconds() -> float:
    """CPU time that everybody used, and that the host took away, since the machine started."""
    user, nice, system, _, _, irq, soft, *rest = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    stolen = rest[0] if rest else 0
    return (user + nice + system + irq + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime


class Neighbours:
    """How much CPU time processes other than this one used since it was made."""

    def __init__(self) -> None:
        self._machine, self._own = _machine_cpu_seconds(), _own_cpu_seconds()
        self._start = time.perf_counter()

    def share(self) -> float:
        """Cores that others used on average, at least 0."""
        wall = time.perf_counter() - self._start
        others = _machine_cpu_seconds() - self._machine - (_own_cpu_seconds() - self._own)
        return max(0.0, others / wall) if wall > 0 else 0.0


@dataclass
class Timing:
    """Seconds a call, one entry a round, of every side.

    Attributes:
        seconds: per side, the mean of the calls of each round.
        quiet: per round, whether the neighbours were.
    """

    seconds: dict[str, list[float]]
    quiet: list[bool] = field(default_factory=list)

    def _chosen(self, side: str) -> list[float]:
        pairs = zip(self.seconds[side], self.quiet, strict=True)
        calm = [s for s, quiet in pairs if quiet]
        return calm if len(calm) >= MIN_QUIET else self.seconds[side]

    def median(self, side: str) -> float:
        """Median over the quiet rounds, or over all where fewer than three were quiet."""
        return statistics.median(self._chosen(side))

    def least(self, side: str) -> float:
        """Least over the same rounds."""
        return min(self._chosen(side))


def _calls_a_round(run: Callable[[], object]) -> int:
    """How many calls last long enough to be measured; warms up on the way."""
    once = math.inf
    for _ in range(2):
        start = time.perf_counter()
        run()
        once = min(once, time.perf_counter() - start)
        if once > _SLOW_SECONDS:
            return 1
    return max(1, min(1000, round(_MIN_SIDE_SECONDS / max(once, 1e-6))))


def _wait_for_quiet(deadline: float) -> None:
    """Return when neighbours have been quiet for a moment, or at ``deadline`` (perf_counter)."""
    while time.perf_counter() < deadline:
        neighbours = Neighbours()
        time.sleep(0.3)
        if neighbours.share() <= QUIET:
            return


def time_rounds(
    sides: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    min_rounds: int = 3,
    max_rounds: int = 40,
    filter_noise: bool = True,
) -> Timing:
    """Time closures in turns, so that what changes on the machine changes for all of them.

    Rounds go on until ``seconds`` are over, but not before ``min_rounds``. After a disturbed round
    it waits for a quiet moment; where fewer than three rounds were quiet it goes on up to twice as
    long, and then ends: the result says how many were. The order of the sides alternates.

    Args:
        sides: closures by name.
        seconds: time to spend on rounds, without the warm-up (two calls a side).
        min_rounds: rounds at least.
        max_rounds: rounds at most.
        filter_noise: False for closures with worker processes, whose CPU time is not told apart
            from a neighbour's; then every round counts as quiet.
    """
    calls = {name: _calls_a_round(run) for name, run in sides.items()}
    timing = Timing({name: [] for name in sides})
    start_of_all, order = time.perf_counter(), list(sides)

    def go_on() -> bool:
        rounds, spent = len(timing.quiet), time.perf_counter() - start_of_all
        if rounds < min_rounds:
            return True
        patience = seconds if sum(timing.quiet) >= MIN_QUIET else 2 * seconds
        return rounds < max_rounds and spent < patience

    while go_on():
        if timing.quiet and not timing.quiet[-1]:
            _wait_for_quiet(start_of_all + 2 * seconds)
        gc.collect()
        neighbours = Neighbours()
        for name in order:
            start = time.perf_counter()
            for _ in range(calls[name]):
                sides[name]()
            timing.seconds[name].append((time.perf_counter() - start) / calls[name])
        timing.quiet.append(not filter_noise or neighbours.share() <= QUIET)
        order.reverse()
    return timing

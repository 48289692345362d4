"""Check, time and memory of one row on a GPU (or, to try the code, on a CPU)."""

from __future__ import annotations

import gc
import importlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.harness import Case, Result, Row, judge
from benchmarks.measure import Timing

#: Memory that an operator may hold, over that of its inputs, results and gradients.
FLOOR_FACTOR = 1.2
_WARM_UPS, _MIN_ROUNDS, _MAX_ROUNDS = 5, 5, 50
# One side's part of a round lasts about this long, so that a short kernel is launched many times.
_SIDE_SECONDS, _MAX_CALLS = 0.02, 100


@dataclass(frozen=True)
class GpuCase(Case):
    """A case with what a GPU's row reports beside.

    Attributes:
        images: that one call handles; 0 where this says nothing.
        inputs_mib: memory of the inputs, which lies there before a call.
        floor_mib: memory of inputs, results and all gradients: less is not possible. 0 where
            nobody counted.
        judge_floor: whether ``FLOOR_FACTOR`` times the floor is a target of the row.
        clean_up: called when the row is done.
    """

    images: int = 0
    inputs_mib: float = 0.0
    floor_mib: float = 0.0
    judge_floor: bool = False
    clean_up: Callable[[], object] = field(default=gc.collect)


@dataclass(frozen=True)
class GpuResult(Result):
    """A row's result with what only a GPU's rows have.

    Attributes:
        images_s, peer_images_s: images a second.
        ours_gib, peer_gib: peak of allocated memory above what was there before.
        floor_mib: inputs, results and gradients together.
        floor_ratio: inputs and peak of ours over that; at most ``FLOOR_FACTOR`` is wanted.
    """

    images_s: float | None = None
    peer_images_s: float | None = None
    ours_gib: float | None = None
    peer_gib: float | None = None
    floor_mib: float | None = None
    floor_ratio: float | None = None


def _errors() -> tuple[type[Exception], ...]:
    """What may go wrong inside a row: in an operator, a compiler, or an optional package."""
    found: tuple[type[Exception], ...] = (
        *(RuntimeError, torch.cuda.OutOfMemoryError, AssertionError, ArithmeticError),
        *(ValueError, TypeError, AttributeError, LookupError),
        *(OSError, subprocess.SubprocessError),
    )
    try:
        triton_errors = importlib.import_module("triton.errors")
    except ImportError:
        return found
    return (*found, getattr(triton_errors, "TritonError", RuntimeError))


def run_row(row: Row, device: str, tiny: bool = False) -> GpuResult:
    """Check a row, time it and take its peaks; what goes wrong in it is its result.

    Args:
        row: its setup gives a :class:`GpuCase`.
        device: "cuda" or "cpu"; peaks are taken on the former only.
        tiny: one round without warm-up: the code runs, the figures mean nothing.

    Returns:
        With status "failed" and a note where the forms are unequal or crash, "skipped" where
        something is not installed.
    """
    start = time.perf_counter()
    base = GpuResult.of(row)
    try:
        result = _measure(row, base, device, tiny)
    except ImportError as error:
        result = replace(base, status="skipped", note=_reason(error))
    except _errors() as error:
        result = replace(base, status="failed", note=_reason(error))
    _release(device)
    return replace(result, wall_s=time.perf_counter() - start)


def _reason(error: Exception) -> str:
    """Type and the first lines of the message; a compiler's may fill pages."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:600]


def _release(device: str) -> None:
    """Let the next row begin with an empty device."""
    gc.collect()
    if device == "cuda" and context_lives():
        torch.cuda.empty_cache()


def context_lives() -> bool:
    """False after an illegal access: then every further call to the device fails too."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _measure(row: Row, base: GpuResult, device: str, tiny: bool) -> GpuResult:
    case = row.setup()
    assert isinstance(case, GpuCase)
    try:
        found = float(case.check())
        if not found <= row.tolerance:  # NaN is a failure
            raise AssertionError(
                f"ours and the peer's form differ by {found:.3g}; at most {row.tolerance:.3g} is "
                "allowed, so the times would compare different computations"
            )
        sides = {"ours": case.ours} | ({"peer": case.peer} if case.peer else {})
        timing = time_in_turns(sides, row.seconds, device, tiny)
        figures: dict[str, Any] = {}
        for side, run in sides.items():
            figures[f"{side}_s"], figures[f"{side}_min_s"] = timing.median(side), timing.least(side)
            if device == "cuda" and row.memory:
                figures[f"{side}_mib"] = peak_extra_mib(run)
    finally:
        case.clean_up()
    rounds = {"rounds": len(timing.quiet), "quiet_rounds": sum(timing.quiet), "deviation": found}
    return with_derived(judge(replace(base, **figures, **rounds), row), case)


def with_derived(result: Any, case: GpuCase) -> GpuResult:
    """Fill in images a second, GiB and what the floor says of the memory."""
    more: dict[str, Any] = {}
    for side, images in (("ours", "images_s"), ("peer", "peer_images_s")):
        time_s, mib = getattr(result, f"{side}_s"), getattr(result, f"{side}_mib")
        if case.images and time_s:
            more[images] = case.images / time_s
        if mib is not None:
            more[f"{side}_gib"] = mib / 1024
    if case.floor_mib:
        more["floor_mib"] = case.floor_mib
        if result.ours_mib is not None:
            more["floor_ratio"] = (case.inputs_mib + result.ours_mib) / case.floor_mib
            if case.judge_floor and result.met is not None:
                more["met"] = result.met and more["floor_ratio"] <= FLOOR_FACTOR
    return replace(result, **more)


def time_in_turns(
    sides: Mapping[str, Callable[[], object]], seconds: float, device: str, tiny: bool = False
) -> Timing:
    """Time closures in turns, in alternating order, after warm-ups.

    Args:
        sides: closures by name.
        seconds: for all rounds, but there are at least five.
        device: "cuda" times by events on the current stream, "cpu" by the clock.
        tiny: one call and one round each, without a warm-up.
    """
    calls = dict.fromkeys(sides, 1)
    if not tiny:
        for name, run in sides.items():
            elapsed(run, _WARM_UPS, device)
            once = max(elapsed(run, 1, device), 1e-6)
            calls[name] = max(1, min(_MAX_CALLS, round(_SIDE_SECONDS / once)))
    least, most = (1, 1) if tiny else (_MIN_ROUNDS, _MAX_ROUNDS)
    timing, order, start = Timing({name: [] for name in sides}), list(sides), time.perf_counter()

    def go_on() -> bool:
        rounds = len(timing.quiet)
        return rounds < least or (rounds < most and time.perf_counter() - start < seconds)

    while go_on():
        for name in order:
            timing.seconds[name].append(elapsed(sides[name], calls[name], device))
        timing.quiet.append(True)
        order.reverse()
    return timing


def elapsed(run: Callable[[], object], calls: int, device: str) -> float:
    """Seconds a call, mean of ``calls`` in a row; launching counts where the device waits."""
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


def peak_extra_mib(run: Callable[[], object]) -> float:
    """Most memory that PyTorch had allocated during a call, above what it had before."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak / 2**20

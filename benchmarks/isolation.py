"""Calls in a process of their own, forked from this one, whatever becomes of it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

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

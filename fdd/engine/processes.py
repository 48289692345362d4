"""The processes of a command on one or several machines: begun, joined, and ended together.

Detectron2's ``launch`` begins those of a machine; of ``torchrun``, each runs the command itself.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

__all__ = ["BAD_USE", "ProcessLostError", "is_under_torchrun", "start_processes"]

#: Exit status of a process that has said itself what is wrong with what it was given.
BAD_USE = 2
# What torch says, in the last lines of a process's traceback, when another one is not there.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Socket closed",
    "Broken pipe",
    "DistBackendError",
    "NCCL communicator was aborted",
    "Timed out waiting",
)
_GO_ON = (
    "A training goes on from its last checkpoint with the same command and --resume, on every "
    "machine."
)


class ProcessLostError(ChildProcessError):
    """A process ended before the others, which were ended with it; says which, and how to go on."""


def is_under_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that torchrun has begun."""
    return "TORCHELASTIC_RUN_ID" in environment and int(environment.get("WORLD_SIZE", "1")) > 1


def start_processes(
    process: Callable[[argparse.Namespace], object], args: argparse.Namespace
) -> None:
    """Run ``process(args)`` in as many processes as the arguments, or torchrun, say.

    Args:
        process: a function that can be pickled.
        args: with ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``.

    Raises:
        ProcessLostError: one was ended from outside, or on another machine.
        SystemExit: one has ended with :data:`BAD_USE`, and has said why.
        ValueError: both torchrun and the arguments ask for several processes.
        Exception: of one process alone, what it raises.
    """
    if is_under_torchrun():
        _join_torchrun(process, args)
        return
    try:
        launch(
            process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:
        if error.exit_code == BAD_USE:
            raise SystemExit(BAD_USE) from None
        raise ProcessLostError(_describe_exit(error, args)) from None
    except ProcessRaisedException as error:
        if not _has_lost_another(str(error)):
            raise
        raise ProcessLostError(
            f"{_name(error.error_index, args)} lost the others: one of them has ended, on this "
            f"machine or another, whose output says why. {_GO_ON}"
        ) from error


def _join_torchrun(
    process: Callable[[argparse.Namespace], object], args: argparse.Namespace
) -> None:
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ValueError(
            f"--num-gpus is {args.num_gpus} and --num-machines {args.num_machines} under torchrun, "
            "which begins the processes itself: leave the two out, or do without torchrun"
        )
    rank, size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    with_gpu = torch.cuda.is_available()
    if with_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if with_gpu else "gloo")
    try:
        comm.create_local_process_group(size)
        process(args)
    except (RuntimeError, dist.DistError) as error:
        if not _has_lost_another(str(error)):
            raise
        raise ProcessLostError(
            f"process {dist.get_rank()} lost the others: one of them has ended, whose output says "
            f"why. {_GO_ON}"
        ) from error
    finally:
        dist.destroy_process_group()


def _has_lost_another(text: str) -> bool:
    return any(sign in text[-4000:] for sign in _LOST)


def _describe_exit(error: ProcessExitedException, args: argparse.Namespace) -> str:
    name = _name(error.error_index, args)
    if error.signal_name is None:
        ended = f"ended with exit status {error.exit_code}"
    else:
        ended = f"was ended by {error.signal_name}"
        if error.signal_name == getattr(signal.Signals(9), "name", ""):
            ended += ", as the system does with what takes too much memory"
    return f"{name} {ended}; those beside it were ended, too. {_GO_ON}"


def _name(index: int, args: argparse.Namespace) -> str:
    rank = args.machine_rank * args.num_gpus + index
    where = f", of machine {args.machine_rank}" if args.num_machines > 1 else ""
    return f"process {rank} of {args.num_gpus * args.num_machines} (from 0{where})"

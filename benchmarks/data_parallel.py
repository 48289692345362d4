"""Two processes with gloo on the CPU beside one: efficiency, gradient buckets, unused parameters.

Every process has one thread and one image, so two of them do twice the work (weak scaling).
Two processes that share a machine are slower even without talking, because they share its memory;
two that train each for itself tell the one from the other.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from benchmarks.measure import keep_pages
from benchmarks.scaling_step import make_step, step_config
from fdd.profiling import synthetic_batch

_SIZE, _THINGS, _STUFF, _ROUNDS = 256, 20, 1, 5


def _batch(instances: int) -> list[dict[str, Any]]:
    return synthetic_batch(_SIZE, _SIZE, num_things=_THINGS, num_stuff=_STUFF, instances=instances)


def _train(rank: int, world_size: int, talk: bool, folder: str) -> None:
    """Time steps; with ``talk`` in DistributedDataParallel, which reports its buckets."""
    torch.set_num_threads(1)
    keep_pages()
    cfg = step_config(_THINGS, _STUFF)
    buckets: dict[int, int] = {}
    if talk:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
        )

    def hook(group, bucket):  # PyTorch looks at annotations, and these would be strings
        buckets[bucket.index()] = bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(group, bucket)

    def wrap(model: torch.nn.Module) -> torch.nn.Module:
        if not talk:
            return model
        comm.create_local_process_group(world_size)
        # As the trainer does it.
        model = create_ddp_model(
            model, broadcast_buffers=False, find_unused_parameters=False, device_ids=None
        )
        model.register_comm_hook(None, hook)
        return model

    _, step = make_step(cfg, _batch(5), wrap)
    step()
    step()  # DistributedDataParallel rearranges its buckets after the first step
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    result = {"seconds": statistics.median(seconds), "buckets": list(buckets.values())}
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    if talk:
        dist.destroy_process_group()


def _train_uneven(rank: int, world_size: int, folder: str) -> None:
    """Steps in which a process has an image without things, or without any point."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    missing: list[str] = []
    batch = _batch(7)
    runner, step = make_step(
        step_config(_THINGS, _STUFF),
        batch,
        lambda model: create_ddp_model(
            model, broadcast_buffers=False, find_unused_parameters=False, device_ids=None
        ),
    )
    for instances in ((7, 0), (0, 7), (0, 0), (1, 3)):
        batch[:] = _batch(instances[rank])
        step()
        missing += [
            name
            for name, parameter in runner.model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
    Path(folder, f"{rank}.json").write_text(json.dumps(missing))
    dist.destroy_process_group()


def _spawn(function: Any, processes: int, *args: Any) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(function, args=(processes, *args, folder), nprocs=processes)
        return [json.loads(Path(folder, f"{r}.json").read_text()) for r in range(processes)]


def measure_data_parallel() -> dict[str, Any]:
    """Seconds a step of one process, of two that do not talk and of two that do; buckets in bytes.

    ``efficiency`` is the time of one process over that of two that train together;
    ``efficiency_of_talking`` compares with two that train each for itself.
    """
    alone = _spawn(_train, 1, False)[0]["seconds"]
    apart = max(r["seconds"] for r in _spawn(_train, 2, False))
    together = _spawn(_train, 2, True)
    slowest = max(r["seconds"] for r in together)
    missing = sorted({name for names in _spawn(_train_uneven, 2) for name in names})
    return {
        "image": _SIZE,
        "one_process_s": alone,
        "two_apart_s": apart,
        "two_together_s": slowest,
        "efficiency": alone / slowest,
        "efficiency_of_talking": apart / slowest,
        "bucket_bytes": together[0]["buckets"],
        "unused_parameters": missing,
    }


if __name__ == "__main__":
    print(json.dumps(measure_data_parallel(), indent=1))

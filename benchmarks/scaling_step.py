"""Time and memory of one training step at one size; run by :mod:`benchmarks.scaling`.

``python -m benchmarks.scaling_step '{"size": 512, "things": 20, "stuff": 1, "instances": 5}'``
prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import fdd.modeling  # noqa: F401  registers the meta-architecture
from benchmarks.measure import QUIET, Neighbours, keep_pages, peak_extra_bytes, return_pages
from fdd.config_files import get_config_file
from fdd.engine.optimizer import build_optimizer, full_model_clip
from fdd.engine.step import StepRunner
from fdd.profiling import cost_of, step_cfg, synthetic_batch

_MIN_ROUNDS, _SECONDS = 3, 10.0


def step_config(things: int, stuff: int, checkpoint: bool = False, device: str = "cpu") -> CfgNode:
    """The published model for so many classes."""
    opts = ["MODEL.FDD.NUM_THINGS", things, "MODEL.FDD.NUM_STUFF", stuff]
    opts += ["MODEL.FDD.CHECKPOINT", checkpoint]
    return step_cfg(get_config_file("Base-FDD"), opts, device)


def make_step(
    cfg: CfgNode, batch: list[dict[str, Any]], wrap: Callable[[Any], Any] = lambda model: model
) -> tuple[StepRunner, Callable[[], None]]:
    """The engine's step on the same batch again and again: forward, backward, clip and AdamW."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    runner = StepRunner(wrap(model), optimizer, clip_norm=full_model_clip(cfg))
    iteration = 0

    def step() -> None:
        nonlocal iteration
        iteration += 1
        with EventStorage(iteration):
            runner.run(iter([batch]), iteration, lambda: None)

    return runner, step


def measure_point(point: dict[str, Any], threads: int) -> dict[str, Any]:
    """Median seconds and peak bytes above weights and optimiser state of a step.

    Beside the measured peak stands the one that the cost model predicts.

    Args:
        point: ``size`` (of square images), ``things``, ``stuff``, ``instances``, ``batch``,
            ``checkpoint``.
        threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    return_pages()
    side, count = point["size"], {key: point[key] for key in ("instances", "batch")}
    config = point["things"], point["stuff"], point["checkpoint"]
    cost = cost_of(step_config(*config, device="meta"), side, side, kernels="cpu", **count)
    batch = synthetic_batch(
        side, side, num_things=point["things"], num_stuff=point["stuff"], **count
    )
    runner, step = make_step(step_config(*config), batch)

    def step_from_nothing() -> None:
        step()
        runner.optimizer.zero_grad(set_to_none=True)  # gradients are part of the peak

    step_from_nothing()  # makes the optimiser's state
    peak = peak_extra_bytes(step_from_nothing)
    keep_pages()
    step()
    rounds: list[tuple[float, bool]] = []
    begin = time.perf_counter()
    while len(rounds) < _MIN_ROUNDS or time.perf_counter() - begin < _SECONDS:
        neighbours, start = Neighbours(), time.perf_counter()
        step()
        rounds.append((time.perf_counter() - start, neighbours.share() <= QUIET))
    quiet = [seconds for seconds, calm in rounds if calm]
    chosen = quiet if len(quiet) >= _MIN_ROUNDS else [seconds for seconds, _ in rounds]
    return point | {
        "seconds": statistics.median(chosen),
        "least_seconds": min(chosen),
        "peak_bytes": peak,
        "predicted_bytes": cost.peak,
        "rounds": len(rounds),
        "quiet_rounds": len(quiet),
    }


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    print(json.dumps(measure_point(arguments, arguments.pop("threads", 2))))

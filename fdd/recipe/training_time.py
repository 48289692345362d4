"""How long a training will take on this machine: a few of its steps are run and timed."""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.data import FDDDatasetMapper
from fdd.data.catalog import forget
from fdd.engine.checks import count_things
from fdd.engine.configs import load_cfg
from fdd.engine.head_training import Examples, head_losses
from fdd.engine.hooks import peak_resident_memory
from fdd.engine.loader import load_training_dicts
from fdd.engine.optimizer import build_optimizer, resolve_schedule
from fdd.engine.step import StepRunner
from fdd.points.wording import counted, describe_duration

__all__ = ["TrainingTime", "measure_training"]

# Seconds after which nothing new is begun.
_BUDGET = 15.0
# Below this share of its time, the process waits for others. Parts of a step use one thread only.
_BUSY = 0.4


@dataclass(frozen=True)
class TrainingTime:
    """What a training costs on this machine.

    Attributes:
        step: seconds an optimiser step.
        steps: of the whole training.
        evaluation: seconds of all evaluations together; None: there was no time to measure one.
        whole_batch: a step was run with as many images as it has; otherwise ``step`` follows from
            a single image.
        device: what ran, in words.
        peak_memory: bytes in use at most, of the GPU or of the process; None unless
            ``whole_batch``.
        undisturbed: seconds an optimiser step if all of this process's threads ran all the time, by
            the processor time that it took; far below ``step`` on a busy CPU. None on a GPU.
        head: seconds of all steps of ``SOLVER.HEAD_ITERS``.
    """

    step: float
    steps: int
    evaluation: float | None
    whole_batch: bool
    device: str
    peak_memory: int | None
    undisturbed: float | None = None
    head: float = 0.0

    def describe(self) -> str:
        """For a terminal, such as "about 9 minutes on this machine (2 CPU threads; ...)"."""
        seconds = self.step * self.steps + self.head + (self.evaluation or 0)
        parts = [self.device, f"{self.step:.2g} s a step, measured"]
        if not self.whole_batch:
            parts[-1] += " on one image"
        if self.head:
            parts.append(f"the panoptic branch alone {describe_duration(self.head)}")
        if self.evaluation:
            parts.append(f"evaluations {describe_duration(self.evaluation)}")
        elif self.evaluation is None:
            parts.append("evaluations not included")
        if self.peak_memory is not None:
            parts.append(f"{self.peak_memory / 2**30:.1f} GiB of memory")
        if self.undisturbed is not None and self.undisturbed < _BUSY * self.step:
            best = describe_duration(seconds * self.undisturbed / self.step)
            parts.append(f"other programs are running: without them about {best}")
        return f"about {describe_duration(seconds)} on this machine ({'; '.join(parts)})"


def measure_training(
    config_file: str | os.PathLike[str], *, budget: float = _BUDGET
) -> TrainingTime:
    """Run steps of a training with random weights, on its own images and points, and time them.

    Nothing is downloaded or written, and random states and registered data sets are left as they
    were.

    Args:
        config_file: of the training.
        budget: seconds after which no further step is begun. A step that would take longer is timed
            on one of its images.

    Raises:
        Exception: as a training would, such as ValueError for a missing data set or RuntimeError
            where memory is too small.
    """
    deadline = time.perf_counter() + budget
    with _without_trace():
        cfg, _ = load_cfg(config_file)
        cfg.MODEL.WEIGHTS = ""
        dicts = load_training_dicts(cfg)
        cfg = resolve_schedule(cfg, len(dicts))
        model = build_model(cfg)
        on_gpu = next(model.parameters()).is_cuda
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        step, used, whole = _time_step(cfg, model, dicts, deadline)
        head = _time_head(cfg, model, dicts) if cfg.SOLVER.HEAD_ITERS else 0.0
        evaluation = _time_evaluations(cfg, model, deadline)
        peak = torch.cuda.max_memory_allocated() if on_gpu else peak_resident_memory()
        return TrainingTime(
            step=step,
            steps=cfg.SOLVER.MAX_ITER,
            evaluation=evaluation,
            whole_batch=whole,
            device=(
                torch.cuda.get_device_name()
                if on_gpu
                else counted(torch.get_num_threads(), "CPU thread")
            ),
            peak_memory=peak if whole else None,
            undisturbed=None if on_gpu else used / torch.get_num_threads(),
            head=head,
        )


def _time_step(
    cfg: CfgNode, model: torch.nn.Module, dicts: Sequence[dict[str, Any]], deadline: float
) -> tuple[float, float, bool]:
    """Seconds and processor seconds of an optimiser step, and whether a whole batch was run."""
    model.train()
    runner = StepRunner(cfg, model, build_optimizer(cfg, model), accumulate_steps=1)
    mapper = FDDDatasetMapper(cfg, is_train=True)
    size = cfg.SOLVER.IMS_PER_BATCH
    workers = cfg.DATALOADER.NUM_WORKERS
    # Images of all sorts: a step's cost grows with the number of its things.
    ordered = sorted(dicts, key=count_things)

    def timed(number: int) -> tuple[float, float]:
        start, used = time.perf_counter(), time.process_time()
        picked = [ordered[int((n + 0.5) / number * len(ordered))] for n in range(number)]
        batch = [mapper({**d, "_seed": n}) for n, d in enumerate(picked)]
        loaded = time.perf_counter() - start
        start = time.perf_counter()
        with EventStorage(0):
            runner.run(iter([batch]), 0, lambda: None)
            runner.settle()
        if runner.device.type == "cuda":
            torch.cuda.synchronize()
        ran = time.perf_counter() - start
        # Workers load beside the steps.
        wall = max(ran, loaded / workers) if workers else ran + loaded
        return wall, time.process_time() - used

    one = timed(1)  # the first step is slower: an upper bound
    whole = time.perf_counter() + one[0] * size < deadline
    best = timed(size) if whole else one
    if time.perf_counter() + best[0] < deadline:
        best = min(best, timed(size if whole else 1))
    factor = cfg.SOLVER.ACCUMULATE_STEPS * (1 if whole else size)
    return best[0] * factor, best[1] * factor, whole


def _time_head(cfg: CfgNode, model: torch.nn.Module, dicts: Sequence[dict[str, Any]]) -> float:
    """Seconds of the steps of ``SOLVER.HEAD_ITERS``, from one step on one image."""
    middle = sorted(dicts, key=count_things)[len(dicts) // 2]
    mapper = FDDDatasetMapper(cfg, is_train=True)
    examples = Examples(model, mapper, [middle], seed=0, cropped=cfg.INPUT.CROP.ENABLED)
    with EventStorage(cfg.SOLVER.MAX_ITER):
        start = time.perf_counter()
        example = examples[0]
        made = time.perf_counter() - start
        start = time.perf_counter()
        torch.stack(list(head_losses(model, [example]).values())).sum().backward()
        model.zero_grad()
        step = time.perf_counter() - start
    seen = cfg.SOLVER.HEAD_ITERS * cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
    return made * min(seen, len(examples) * len(dicts)) + step * seen


def _time_evaluations(cfg: CfgNode, model: torch.nn.Module, deadline: float) -> float | None:
    """Seconds of all evaluations, from one image of each set; None after the deadline."""
    period = cfg.TEST.EVAL_PERIOD
    times = math.ceil(cfg.SOLVER.MAX_ITER / period) if period > 0 else 1
    model.eval()
    mapper = FDDDatasetMapper(cfg, is_train=False)
    seconds = 0.0
    for name in cfg.DATASETS.TEST:
        if time.perf_counter() > deadline:
            return None
        dicts = DatasetCatalog.get(name)
        record = {k: v for k, v in dicts[len(dicts) // 2].items() if k != "points"}
        with torch.no_grad():
            if next(model.parameters()).is_cuda:
                model([mapper(record)])  # the first one prepares the device
            start = time.perf_counter()
            model([mapper(record)])
        seconds += (time.perf_counter() - start) * len(dicts) * times
    return seconds


@contextmanager
def _without_trace() -> Iterator[None]:
    """Random states, registered data sets and the level of logs are as before."""
    names = set(DatasetCatalog.list())
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        logging.disable(disabled)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for name in set(DatasetCatalog.list()) - names:
            forget(name)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

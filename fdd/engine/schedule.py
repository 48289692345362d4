"""From epochs to iterations: the schedule keys that depend on the size of the training set."""

from __future__ import annotations

import logging
import math

from detectron2.config import CfgNode

_WARMUP_SHARE = 0.05


def iterations_per_epoch(cfg: CfgNode, num_images: int) -> int:
    """Optimiser steps that see all images: ``ceil(images / (batch * accumulation))``."""
    return math.ceil(num_images / (cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS))


def resolve_schedule(cfg: CfgNode, num_images: int) -> CfgNode:
    """Return a copy of ``cfg`` whose schedule is in iterations throughout.

    * ``SOLVER.MAX_EPOCHS`` > 0 sets ``SOLVER.MAX_ITER``, and ``SOLVER.EPOCH_STEPS`` sets
      ``SOLVER.STEPS``.
    * A negative ``TEST.EVAL_PERIOD`` or ``SOLVER.CHECKPOINT_PERIOD`` counts epochs: -1 is every
      epoch.
    * ``MODEL.FDD.WARMUP_ITERS`` -1 becomes max(one epoch, 5 % of the iterations).

    Calling it again on its result changes nothing.

    Args:
        cfg: with FDD's keys; not changed.
        num_images: size of the training set after filtering.

    Raises:
        ValueError: naming the key, for a schedule that makes no sense.
    """
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    solver = cfg.SOLVER
    epoch = iterations_per_epoch(cfg, num_images)
    if solver.MAX_EPOCHS > 0:
        _check_epoch_steps(cfg)
        solver.MAX_ITER = round(epoch * solver.MAX_EPOCHS)
        solver.STEPS = tuple(round(epoch * step) for step in solver.EPOCH_STEPS)
    if solver.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER is {solver.MAX_ITER}; it must be at least 1")
    if cfg.TEST.EVAL_PERIOD < 0:
        cfg.TEST.EVAL_PERIOD = round(-epoch * cfg.TEST.EVAL_PERIOD)
    if solver.CHECKPOINT_PERIOD < 0:
        solver.CHECKPOINT_PERIOD = round(-epoch * solver.CHECKPOINT_PERIOD)
    elif solver.CHECKPOINT_PERIOD == 0:
        raise ValueError("SOLVER.CHECKPOINT_PERIOD is 0; set iterations, or -1 for every epoch")
    _resolve_warmup(cfg, epoch)
    if frozen:
        cfg.freeze()
    return cfg


def _check_epoch_steps(cfg: CfgNode) -> None:
    steps, epochs = tuple(cfg.SOLVER.EPOCH_STEPS), cfg.SOLVER.MAX_EPOCHS
    if list(steps) != sorted(set(steps)) or any(not 0 < step < epochs for step in steps):
        raise ValueError(
            f"SOLVER.EPOCH_STEPS is {steps}; with SOLVER.MAX_EPOCHS {epochs} the steps must rise "
            f"and lie strictly between 0 and {epochs}"
        )


def _resolve_warmup(cfg: CfgNode, epoch: int) -> None:
    fdd, max_iter = cfg.MODEL.FDD, cfg.SOLVER.MAX_ITER
    if fdd.WARMUP_ITERS < -1:
        raise ValueError(f"MODEL.FDD.WARMUP_ITERS is {fdd.WARMUP_ITERS}; it must be -1, 0 or more")
    if fdd.WARMUP_ITERS == -1:
        fdd.WARMUP_ITERS = max(epoch, math.ceil(_WARMUP_SHARE * max_iter))
    if max_iter <= fdd.WARMUP_ITERS:
        # A run that never leaves the warm-up is legal (smoke tests), but it should not pass unseen.
        logging.getLogger(__name__).warning(
            "the loss warm-up (MODEL.FDD.WARMUP_ITERS %d) does not end within the run "
            "(SOLVER.MAX_ITER %d)",
            fdd.WARMUP_ITERS,
            max_iter,
        )

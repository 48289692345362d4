"""AdamW with learning-rate factors, and a schedule in epochs or iterations."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler as _build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

_SAMPLING_NAMES = ("sampling_offsets", "reference_points")


def parameter_groups(
    model: nn.Module, *, lr: float, backbone: float, sampling: float
) -> list[dict[str, Any]]:
    """Trainable parameters (shared ones once), one group per learning rate.

    Args:
        lr: of parameters that neither factor applies to.
        backbone, sampling: factors of the backbone, and of sampling offsets and reference points;
            they are never multiplied.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            sampled = any(part in name for part in _SAMPLING_NAMES)
            factor = backbone if "backbone" in name else sampling if sampled else 1.0
            groups.setdefault(factor, []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameter; nothing to optimise")
    return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW for ``model``.

    ``SOLVER.WEIGHT_DECAY`` also falls on norms, biases and embeddings, as in the recipe, so
    Detectron2's ``WEIGHT_DECAY_NORM`` and ``WEIGHT_DECAY_BIAS`` are not read. Clipping by the
    global norm (``CLIP_TYPE: "full_model"``) is done by the trainer; Detectron2's per-parameter
    types are wrapped around here.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        lr=solver.BASE_LR,
        backbone=solver.BACKBONE_MULTIPLIER,
        sampling=solver.SAMPLING_MULTIPLIER,
    )
    optimizer: Any = torch.optim.AdamW
    if solver.CLIP_GRADIENTS.ENABLED and solver.CLIP_GRADIENTS.CLIP_TYPE != "full_model":
        optimizer = maybe_add_gradient_clipping(cfg, optimizer)
    options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    try:
        return optimizer(groups, fused=True, **options)
    except RuntimeError as error:  # a device or a dtype without a kernel
        logging.getLogger(__name__).info("AdamW is not fused here: %s", error)
    return optimizer(groups, **options)


def full_model_clip(cfg: CfgNode) -> float | None:
    """The bound on the global gradient norm, or None where the trainer does not clip."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        return None
    if clip.NORM_TYPE != 2.0:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.NORM_TYPE is {clip.NORM_TYPE}; full_model clips the L2 norm, "
            "set it to 2.0"
        )
    return float(clip.CLIP_VALUE)


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Detectron2's scheduler, spared steps from ``MAX_ITER`` on (one at it is refused there)."""
    steps = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    if steps != tuple(cfg.SOLVER.STEPS):
        logging.getLogger(__name__).warning(
            "SOLVER.STEPS %s: those from SOLVER.MAX_ITER (%d) on have no effect",
            tuple(cfg.SOLVER.STEPS),
            cfg.SOLVER.MAX_ITER,
        )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.STEPS = steps
    return _build_lr_scheduler(cfg, optimizer)


_WARMUP_SHARE = 0.05


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
    epoch = math.ceil(num_images / (solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS))
    if solver.MAX_EPOCHS > 0:
        steps, epochs = tuple(solver.EPOCH_STEPS), solver.MAX_EPOCHS
        if list(steps) != sorted(set(steps)) or any(not 0 < step < epochs for step in steps):
            raise ValueError(
                f"SOLVER.EPOCH_STEPS is {steps}; with SOLVER.MAX_EPOCHS {epochs} the steps must "
                f"rise and lie strictly between 0 and {epochs}"
            )
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

"""AdamW with the recipe's learning-rate factors, and the learning-rate schedule."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler as _build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

_SAMPLING_NAMES = ("sampling_offsets", "reference_points")


def lr_factor(name: str, *, backbone: float, sampling: float) -> float:
    """Learning-rate factor of the parameter ``name``; the two factors are never multiplied."""
    if "backbone" in name:
        return backbone
    if any(part in name for part in _SAMPLING_NAMES):
        return sampling
    return 1.0


def parameter_groups(
    model: nn.Module, *, lr: float, backbone: float, sampling: float
) -> list[dict[str, Any]]:
    """Trainable parameters (shared ones once), one group per learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = lr_factor(name, backbone=backbone, sampling=sampling)
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

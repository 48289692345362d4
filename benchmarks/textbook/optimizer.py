"""AdamW (Loshchilov and Hutter, ICLR 2019, Algorithm 2) after clipping the global norm.

Published: the configs of BraveGroup/PSPS (mmcv's ``OptimizerHook``); both forms are PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """Trainable parameters with the recipe's factors on backbone and sampling (spec of PSPS)."""
    solver = cfg.SOLVER
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = 1.0
        if "backbone" in name:
            factor = solver.BACKBONE_MULTIPLIER
        elif "sampling_offsets" in name or "reference_points" in name:
            factor = solver.SAMPLING_MULTIPLIER
        groups.setdefault(factor, []).append(parameter)
    return [{"params": p, "lr": solver.BASE_LR * factor} for factor, p in groups.items()]


def plain_adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.AdamW:
    """The published form: one parameter after the other."""
    return torch.optim.AdamW(groups, weight_decay=weight_decay, foreach=False, fused=False)


def fused_adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.AdamW:
    """Cheap variant: one flag."""
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


def clip_and_step(optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Clip the L2 norm of all gradients together, then step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=False)
    optimizer.step()

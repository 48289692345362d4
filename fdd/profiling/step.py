"""The training step of a configured model on made-up images of one size.

The model comes from Detectron2's registry: whoever calls must have imported what registers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from fdd.config import add_fdd_config, check_fdd_config
from fdd.profiling.batch import synthetic_batch
from fdd.profiling.counter import StepCounter, count_step
from fdd.profiling.report import StepCost

# Diagnostics are logged at iterations 0, 20, 40, ...; this one is like most.
_ITERATION = 1


def step_cfg(config_file: str, opts: Sequence[Any] = (), device: str = "meta") -> CfgNode:
    """Config of a model with random weights and full weight on every loss.

    Args:
        config_file: such as ``fdd.get_config_file("coco/...")``.
        opts: KEY, VALUE, KEY, VALUE, ..., over the file's values.
        device: of the model.
    """
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.FDD.WARMUP_ITERS", 0, *opts])
    cfg.MODEL.DEVICE = device
    check_fdd_config(cfg)
    return cfg


def training_step(
    cfg: CfgNode, height: int, width: int, *, instances: int, batch: int = 1
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model in training mode, and its forward pass up to the total loss.

    Args:
        cfg: see :func:`step_cfg`.
        height, width, instances, batch: see :func:`fdd.profiling.synthetic_batch`.
    """
    model = build_model(cfg).train()
    images = synthetic_batch(
        height,
        width,
        num_things=cfg.MODEL.FDD.NUM_THINGS,
        num_stuff=cfg.MODEL.FDD.NUM_STUFF,
        instances=instances,
        batch=batch,
    )

    def forward() -> Tensor:
        with EventStorage(_ITERATION):
            return torch.stack(list(model(images).values())).sum()

    return model, forward


def cost_of(
    cfg: CfgNode,
    height: int,
    width: int,
    *,
    instances: int,
    batch: int = 1,
    kernels: str = "gpu",
    amp_dtype: torch.dtype | None = None,
    keep_grads: bool = False,
) -> StepCost:
    """Cost of one step of ``cfg``'s model; see :func:`fdd.profiling.count_step`.

    Of any step but the first of a size: a forward pass before it fills what is cached by size.

    Args:
        kernels, amp_dtype: see :func:`fdd.profiling.count_step`.
        keep_grads: count a step that adds to gradients which are there: any but the first of those
            that are accumulated.
    """
    model, forward = training_step(cfg, height, width, instances=instances, batch=batch)
    if keep_grads:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad(), StepCounter(model, {}, cfg.MODEL.DEVICE):
        forward()
    return count_step(model, forward, kernels=kernels, amp_dtype=amp_dtype, keep_grads=keep_grads)

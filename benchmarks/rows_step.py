"""One whole training step of the model against the textbook arrangement of the same model.

Both sides are zero_grad, forward, backward, clipping of the global gradient norm and an AdamW step.
The learning rate is 0, so that every repetition does the same work on the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import fdd.modeling  # noqa: F401  (registers the model)
from benchmarks.textbook import TextbookStep
from benchmarks.textbook.optimizer import clip_and_step, parameter_groups, plain_adamw
from fdd.config import add_fdd_config, check_fdd_config
from fdd.points.raster import rasterize_points

_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "Base-FDD.yaml"
_POINTS = 10
Batch = list[dict[str, Any]]
# What belongs to a model built here: its config and, once asked for, its optimisers.
_STATE: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def step_config(things: int, stuff: int, changes: Iterable[Any] = ()) -> CfgNode:
    """The ResNet-50 configuration with full-size labels, and no dropout so that losses compare."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(str(_CONFIG))
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 0.0]
        + ["MODEL.FDD.NUM_THINGS", things, "MODEL.FDD.NUM_STUFF", stuff]
        + ["MODEL.FDD.WARMUP_ITERS", 0, "MODEL.FDD.PSEUDO.LABEL_STRIDE", 1]
        + ["MODEL.FDD.ENCODER.DROPOUT", 0.0, "MODEL.FDD.PAN.DROPOUT", 0.0]
        + list(changes)
    )
    check_fdd_config(cfg)
    return cfg


def make_input(size: tuple[int, int], classes: list[int], seed: int = 0) -> dict[str, Any]:
    """What the mapper gives for an image of ``size`` (H, W): smooth colours, 10 points an instance.

    About a third of the neighbouring stride-8 cells are alike, as in photographs.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, 8, 8), dtype=np.float32))
    image = nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
    image = image + 0.01 * torch.from_numpy(rng.standard_normal((3, *size), dtype=np.float32))
    index = np.repeat(np.arange(len(classes)), _POINTS)
    centres = rng.random((len(classes), 2))[index]
    coords = (centres + 0.08 * rng.standard_normal((len(index), 2))).clip(0, 1) * [width, height]
    labels = np.asarray(classes, dtype=np.int64)
    raster = rasterize_points(coords, index, labels, height, width)
    return {
        "file_name": f"{seed}.jpg",
        "image_id": str(seed),
        "height": height,
        "width": width,
        "image": (image.clamp(0, 1) * 255).byte(),
        "classes": torch.from_numpy(labels),
        "instance_ids": list(range(1, len(classes) + 1)),
        "point_coords": torch.from_numpy(coords).float(),
        "point_index": torch.from_numpy(index),
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


def build(
    size: int | tuple[int, int] = 512,
    classes: tuple[int, int] = (80, 53),
    instances: int = 8,
    batch: int = 1,
    device: str = "cpu",
    changes: Iterable[Any] = (),
) -> tuple[nn.Module, Batch]:
    """A model with random weights, and a batch for it.

    Args:
        size: of the images, (H, W) or one side of a square.
        classes: things and stuff.
        instances: of each image; three in eight are stuff.
        batch: images.
        changes: further config keys and values.
    """
    things, stuff = classes
    cfg = step_config(things, stuff, ["MODEL.DEVICE", device, *changes])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    _STATE[model] = {"cfg": cfg}
    height, width = (size, size) if isinstance(size, int) else size
    few = min(stuff, instances * 3 // 8)
    inputs = []
    for i in range(batch):
        rng = np.random.default_rng(100 + i)
        own = rng.integers(0, things, instances - few).tolist()
        own += (things + rng.choice(stuff, few, replace=False)).tolist()
        inputs.append(make_input((height, width), own, seed=i))
    return model, inputs


def _optimizer(model: nn.Module, make: Any) -> torch.optim.Optimizer:
    state = _STATE[model]
    if make not in state:
        cfg = state["cfg"]
        state[make] = make(parameter_groups(model, cfg), cfg.SOLVER.WEIGHT_DECAY)
    return state[make]


def _fused(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


def our_losses(model: nn.Module, inputs: Batch) -> dict[str, Tensor]:
    """The model's own losses."""
    with EventStorage(1):
        return model(inputs)


def textbook_losses(
    model: nn.Module, inputs: Batch, cheap: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The same losses in the textbook arrangement."""
    key = ("textbook", frozenset(cheap))
    state = _STATE[model]
    if key not in state:
        state[key] = TextbookStep(model, state["cfg"], cheap)
    with EventStorage(1):
        return state[key](inputs)


def ours(model: nn.Module, inputs: Batch) -> dict[str, Tensor]:
    """One step as this package takes it; returns the losses, detached."""
    optimizer = _optimizer(model, _fused)
    optimizer.zero_grad(set_to_none=True)
    losses = our_losses(model, inputs)
    torch.stack(list(losses.values())).sum().backward()
    clip = _STATE[model]["cfg"].SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
    optimizer.step()
    return {name: loss.detach() for name, loss in losses.items()}


def textbook(model: nn.Module, inputs: Batch, cheap: Iterable[str] = ()) -> dict[str, Tensor]:
    """One step in the textbook arrangement, the named parts in their cheap variants."""
    make = _fused if "optimizer" in cheap else plain_adamw
    optimizer = _optimizer(model, make)
    optimizer.zero_grad(set_to_none=True)
    losses = textbook_losses(model, inputs, cheap)
    torch.stack(list(losses.values())).sum().backward()
    clip_and_step(optimizer, _STATE[model]["cfg"].SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
    return {name: loss.detach() for name, loss in losses.items()}


def check(model: nn.Module, inputs: Batch, cheap: Iterable[str] = ()) -> float:
    """Largest relative difference between the losses of the two sides."""
    with torch.no_grad():
        mine, theirs = our_losses(model, inputs), textbook_losses(model, inputs, cheap)
    _STATE[model][("textbook", frozenset(cheap))].kept = []
    if set(mine) != set(theirs):
        raise AssertionError(f"losses {sorted(mine)} against {sorted(theirs)}")
    return max(float((mine[k] - theirs[k]).abs() / mine[k].abs().clamp(min=1e-6)) for k in mine)

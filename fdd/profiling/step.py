"""The training step of a configured model on a made-up batch, always the same for one size.

The model comes from Detectron2's registry: whoever calls must have imported what registers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from fdd.config import add_fdd_config, check_fdd_config
from fdd.points.raster import rasterize_points
from fdd.profiling.cost import StepCost
from fdd.profiling.counter import StepCounter, count_step

# Diagnostics are logged at iterations 0, 20, 40, ...; this one is like most.
_ITERATION = 1
# Of a segment.
_POINTS = 10


def synthetic_batch(
    height: int,
    width: int,
    *,
    num_things: int,
    num_stuff: int,
    instances: int,
    batch: int = 1,
    device: str | torch.device = "cpu",
) -> list[dict[str, Any]]:
    """Mapper outputs of ``batch`` images with ``instances`` labelled segments of ten points each.

    About a third of the segments is stuff, every class of it at most once; the others are things.
    The points of a segment lie around a place of its own on a regular grid.

    Args:
        height, width: of the images in pixels, multiples of no number.
        num_things, num_stuff: contiguous classes, things first.
        device: where the images are; labels are on the CPU, as a loader gives them.

    Raises:
        ValueError: when there are more segments than stuff classes and no thing class.
    """
    stuff = min(instances // 3 if num_things else instances, num_stuff)
    if instances > stuff and not num_things:
        raise ValueError(
            f"{instances} segments of {num_stuff} stuff classes: each stuff class is one segment, "
            "so without thing classes there can be no more segments than classes"
        )
    things = [i % num_things for i in range(instances - stuff)]
    classes = np.array(things + [num_things + i for i in range(stuff)], dtype=np.int64)
    return [_image(height, width, classes, i, device) for i in range(batch)]


def _image(
    height: int, width: int, classes: np.ndarray, number: int, device: str | torch.device
) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    columns = max(1, round((len(classes) * width / height) ** 0.5))
    rows = max(1, -(-len(classes) // columns))
    cell = np.arange(len(classes))
    corner = np.stack([cell % columns, cell // columns], 1)[:, None]
    spread = rng.uniform(0.1, 0.9, (len(classes), _POINTS, 2))
    coords = ((corner + spread) * [width / columns, height / rows]).reshape(-1, 2)
    index = np.repeat(cell, _POINTS)
    raster = rasterize_points(coords, index, classes, height, width)
    # Blocks of one colour: neighbours are alike, as in a photograph.
    blocks = rng.integers(0, 256, (3, -(-height // 32), -(-width // 32)), dtype=np.uint8)
    image = blocks.repeat(32, 1).repeat(32, 2)[:, :height, :width].copy()
    return {
        "file_name": f"{number}.jpg",
        "image_id": number,
        "height": height,
        "width": width,
        "image": torch.from_numpy(image).to(device),
        "classes": torch.from_numpy(classes),
        "instance_ids": list(range(len(classes))),
        "point_coords": torch.from_numpy(coords).float(),
        "point_index": torch.from_numpy(index),
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


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

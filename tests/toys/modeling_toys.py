"""Small models, inputs and feature memories for the tests of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

import fdd.modeling  # noqa: F401  (registers the model and its backbone)
from fdd.config import add_fdd_config, check_fdd_config
from fdd.modeling.label_maps import num_valid_cells, valid_cells
from fdd.modeling.layers import Memory, nearest_valid, valid_ratios
from fdd.modeling.structures import StepContext
from fdd.points.raster import rasterize_points

THINGS, STUFF = 3, 2

SMALL: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "FDD",
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_small_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.RESNETS.NORM": "",
    "MODEL.SMALL_RESNET.WIDTHS": (8, 12, 16, 20),
    "MODEL.SMALL_RESNET.DEPTHS": (1, 1, 1, 1),
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.FDD.NUM_THINGS": THINGS,
    "MODEL.FDD.NUM_STUFF": STUFF,
    "MODEL.FDD.HIDDEN_DIM": 16,
    "MODEL.FDD.NUM_HEADS": 2,
    "MODEL.FDD.WARMUP_ITERS": 0,
    "MODEL.FDD.EMBEDDING2D_SIZE": (3, 4),
    "MODEL.FDD.ENCODER.NUM_LAYERS": 1,
    "MODEL.FDD.ENCODER.FFN_DIM": 32,
    "MODEL.FDD.ENCODER.DROPOUT": 0.0,
    "MODEL.FDD.PSEUDO.NUM_LAYERS": 2,
    "MODEL.FDD.PSEUDO.FFN_DIM": 32,
    # Away from the default start, at which a layer's inner weights have no gradient yet.
    "MODEL.FDD.PSEUDO.RESIDUAL_INIT": "xavier",
    "MODEL.FDD.PAN.NUM_QUERIES": 12,
    "MODEL.FDD.PAN.LOCATION_LAYERS": 2,
    "MODEL.FDD.PAN.THING_LAYERS": 2,
    "MODEL.FDD.PAN.STUFF_LAYERS": 2,
    "MODEL.FDD.PAN.FFN_DIM": 32,
    "MODEL.FDD.PAN.DROPOUT": 0.0,
    "MODEL.FDD.PAN.FUSE_INIT": "abs_scaled",
    "MODEL.FDD.PAN.TEST.SCORE_THRESH": 0.0,
    "INPUT.FORMAT": "RGB",
}


def small_cfg(changes: dict[str, Any] | None = None) -> CfgNode:
    """Config of a tiny model; ``changes`` are full keys, or keys below ``MODEL.FDD.``."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    flat: list[Any] = []
    for key, value in (SMALL | _full_keys(changes or {})).items():
        flat += [key, value]
    cfg.merge_from_list(flat)
    check_fdd_config(cfg)
    return cfg


def _full_keys(changes: dict[str, Any]) -> dict[str, Any]:
    tops = ("MODEL.", "INPUT.", "SOLVER.", "TEST.")
    return {k if k.startswith(tops) else f"MODEL.FDD.{k}": v for k, v in changes.items()}


def small_model(changes: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """A tiny model in training mode, with weights that depend on the seed only."""
    torch.manual_seed(seed)
    return build_model(small_cfg(changes)).train()


def toy_input(
    height: int,
    width: int,
    classes: list[int],
    points: int = 3,
    seed: int = 0,
    masks: bool = False,
) -> dict[str, Any]:
    """What the mapper gives for one image with ``points`` random points an instance."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(classes)), points)
    coords = rng.random((len(index), 2)) * [width, height]
    labels = np.asarray(classes, dtype=np.int64)
    raster = rasterize_points(coords, index, labels, height, width)
    # Coarse blocks of colour: neighbours are alike, as in a photograph.
    blocks = rng.integers(0, 256, (3, -(-height // 32), -(-width // 32)))
    image = blocks.repeat(32, 1).repeat(32, 2)[:, :height, :width].astype(np.uint8)
    out = {
        "file_name": f"{seed}.jpg",
        "image_id": f"image-{seed}",
        "height": height,
        "width": width,
        "image": torch.from_numpy(image),
        "classes": torch.from_numpy(labels),
        "instance_ids": [10 + i for i in range(len(classes))],
        "point_coords": torch.from_numpy(coords).float(),
        "point_index": torch.from_numpy(index),
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }
    if masks:
        grid = num_valid_cells(height, 4), num_valid_cells(width, 4)
        if classes:
            # Vertical strips, one an instance, with a void row at the top.
            strips = np.arange(grid[1]) * len(classes) // grid[1]
            dense = np.broadcast_to(strips, grid).copy()
            dense[0] = -1
        else:
            dense = np.full(grid, -1)
        out["instance_map"] = torch.from_numpy(dense.astype(np.int32))
    return out


def toy_step(
    points: Any = None,
    counts: dict[str, Any] | None = None,
    warmup: float = 1.0,
    image_sizes: Sequence[tuple[int, int]] = (),
) -> StepContext:
    """A step of which a loss looks at what is given, and at nothing else."""
    sizes = list(image_sizes)
    return StepContext(points, sizes, (0, 0), torch.zeros(0), counts or {}, 0, warmup)


def permuted(x: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """The same image with its instances in another order: new index i is old index order[i]."""
    old_to_new = torch.empty(len(order), dtype=torch.long)
    old_to_new[torch.tensor(order)] = torch.arange(len(order))
    instance_map = x["point_instance_map"].long()
    moved = torch.where(instance_map >= 0, old_to_new[instance_map.clamp(min=0)], -1)
    cells = x["point_cells"].clone()
    cells[:, 0] = old_to_new[cells[:, 0]]
    return x | {
        "classes": x["classes"][order],
        "instance_ids": [x["instance_ids"][i] for i in order],
        "point_index": old_to_new[x["point_index"]],
        "point_cells": cells,
        "point_instance_map": moved.int(),
    }


def toy_memory(
    sizes: list[tuple[int, int]],
    padded: tuple[int, int],
    dim: int = 16,
    levels: int = 4,
    seed: int = 0,
    garbage: float | None = None,
) -> Memory:
    """Random tokens of images of these sizes; those inside an image do not depend on ``padded``.

    Args:
        garbage: fill padding with it instead of continuing the edge.
    """
    strides = [8 * 2**i for i in range(levels)]
    shapes = tuple((padded[0] // s, padded[1] // s) for s in strides)
    masks = [valid_cells(sizes, s, g) for s, g in zip(strides, shapes, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for mask, (h, w), stride in zip(masks, shapes, strides, strict=True):
        tokens = torch.zeros(len(sizes), h, w, 2 * dim)
        for b, (height, width) in enumerate(sizes):
            rows, cols = num_valid_cells(height, stride), num_valid_cells(width, stride)
            tokens[b, :rows, :cols] = torch.randn(rows, cols, 2 * dim, generator=generator)
        if garbage is not None:
            tokens[~mask] = garbage
        parts.append(tokens.flatten(1, 2))
    both = torch.cat(parts, 1)
    if garbage is None:
        both = both.gather(1, nearest_valid(masks)[..., None].expand_as(both))
    valid = torch.cat([m.flatten(1) for m in masks], 1)
    return Memory(both[..., :dim], both[..., dim:], valid, shapes, valid_ratios(masks))


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of all losses."""
    return torch.stack(list(losses.values())).sum()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """Gradient of every trainable parameter, by name."""
    return {
        n: None if p.grad is None else p.grad.clone()
        for n, p in model.named_parameters()
        if p.requires_grad
    }

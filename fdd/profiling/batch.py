"""A batch as the data set mapper gives it, made up: always the same for the same arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fdd.points.raster import rasterize_points

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

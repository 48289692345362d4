"""Label maps of points: from coordinates on the stride-8 grid, or through full-size maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import deviation, spread_points
from fdd.points.raster import rasterize_points

_SIDE, _STRIDE, _SLOTS = 17, 8, 256


def full_size_semantic_map(points: Tensor, num_classes: int) -> Tensor:
    """Dilated points on the stride-8 grid, by way of full-size one-hot maps.

    As PSPS makes its targets (BraveGroup/PSPS, ``easymd/models/panformer``: one-hot of 256 classes
    of the full-size label map in int64, ``expand_target_masks`` by a 17 x 17 maximum, nearest
    sampling, maximum over the classes). The sample is the cell's centre here, so that both forms
    answer the same question.

    Args:
        points: (H, W) int64 label map with one pixel a point, 255 elsewhere.
        num_classes: classes in use.

    Returns:
        (h, w) int64 class, -1 where there is none.
    """
    one_hot = F.one_hot(points, _SLOTS).permute(2, 0, 1)[None, :num_classes].float()
    dilated = F.max_pool2d(one_hot, _SIDE, stride=1, padding=_SIDE // 2)
    cells = dilated[0, :, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]
    present, label = cells.max(0)
    return label.masked_fill(present == 0, -1)


def _case(height: int, width: int, num_classes: int, num_points: int) -> Case:
    rng = np.random.default_rng(0)
    # Squares that do not meet: where they do, ours gives a cell to the nearer point and PSPS to the
    # lower class.
    xy = spread_points(num_points, height, width, 24, rng)
    instances = max(1, num_points // 10)
    index = np.arange(num_points) % instances
    classes = rng.integers(0, num_classes, instances)
    full = torch.full((height, width), _SLOTS - 1)
    full[xy[:, 1], xy[:, 0]] = torch.as_tensor(classes[index])

    def ours() -> np.ndarray:
        return rasterize_points(
            xy, index, classes, height, width, _SIDE, dilate_reference=min(height, width)
        ).semantic_map

    def peer() -> Tensor:
        return full_size_semantic_map(full, num_classes)

    return Case(ours, peer, lambda: deviation(torch.from_numpy(ours()), peer()))


def rows() -> list[Row]:
    # At 800 x 1333 px with 133 classes the peer takes many seconds a call and 2.7 GiB.
    return [
        Row(
            name="points/600x800",
            what="dilated points on the stride-8 grid, 600x800 px, 21 classes, 30 points; "
            "full-size one-hot maps and a 17x17 maximum (PSPS)",
            setup=lambda: _case(600, 800, 21, 30),
            target=100,
            seconds=6,
        )
    ]

"""What the centre decoder learns from: centres, boxes and the cells that stand for each thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.losses.boxes import box_cxcywh_to_xyxy
from fdd.modeling.panoptic_branch.targets import PanopticTargets

# Spread of the bump around a centre as a share of the half side of the box, and its least in cells.
_SPREAD, _LEAST_SPREAD = 0.3, 0.4
# The cell that trains a thing's box and mask is drawn from the inner half of its box.
_INNER = 0.5


@dataclass(frozen=True)
class CenterTargets:
    """The R listed things of a batch, in order of their images.

    Attributes:
        image, target: (R,) int64 on the host: image, and instance (column of the targets).
        real: (R,) float32 on the device, 1 for things that have a mask, else 0.
        classes: (R,) int64 contiguous thing classes.
        boxes: (R, 4) float32 (x0, y0, x1, y1) in pixels of the input.
        center: (R,) int64, the cell of the box's centre, row * w + column.
        drawn: (R,) int64, a random cell of the inner half of the box.
        heat: (B, Cth, h, w) float32 in [0, 1]: 1 at centres, falling around them.
    """

    image: np.ndarray
    target: np.ndarray
    real: Tensor
    classes: Tensor
    boxes: Tensor
    center: Tensor
    drawn: Tensor
    heat: Tensor


@torch.no_grad()
def center_targets(
    targets: PanopticTargets,
    image_sizes: list[tuple[int, int]],
    grid: tuple[int, int],
    num_things: int,
) -> CenterTargets:
    """List the things of dense labels (or of points) and draw the map of their centers.

    Args:
        targets: of the panoptic branch.
        image_sizes: un-padded (H, W) in pixels.
        grid: (h, w) of the stride-8 cells of the padded input.
        num_things: thing classes.
    """
    image, target = np.nonzero(targets.listed_things)
    device = targets.boxes.device
    rows, columns = upload(np.stack([image, target]), device).unbind(0)
    sizes = torch.tensor([(w, h, w, h) for h, w in image_sizes], dtype=torch.float32)
    boxes = targets.boxes[rows, columns] * upload(sizes, device)[rows]
    middle, sides = boxes[:, :2], boxes[:, 2:]
    real = targets.is_thing[rows, columns].float()
    classes = targets.classes[rows, columns].clamp(0, num_things - 1)
    moved = middle + _INNER * (torch.rand_like(middle) - 0.5) * sides
    return CenterTargets(
        image=image,
        target=target,
        real=real,
        classes=classes,
        boxes=box_cxcywh_to_xyxy(boxes),
        center=_cell_of(middle, grid),
        drawn=_cell_of(moved, grid),
        heat=center_heat(middle, sides, rows, classes, real, (len(image_sizes), num_things, *grid)),
    )


def _cell_of(place: Tensor, grid: tuple[int, int]) -> Tensor:
    """(R, 2) (x, y) in pixels -> (R,) row * w + column."""
    cell = (place / POINT_STRIDE).floor().long().clamp(min=0)
    return cell[:, 1].clamp(max=grid[0] - 1) * grid[1] + cell[:, 0].clamp(max=grid[1] - 1)


def center_heat(
    middle: Tensor,
    sides: Tensor,
    image: Tensor,
    classes: Tensor,
    real: Tensor,
    shape: tuple[int, int, int, int],
) -> Tensor:
    """The map of centres (CenterNet's): a Gaussian bump of each thing, the highest where several
    meet, and exactly 1 in the cell of a center.

    Args:
        middle, sides: (R, 2) float, (x, y) of centres and (width, height) in pixels.
        image, classes: (R,) int64. real: (R,) float, 0 for things that are left out.
        shape: (B, Cth, h, w) of the result.
    """
    batch, things, height, width = shape
    spread = (_SPREAD * sides / 2 / POINT_STRIDE).clamp(min=_LEAST_SPREAD)
    along = []
    for axis, cells in enumerate((width, height)):
        place = torch.arange(cells, device=middle.device) + 0.5
        away = (place - middle[:, axis, None] / POINT_STRIDE) / spread[:, axis, None]
        along.append((-0.5 * away.square()).exp())
    bumps = along[1][:, :, None] * along[0][:, None, :] * real[:, None, None]
    rows = torch.arange(len(middle), device=middle.device)
    bumps.flatten(1)[rows, _cell_of(middle, (height, width))] = real
    heat = middle.new_zeros(batch * things, height * width)
    slot = (image * things + classes)[:, None].expand(-1, height * width)
    return heat.scatter_reduce(0, slot, bumps.flatten(1), "amax").view(shape)

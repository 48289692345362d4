"""Box prior: the mask of a thing lies in the box that was found for it. Ours, not the paper's.

A query says what a thing looks like; among many alike it would have to say where it is, too, and
the keys that it is compared with carry little of that. As the location prior of the label branch
(:mod:`fdd.modeling.label_branch.location_prior`), for things whose place is known by a box:

    m(i) <- m(i) - softplus(s_class) * d(i),

d(i) how far the centre of cell i is outside of the box, in halves of the box's sides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.label_maps import POINT_STRIDE

# s at the start: a slope of 2.1. Masks are about 1 inside, so a quarter of a thing's half outside
# of the box costs half of it.
_START = 2.0


class BoxPrior(nn.Module):
    """What the distance to a thing's box adds to its mask; one learned slope a thing class."""

    def __init__(self, *, num_things: int):
        super().__init__()
        self.slope = nn.Parameter(torch.full((num_things,), _START))

    def forward(self, boxes: Tensor, classes: Tensor, grid: tuple[int, int]) -> Tensor:
        """
        Args:
            boxes: (B, K, 4) float (x0, y0, x1, y1) in pixels of the padded input.
            classes: (B, K) int64 contiguous thing classes.
            grid: (h, w) of the masks at stride 8.

        Returns:
            (B, K, h, w) float32, at most 0.
        """
        slope = F.softplus(self.slope)[classes]
        return distance_outside(boxes, grid) * -slope[..., None, None]


def distance_outside(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """How far each cell's centre is outside of boxes, in halves of their sides.

    Args:
        boxes: (B, K, 4) float (x0, y0, x1, y1) in pixels; a side counts as a cell at least.
        grid: (h, w) of the stride-8 cells.

    Returns:
        (B, K, h, w) float32: 0 inside, Euclidean outside.
    """
    boxes = boxes.float()
    center, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half.clamp(min=POINT_STRIDE / 2)
    along = []
    for axis, cells in enumerate((grid[1], grid[0])):
        place = (torch.arange(cells, device=boxes.device) + 0.5) * POINT_STRIDE
        outside = (place - center[..., axis, None]).abs() / half[..., axis, None] - 1
        along.append(outside.clamp(min=0).square())
    return (along[1][..., :, None] + along[0][..., None, :]).sqrt()

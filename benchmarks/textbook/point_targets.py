"""Targets made of points, in full-resolution arithmetic.

Published: PSPS section 3.2 and FDD, section "Query Generator"; ``get_point_semantic_targets`` and
``loss_semantic`` in ``easymd/models/panformer/wsup_panformer_head.py`` of BraveGroup/PSPS:
``F.one_hot(map, 256)`` (int64) of the label map at the padded input size, the first C channels as
float, a 17x17 max-pool of stride 1 over all of them, nearest interpolation to stride 8, and there
a maximum over the channels.

PSPS feeds it label maps with one pixel a point; overlapping squares go to the lowest class. The
labels here must be those of this package (made from coordinates; the nearest point wins), so the
same arithmetic runs on maps with one pixel a *labelled stride-8 cell*, and with 15x15 instead of
17x17: that window meets no second cell's pixel, so the cells come out as they went in. It costs
what the published form costs, less 22 % of the pooling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 8
# Largest odd window in which the pixels of two cells cannot meet.
_WINDOW = 2 * STRIDE - 1


def one_hot_channels(labels: Tensor, channels: int) -> Tensor:
    """(H, W) int64 map, -1 for none, to (1, channels, H, W) float, as PSPS does it.

    PSPS marks "none" by 255; more than 255 labels take one more.
    """
    none = max(255, channels)
    marked = torch.where(labels >= 0, labels, none)
    one_hot = F.one_hot(marked, none + 1)[..., :channels]
    return one_hot.permute(2, 0, 1).float()[None]


def _pool_and_shrink(full: Tensor, grid: tuple[int, int]) -> Tensor:
    dilated = F.max_pool2d(full, _WINDOW, stride=1, padding=_WINDOW // 2)
    return F.interpolate(dilated, size=grid, mode="nearest")


@torch.no_grad()
def maps_by_one_hot(cells: Tensor, channels: int) -> Tensor:
    """The published form: a stride-8 label map through full-size one-hot channels.

    Args:
        cells: (h, w) int64, S^ins or S^sem of one image, -1 unlabelled.
        channels: number of labels.

    Returns:
        (1, h, w) int64, -1 unlabelled: equal to ``cells``.
    """
    height, width = cells.shape
    full = cells.new_full((height * STRIDE, width * STRIDE), -1)
    full[::STRIDE, ::STRIDE] = cells
    best, target = _pool_and_shrink(one_hot_channels(full, channels), (height, width)).max(1)
    return torch.where(best < 1e-3, -1, target)


@torch.no_grad()
def own_masks_by_pooling(cells: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
    """The published form of the query generator's masks: dilate S^ins, then shrink it.

    Args:
        cells: (M, 3) int64 rows (instance, row, column) of an image; masks may overlap.
        count: number of instances.

    Returns:
        (N, h, w) bool.
    """
    height, width = grid
    full = torch.zeros((1, count, height * STRIDE, width * STRIDE), device=cells.device)
    instance, row, column = cells.unbind(1)
    full[0, instance, row * STRIDE, column * STRIDE] = 1
    return _pool_and_shrink(full, grid)[0] > 0.5


@torch.no_grad()
def maps_as_given(cells: Tensor, channels: int) -> Tensor:
    """Cheap variant: labels that are wanted at stride 8 are made at stride 8."""
    return cells[None]


@torch.no_grad()
def own_masks_by_scatter(cells: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
    """Cheap variant: write the cells into a stride-8 mask."""
    masks = torch.zeros((count, *grid), dtype=torch.bool, device=cells.device)
    masks[tuple(cells.unbind(1))] = True
    return masks

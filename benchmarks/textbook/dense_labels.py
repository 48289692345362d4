"""The dense label and what the panoptic branch learns from it, at full resolution.

Published: FDD Eq. 2, which is written for probabilities of H x W; ``loss_semantic`` and
``get_dijkstra_pseudo_label`` in ``easymd/models/panformer/wsup_panformer_head.py`` of
BraveGroup/PSPS.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from benchmarks.textbook.point_targets import one_hot_channels
from fdd.points.raster import num_valid_cells

_CELL = 8


def every_layer_at_full_size(layers: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The published form: the logits of all layers, up-sampled with their gradient.

    PSPS stacks the up-sampled semantic logits of its six layers and reads the last one only; as it
    keeps a view of that in ``tmp_state``, the whole stack lives until the next iteration.

    Args:
        layers: (1, K, h, w) a layer. size: (H, W) of the padded image.

    Returns:
        (layers, K, H, W).
    """
    return F.interpolate(torch.cat(layers), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def last_layer_at_full_size(layers: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Cheap variant: the only layer that is read, without gradient."""
    return F.interpolate(layers[-1], size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def force_own_cells(
    label: Tensor, coords: Tensor, owner: Tensor, image_size: tuple[int, int], stride: int
) -> Tensor:
    """Labelled points overwrite their own stride-8 cell, unless another instance's point is there.

    PSPS clamps the probabilities at dilated points instead; this is this package's rule.

    Args:
        label: (H, W) int64 at ``stride`` (1 or 8) of the padded image.
        coords: (P, 2) points (x, y) in pixels. owner: (P,) instance.
        image_size: un-padded (H, W) in pixels; nothing outside is overwritten.
    """
    label = label.clone()
    side = _CELL // stride
    rows, columns = (num_valid_cells(size, _CELL) for size in image_size)
    bottom, right = (num_valid_cells(size, stride) for size in image_size)
    owners: dict[tuple[int, int], set[int]] = {}
    for (x, y), n in zip(coords.tolist(), owner.tolist(), strict=True):
        v, u = min(max(int(y // _CELL), 0), rows - 1), min(max(int(x // _CELL), 0), columns - 1)
        owners.setdefault((v, u), set()).add(n)
    for (v, u), found in owners.items():
        if len(found) == 1:
            block = label[v * side : min((v + 1) * side, bottom)]
            block[:, u * side : min((u + 1) * side, right)] = found.pop()
    return label


@torch.no_grad()
def instance_masks(label: Tensor, count: int) -> Tensor:
    """One full-size float mask an instance, (N, H, W)."""
    return torch.stack([(label == n).float() for n in range(count)])


@torch.no_grad()
def stuff_by_one_hot(class_map: Tensor, num_things: int, num_stuff: int) -> Tensor:
    """The published form of the stuff targets: one-hot (int64) of the full-size semantic map.

    Args:
        class_map: (H, W) int64 class of every pixel, -1 for none.

    Returns:
        (Cst, H, W) float.
    """
    return one_hot_channels(class_map, num_things + num_stuff)[0, num_things:].contiguous()


@torch.no_grad()
def stuff_by_comparison(class_map: Tensor, num_things: int, num_stuff: int) -> Tensor:
    """Cheap variant: compare with every stuff class."""
    index = torch.arange(num_things, num_things + num_stuff, device=class_map.device)
    return (class_map == index[:, None, None]).float()


@torch.no_grad()
def boxes_by_coordinates(masks: Tensor) -> Tensor:
    """The published form: the smallest and largest coordinates among each mask's pixels.

    Args:
        masks: (N, H, W) float.

    Returns:
        (N, 4) float (x0, y0, x1, y1), the far sides exclusive. PSPS gives an empty mask a box in
        the middle of the image; here it has zeros, and its instance is dropped.
    """
    _, height, width = masks.shape
    rows = torch.arange(height, device=masks.device)
    columns = torch.arange(width, device=masks.device)
    coords = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    boxes = []
    for mask in masks:
        inside = coords[mask > 0]
        if len(inside) == 0:
            boxes.append([0, 0, 0, 0])
            continue
        y0, x0 = inside.amin(0)
        y1, x1 = inside.amax(0)
        boxes.append([int(x0), int(y0), int(x1) + 1, int(y1) + 1])
    return masks.new_tensor(boxes).view(-1, 4)


@torch.no_grad()
def boxes_by_torchvision(masks: Tensor) -> Tensor:
    """Cheap variant: ``torchvision.ops.masks_to_boxes``, which refuses empty masks."""
    boxes = masks.new_zeros(len(masks), 4)
    some = masks.flatten(1).any(1)
    if some.any():
        boxes[some] = torchvision.ops.masks_to_boxes(masks[some])
        boxes[some, 2:] += 1
    return boxes

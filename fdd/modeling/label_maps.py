"""Dense labels and what is derived from them: pure functions without any N x H x W tensor.

A cell (row v, column u) of a map at stride s stands for the point (s * (u + 0.5), s * (v + 0.5)) of
the padded input. Label maps hold an instance index, or -1 where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.device import upload
from fdd.points.raster import num_valid_cells

#: Stride of the maps in which points are rasterised; a point owns one cell of it.
POINT_STRIDE = 8
# Stands for -inf where values are interpolated: 0 * inf would be NaN.
_NEVER = -1e30


def valid_cells(
    sizes: Sequence[tuple[int, int]],
    stride: int,
    grid: tuple[int, int],
    device: torch.device | str | None = None,
) -> Tensor:
    """Which cells have their centre inside the un-padded image.

    Args:
        sizes: (H, W) in px of each un-padded image.
        stride: px of a cell.
        grid: (h, w) of the padded map.

    Returns:
        (B, h, w) bool.
    """
    counts = [[num_valid_cells(int(side), stride) for side in size] for size in sizes]
    limit = upload(torch.tensor(counts, dtype=torch.long).view(-1, 2), device)
    v, u = (torch.arange(n, device=device) for n in grid)
    in_row, in_column = v < limit[:, :1], u < limit[:, 1:]
    return in_row[:, :, None] & in_column[:, None, :]


@torch.no_grad()
def upsampled_argmax(
    logits: Tensor,
    out_size: tuple[int, int],
    counts: Sequence[int] | Tensor,
    *,
    scale: tuple[float, float] | None = None,
    return_prob: bool = True,
    chunk: int = 16,
    added: Callable[[slice], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The dense label M^pse (paper Eq. 2): argmax over instances of the up-sampled logits.

    ``argmax(interpolate(logits))`` a few channels at a time, so that neither memory nor the number
    of kernels grows with N.

    Args:
        logits: (B, N, h, w) float. Channels from ``counts[b]`` on are padding.
        out_size: (H, W) of the label map; bilinear, ``align_corners=False``.
        counts: (B,) real channels of each image.
        scale: label pixels a cell, (y, x), where the map covers less than the logits (a padded
            image at its original size): the logits are scaled by exactly this and cut to
            ``out_size``.
            ``None``: the map covers the logits.
        return_prob: also return the probability of the label.
        chunk: channels up-sampled at a time.
        added: gives (B, K, H, W) of some channels, to be added to the up-sampled logits.

    Returns:
        labels: (B, H, W) int32, the lowest index among equals; -1 in an image without channels.
        prob: (B, H, W) float in [0, 1], the largest softmax probability (0 in an image without
            channels); ``None`` without ``return_prob``.
    """
    batch, channels = logits.shape[:2]
    device = logits.device
    counts = upload(torch.as_tensor(counts), device).view(batch, 1, 1, 1)
    logits = logits.detach()
    best = torch.full((batch, *out_size), _NEVER, dtype=torch.float32, device=device)
    labels = torch.full((batch, *out_size), -1, dtype=torch.int32, device=device)
    total = torch.zeros_like(best) if return_prob else None
    for start in range(0, channels, chunk):
        part = logits[:, start : start + chunk].float()
        index = torch.arange(start, start + part.shape[1], device=device).view(1, -1, 1, 1)
        # Channels last: the argmax over them, and the interpolation, are several times faster.
        part = part.masked_fill(index >= counts, _NEVER).contiguous(
            memory_format=torch.channels_last
        )
        part = resize_maps(part, out_size, scale)
        if added is not None:
            part = part + added(slice(start, start + part.shape[1]))
        value, where = part.max(dim=1)
        top = torch.maximum(best, value)
        if total is not None:
            total.mul_((best - top).exp_()).add_(part.sub_(top.unsqueeze(1)).exp_().sum(1))
        labels = torch.where(value > best, where.int() + start, labels)
        best = top
    empty = counts.view(batch, 1, 1) <= 0
    labels.masked_fill_(empty, -1)
    if total is None:
        return labels, None
    return labels, total.reciprocal_().masked_fill_(empty, 0) if channels else total


def resize_maps(
    maps: Tensor, out_size: tuple[int, int], scale: tuple[float, float] | None
) -> Tensor:
    """Resize (B, K, h, w) maps bilinearly; by exactly ``scale`` (y, x), if given, and then cut."""
    if scale is None:
        return F.interpolate(maps, size=out_size, mode="bilinear", align_corners=False)
    # One more cell (equal to the last, as interpolation would have it) so that rounding of
    # cells * scale never leaves a row short; cells far outside the label are not touched.
    need = [min(n, int(o / s) + 2) for n, o, s in zip(maps.shape[2:], out_size, scale, strict=True)]
    maps = F.pad(maps[:, :, : need[0], : need[1]], (0, 1, 0, 1), mode="replicate")
    maps = F.interpolate(
        maps, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )
    return maps[:, :, : out_size[0], : out_size[1]]


def own_cells(
    batch_index: Tensor,
    coords: Tensor,
    sizes: Sequence[tuple[int, int]],
    width: int,
    height: int,
    stride: int = POINT_STRIDE,
) -> Tensor:
    """Flat index of each point's own cell in a (B, height, width) map at a stride."""
    last = [[num_valid_cells(int(s), stride) - 1 for s in size[::-1]] for size in sizes]
    limit = upload(torch.tensor(last, dtype=torch.long).view(-1, 2), coords.device)[batch_index]
    cell = (coords / stride).floor().long().clamp(min=0)
    u, v = torch.minimum(cell, limit).unbind(1)
    return (batch_index * height + v) * width + u


@torch.no_grad()
def keep_points(
    labels: Tensor,
    batch_index: Tensor,
    instance_index: Tensor,
    coords: Tensor,
    cell: tuple[float, float],
    sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Give every point whose own pixel has another label the pixels of its cell nearest to it.

    Each pixel of a stride-8 cell with a lost point belongs to the nearest of the cell's points, a
    point's own pixel to that point. Where the winner holds its pixel already, and between points of
    different instances that are equally near, the label stays.

    Args:
        labels: (B, H, W) integer instance map; not changed.
        batch_index, instance_index: (P,) int64.
        coords: (P, 2) float (x, y) in pixels of the map.
        cell: pixels of the map a stride-8 cell, (y, x).
        sizes: (H, W) in pixels of the map of each un-padded image.

    Returns:
        (B, H, W) map of the dtype of ``labels``; (P,) bool, the points that were lost.
    """
    device = labels.device
    if len(coords) == 0:
        return labels.clone(), torch.zeros(0, dtype=torch.bool, device=device)
    height, width = labels.shape[1:]
    last = upload(torch.tensor(sizes).view(-1, 2) - 1, device)[batch_index]
    place = torch.minimum(coords.floor().long().clamp(min=0), last.flip(1))
    pixel = (batch_index * height + place[:, 1]) * width + place[:, 0]
    lost = labels.flatten()[pixel] != instance_index
    if device.type != "cpu":
        return _share_cells(labels, lost, batch_index, instance_index, coords, cell, last), lost
    # On the host, where looking costs nothing: most points are held, and most cells have none lost.
    step = coords.new_tensor([cell[1], cell[0]])
    key = torch.cat([batch_index[:, None], ((place + 0.5) / step).floor().long()], 1)
    _, key = key.unique(dim=0, return_inverse=True)
    near = torch.isin(key, key[lost])
    if not bool(near.any()):
        return labels.clone(), lost
    image, instance, place = batch_index[near], instance_index[near], coords[near]
    return _share_cells(labels, lost[near], image, instance, place, cell, last[near]), lost


def _share_cells(
    labels: Tensor,
    lost: Tensor,
    batch_index: Tensor,
    instance_index: Tensor,
    coords: Tensor,
    cell: tuple[float, float],
    last: Tensor,
) -> Tensor:
    """The pixels of each cell to the nearest of its points, where that one is lost, without waiting
    for the device. ``last``: (P, 2) last row and column of each point's image."""
    device = labels.device
    height, width = labels.shape[1:]
    rows_columns = []
    for axis in (0, 1):
        place, step = coords[:, 1 - axis], cell[axis]
        own = torch.minimum(place.floor().long().clamp(min=0), last[:, axis])
        # Pixels whose centre lies in the point's cell; the point's own first.
        start = ((own + 0.5) / step).floor() * step
        span = torch.arange(int(step) + 1, device=device)
        pixels = (start - 0.5).ceil().long()[:, None] + span
        inside = (pixels + 0.5 < (start + step)[:, None]) & (pixels <= last[:, axis, None])
        pixels = torch.cat([own[:, None], pixels.clamp(min=0)], 1)
        inside = F.pad(inside & (pixels[:, 1:] >= 0), (1, 0), value=True)
        distance = (pixels + 0.5 - place[:, None]).square()
        rows_columns.append((own, pixels, inside, distance))
    (row, rows, in_row, down), (column, columns, in_column, across) = rows_columns
    flat = labels.flatten()
    first = batch_index * height * width
    own = first + row * width + column
    index = first[:, None, None] + rows[:, :, None] * width + columns[:, None]
    index = torch.where(in_row[:, :, None] & in_column[:, None], index, own[:, None, None])
    distance = down[:, :, None] + across[:, None]
    distance = distance.masked_fill(index == own[:, None, None], -1.0).flatten()
    index = index.flatten()
    nearest = torch.full(flat.shape, torch.inf, device=device)
    nearest.scatter_reduce_(0, index, distance, "amin")
    copies = index.numel() // len(own)
    winner = distance <= nearest[index]
    owner = instance_index[:, None].expand(-1, copies).flatten()
    gains = winner & lost[:, None].expand(-1, copies).flatten()
    # Losers write into a slot behind the map.
    slot = torch.where(winner, index, flat.numel())
    none = torch.full((flat.numel() + 1,), -1, dtype=torch.long, device=device)
    low = none.scatter_reduce(0, slot, owner, "amin", include_self=False)[:-1]
    high = none.scatter_reduce(0, slot, owner, "amax", include_self=False)[:-1]
    gained = none.scatter_reduce(0, slot, gains.long(), "amax", include_self=False)[:-1] > 0
    kept = torch.where(gained & (low == high), low.to(flat.dtype), flat)
    return kept.view_as(labels)


@torch.no_grad()
def force_points(
    labels: Tensor,
    batch_index: Tensor,
    instance_index: Tensor,
    coords: Tensor,
    stride: int,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    """Overwrite every point's own stride-8 cell with its instance, so that none goes empty.

    A cell that points of different instances share is left alone. (Not part of paper Eq. 2.)

    Args:
        labels: (B, H, W) integer instance map at ``stride``; not changed.
        batch_index: (P,) int64 image of each point.
        instance_index: (P,) int64 instance of each point.
        coords: (P, 2) float (x, y) in input px; clipped to the image.
        stride: stride of ``labels``; divides 8. A point's cell is a block of (8 / stride)^2.
        sizes: (H, W) in px of each un-padded image; cells outside stay as they are.

    Returns:
        (B, H, W) map of the dtype of ``labels``.

    Raises:
        ValueError: ``stride`` does not divide 8.
    """
    if stride < 1 or POINT_STRIDE % stride:
        raise ValueError(f"stride is {stride}; it must divide {POINT_STRIDE}")
    if len(coords) == 0:
        return labels.clone()
    batch, height, width = labels.shape
    block = POINT_STRIDE // stride
    h8, w8 = -(-height // block), -(-width // block)
    flat = own_cells(batch_index, coords, sizes, w8, h8)
    owner = instance_index.to(torch.int32)
    free = torch.full((batch * h8 * w8,), -1, dtype=torch.int32, device=labels.device)
    low = free.scatter_reduce(0, flat, owner, "amin", include_self=False)
    high = free.scatter_reduce(0, flat, owner, "amax", include_self=False)
    forced = torch.where(low == high, low, -1).view(batch, h8, w8)
    forced = forced.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width]
    inside = valid_cells(sizes, stride, (height, width), labels.device)
    return torch.where((forced >= 0) & inside, forced.to(labels.dtype), labels)


@torch.no_grad()
def boxes_from_labels(
    labels: Tensor,
    num_instances: int,
    stride: int,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Tight boxes of all instances of a label map, from their rows and columns.

    Args:
        labels: (B, H, W) integer instance map with values below ``num_instances``, -1 ignored.
        num_instances: N, of the batch.
        stride: px of a cell.
        sizes: (H, W) in px of each un-padded image, to clip the boxes to; ``None`` does not clip.

    Returns:
        boxes: (B, N, 4) float32 (x0, y0, x1, y1) in input px, x1 and y1 at the far side of the last
            cell; zeros for an instance without a cell.
        areas: (B, N) int64 in cells.
    """
    batch, height, width = labels.shape
    device = labels.device
    # Slot 0 takes the ignored cells: a filter by mask would make the host wait for the device.
    slots = num_instances + 1
    image = torch.arange(batch, device=device).view(-1, 1, 1)
    slot = labels.long() + 1 + image * slots
    ones = torch.ones((), dtype=torch.long, device=device).expand(slot.numel())

    def count(side: int, position: Tensor) -> Tensor:
        """(batch * slots, side): cells of each instance in each row (column)."""
        counts = torch.zeros(batch * slots * side, dtype=torch.long, device=device)
        return counts.scatter_add_(0, (slot * side + position).flatten(), ones).view(-1, side)

    rows = count(height, torch.arange(height, device=device).view(1, -1, 1))
    columns = count(width, torch.arange(width, device=device).view(1, 1, -1))
    areas = rows.sum(1)

    ends = []
    for counts in (columns, rows):
        present = (counts > 0).int()
        first = present.argmax(1)
        last = present.shape[1] - present.flip(1).argmax(1)
        ends.append((first, last))
    (x0, x1), (y0, y1) = ends
    boxes = torch.stack((x0, y0, x1, y1), dim=1).float() * stride
    boxes = torch.where((areas > 0)[:, None], boxes, 0).view(batch, slots, 4)[:, 1:]
    if sizes is not None:
        limits = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=boxes.dtype)
        boxes = torch.minimum(boxes, upload(limits, device).view(batch, 1, 4))
    return boxes.contiguous(), areas.view(batch, slots)[:, 1:].contiguous()

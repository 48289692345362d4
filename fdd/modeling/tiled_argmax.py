"""Argmax over many maps of which few can win at a place: on the host, fast enough for each click.

The canvas is cut into tiles. Of each map bounds are known over a tile; where one map's least is
above what any other can reach, it has the tile. Values of single pixels are computed only for what
is left, which is a narrow band along the outlines. The result is the argmax over all maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.label_branch.location_prior import ExtentPrior
from fdd.modeling.label_maps import POINT_STRIDE

__all__ = ["argmax_of_logits", "nearest_points"]

# Pixels of a side of a tile where nothing else gives one.
_SIDE = 16
# Pixels whose values are computed at a time: they stay in the cache.
_CHUNK_VALUES = 1 << 17
# Bounds are rounded, too: as far as this they may be wrong, as a share of the values.
_SLACK = 1e-4


@dataclass(frozen=True)
class _Axis:
    """Pixels of one axis of the canvas, in tiles that follow each other.

    Attributes:
        start: (T + 1,) int64, first pixel of each tile, and the end.
        pixels: (T, L) int64, the pixels of each tile; a short one repeats its last.
    """

    start: np.ndarray
    pixels: np.ndarray

    @classmethod
    def cut(cls, tile_of_pixel: np.ndarray, tiles: int) -> _Axis:
        """``tile_of_pixel``: ascending."""
        start = np.searchsorted(tile_of_pixel, np.arange(tiles + 1))
        longest = max(1, int(np.diff(start).max(initial=1)))
        last = np.maximum(start[1:] - 1, 0)
        return cls(start, np.minimum(start[:-1, None] + np.arange(longest), last[:, None]))


#: Values at pixels: of maps (K,) in the rows (K, R) and the columns (K, C) -> (K, R, C).
_Values = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _argmax(
    least: np.ndarray, most: np.ndarray, rows: _Axis, columns: _Axis, values: _Values
) -> np.ndarray:
    """(H, W) int32 index of the map with the largest value, the lowest among equals.

    Args:
        least, most: (N, TR, TC) float, bounds of the values over the tiles, N >= 1.
    """
    size = int(rows.start[-1]), int(columns.start[-1])
    best = least.max(0)
    slack = _SLACK * (1 + np.abs(best))
    tile_row, tile_column, index = np.nonzero(np.moveaxis(most >= best - slack, 0, -1))
    # Tiles without a pixel: the canvas is coarser than they are.
    filled = (np.diff(rows.start) > 0)[tile_row] & (np.diff(columns.start) > 0)[tile_column]
    tile_row, tile_column, index = tile_row[filled], tile_column[filled], index[filled]
    tile = tile_row * most.shape[2] + tile_column
    first = np.flatnonzero(np.diff(tile, prepend=-1))
    count = np.diff(first, append=len(tile))
    owner = np.zeros(most.shape[1:], np.int32)
    owner.reshape(-1)[tile[first]] = index[first]
    label = owner.repeat(np.diff(rows.start), 0).repeat(np.diff(columns.start), 1)
    # Tiles with the most candidates first: those that are left after k rounds are a prefix.
    order = np.argsort(-count, kind="stable")
    order = order[: int((count > 1).sum())]
    step = max(1, _CHUNK_VALUES // (rows.pixels.shape[1] * columns.pixels.shape[1]))
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        head, number = first[chosen], count[chosen]
        row, column = rows.pixels[tile_row[head]], columns.pixels[tile_column[head]]
        top = values(index[head], row, column)
        winner = np.broadcast_to(index[head][:, None, None], top.shape).astype(np.int32)
        for k in range(1, int(number[0])):
            left = int((number > k).sum())
            rival = index[head[:left] + k]
            value = values(rival, row[:left], column[:left])
            better = value > top[:left]
            np.copyto(winner[:left], rival[:, None, None].astype(np.int32), where=better)
            np.maximum(top[:left], value, out=top[:left])
        label[row[:, :, None], column[:, None, :]] = winner
    assert label.shape == size
    return label


def argmax_of_logits(
    logits: Tensor,
    size: tuple[int, int],
    scale: tuple[float, float],
    extents: ExtentPrior | None = None,
) -> np.ndarray:
    """The label that ``upsampled_argmax`` makes, up to the rounding of values that are equal.

    Args:
        logits: (N, h, w) float at stride 8 of the input, finite; N >= 1.
        size: (H, W) of the canvas.
        scale: canvas pixels an input pixel, (y, x).
        extents: the part of ``logits`` that is not up-sampled but known at each pixel, in input
            pixels.

    Returns:
        (H, W) int32, the lowest index among equals.
    """
    if extents is not None:
        logits = extents.without(logits)
        extents = extents.scaled(scale)
    maps = logits.detach().float().cpu().numpy()
    height, width = maps.shape[1:]
    factor = [POINT_STRIDE * s for s in scale]
    (low_row, down), (low_column, across) = (
        _sources(n, f, cells) for n, f, cells in zip(size, factor, maps.shape[1:], strict=True)
    )
    rows, columns = _Axis.cut(low_row, height), _Axis.cut(low_column, width)
    after_row, after_column = (np.minimum(np.arange(n) + 1, n - 1) for n in (height, width))
    below = maps[:, after_row]
    corners = [maps, maps[:, :, after_column], below, below[:, :, after_column]]
    least, most = corners[0].copy(), corners[0].copy()
    for corner in corners[1:]:
        np.minimum(least, corner, out=least)
        np.maximum(most, corner, out=most)
    if extents is not None:
        lower, upper = _extent_bounds(extents, rows.start, columns.start)
        least, most = least + lower, most + upper
    flat = maps.reshape(-1)

    def values(index: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        # All pixels of a tile lie between the same four cells.
        r, c = low_row[row[:, 0]], low_column[column[:, 0]]
        below, right = after_row[r], after_column[c]
        place = index * (height * width)
        top_left, top_right = flat[place + r * width + c], flat[place + r * width + right]
        low_left, low_right = flat[place + below * width + c], flat[place + below * width + right]
        y, x = down[row], across[column]
        left = top_left[:, None] * (1 - y) + low_left[:, None] * y
        right_side = top_right[:, None] * (1 - y) + low_right[:, None] * y
        value = left[:, :, None] * (1 - x)[:, None] + right_side[:, :, None] * x[:, None]
        if extents is not None:
            value += _extent_values(extents, index, row, column)
        return value

    return _argmax(least, most, rows, columns, values)


def _sources(pixels: int, factor: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel the cell before its centre, int64, and the weight of the next, float32; as
    ``F.interpolate`` has them for a scale factor."""
    ratio = np.float32(1.0 / factor)
    place = ratio * (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    place = np.maximum(place, np.float32(0))
    low = np.minimum(place.astype(np.int64), cells - 1)
    return low, np.clip(place - low.astype(np.float32), 0, 1).astype(np.float32)


def _extent_bounds(
    extents: ExtentPrior, row_start: np.ndarray, column_start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the extents add, at least and at most, over each tile, (N, TR, TC) each.

    The distance is convex: over a tile it is largest in a corner, and nowhere less than twice that
    of the middle without the largest.
    """
    y, x = (torch.from_numpy(edge.astype(np.float32)) for edge in (row_start, column_start))
    inner = extents.extents
    at_corner = inner.distance(x[None], y[:, None])
    at_middle = inner.distance((x[1:] + x[:-1])[None] / 2, (y[1:] + y[:-1])[:, None] / 2)
    farthest = F.max_pool2d(at_corner[None], 2, 1)[0]
    nearest = torch.maximum(2 * at_middle - farthest, torch.zeros(()))
    return extents.at_distance(farthest).numpy(), extents.at_distance(nearest).numpy()


def _extent_values(
    extents: ExtentPrior, index: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """(K, R, C) of maps (K,) at the centres of pixels."""
    chosen = extents[torch.from_numpy(index)]
    y = torch.from_numpy(row.astype(np.float32) + np.float32(0.5))[:, :, None]
    x = torch.from_numpy(column.astype(np.float32) + np.float32(0.5))[:, None]
    return chosen.own_logits(x, y).numpy()


def nearest_points(coords: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest point to each pixel's centre, the first of equally near ones.

    Args:
        coords: (P, 2) float (x, y) in pixels of the canvas, P >= 1.
        size: (H, W) of the canvas.

    Returns:
        (H, W) int32 index of a point.
    """
    points = np.asarray(coords, np.float32)
    rows, columns = (_Axis.cut(np.arange(n) // _SIDE, -(-n // _SIDE)) for n in size)
    parts = []
    for place, axis in ((points[:, 1], rows), (points[:, 0], columns)):
        low, high = axis.start[:-1].astype(np.float32), axis.start[1:].astype(np.float32)
        below, above = low[None] - place[:, None], place[:, None] - high[None]
        nearest = np.maximum(np.maximum(below, above), 0)
        parts.append((nearest**2, np.maximum(-below, -above) ** 2))
    (near_y, far_y), (near_x, far_x) = parts
    least = -(far_y[:, :, None] + far_x[:, None])
    most = -(near_y[:, :, None] + near_x[:, None])

    def values(index: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        y = row.astype(np.float32) + np.float32(0.5) - points[index, 1][:, None]
        x = column.astype(np.float32) + np.float32(0.5) - points[index, 0][:, None]
        return -((y * y)[:, :, None] + (x * x)[:, None])

    return _argmax(least, most, rows, columns, values)

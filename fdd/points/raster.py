"""From point coordinates to label maps on the stride-8 grid, once, after all augmentations.

A cell (row v, column u) stands for its centre, x = stride * (u + 1/2), y = stride * (v + 1/2).
Squares around the points replace the dilation of full-resolution label maps (S^ins and S^sem of the
paper), which cost memory and lose points when they are resized.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "RasterizedPoints",
    "dilated_side",
    "nearest_owner",
    "num_valid_cells",
    "rasterize_points",
    "valid_cells",
]

# Distances that differ by less count as equal, in pixels: float32 coordinates of a point and of its
# mirror image differ by about 1e-4 at 1333 px, and a flip must not turn a tie into a win.
_TOLERANCE = 1e-3


class RasterizedPoints(NamedTuple):
    """Points as cells.

    Attributes:
        cells: int64 ``(M, 3)``, rows ``(instance index, row, column)``, sorted, without duplicates:
            every instance's squares. Two instances may both have a cell.
        instance_map: int32 ``(h, w)``, the instance index of the nearest point; -1 without a label
            and where points of different instances are equally near.
        semantic_map: int32 ``(h, w)``, its class; equally near instances of one class
            keep it.
    """

    cells: np.ndarray
    instance_map: np.ndarray
    semantic_map: np.ndarray


def num_valid_cells(size: int, stride: int = 8) -> int:
    """Number of cells along a side of ``size`` pixels with the centre inside, at least 1."""
    return max(1, -((stride - 2 * size) // (2 * stride)))  # integers only, for torch.export, too


valid_cells = num_valid_cells  # an older name


def dilated_side(
    height: int,
    width: int,
    dilate_side: float = 17.0,
    dilate_reference: float = 600.0,
    stride: int = 8,
) -> float:
    """Side in pixels of a point's square: ``dilate_side`` at a short side of ``dilate_reference``.

    It scales with the image, so that a point covers the same share of an object at every size, and
    is never smaller than one cell.
    """
    return max(float(stride), dilate_side * min(height, width) / dilate_reference)


def rasterize_points(
    coords: np.ndarray,
    index: np.ndarray,
    classes: np.ndarray,
    height: int,
    width: int,
    dilate_side: float = 17.0,
    dilate_reference: float = 600.0,
    stride: int = 8,
) -> RasterizedPoints:
    """Mark the cells around every point.

    A cell belongs to a point if its centre is at most half a square's side away in x and in y, or
    if it is the point's own cell (a point beyond the last valid cell has that one). Among the
    points that a cell belongs to, the nearest in Chebyshev distance labels it in the maps.

    Args:
        coords: float ``(P, 2)``, x and y in pixels of the (augmented) image.
        index: int ``(P,)``, each point's instance, in [0, N).
        classes: int ``(N,)``, each instance's class, >= 0.
        height: of the image in pixels, without padding.
        width: likewise.
        dilate_side: see :func:`dilated_side`.
        dilate_reference: likewise.
        stride: of the grid, in pixels.

    Raises:
        ValueError: on shapes that do not fit, an index outside [0, N), a non-finite point or one
            more than a pixel outside the image.
    """
    coords = np.asarray(coords, dtype=np.float64).reshape(-1, 2)
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    _check_inputs(coords, index, classes, height, width)
    grid = num_valid_cells(height, stride), num_valid_cells(width, stride)
    side = dilated_side(height, width, dilate_side, dilate_reference, stride)
    cover = _cover(coords, grid, (stride, stride), side)
    codes = np.unique(index[cover.point] * (grid[0] * grid[1]) + cover.cell)
    instance, flat = np.divmod(codes, grid[0] * grid[1])
    cell, point = _nearest(cover, grid)
    return RasterizedPoints(
        cells=np.stack([instance, flat // grid[1], flat % grid[1]], axis=1),
        instance_map=_where_unanimous(cell, index[point], grid),
        semantic_map=_where_unanimous(cell, classes[index[point]], grid),
    )


def nearest_owner(
    coords: np.ndarray,
    owner: np.ndarray,
    grid: tuple[int, int],
    stride: tuple[float, float],
    side: float,
) -> np.ndarray:
    """Whose point's square each cell of any grid lies in, by the rules of :func:`rasterize_points`.

    Args:
        coords: float ``(P, 2)``, x and y in pixels.
        owner: int ``(P,)``, >= 0, such as the point's instance or class.
        grid: rows and columns.
        stride: pixels of a cell, along y and along x.
        side: of a square, in pixels.

    Returns:
        int32 ``(rows, columns)``, -1 where no point's square is, or where equally near ones have
        different owners.
    """
    coords = np.asarray(coords, dtype=np.float64).reshape(-1, 2)
    cell, point = _nearest(_cover(coords, grid, stride, side), grid)
    return _where_unanimous(cell, np.asarray(owner)[point], grid)


def _check_inputs(
    coords: np.ndarray, index: np.ndarray, classes: np.ndarray, height: int, width: int
) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} (height x width) px has no cells")
    if len(coords) != len(index):
        raise ValueError(f"{len(coords)} points, but {len(index)} instance indices")
    if len(index) and (index.min() < 0 or index.max() >= len(classes)):
        raise ValueError(
            f"instance indices from {index.min()} to {index.max()} for {len(classes)} instances"
        )
    inside = (coords >= -1) & (coords <= np.array([width, height]) + 1)  # False for NaN
    if not inside.all():
        x, y = coords[np.flatnonzero(~inside.all(axis=1))[0]]
        raise ValueError(
            f"point ({x:g}, {y:g}) lies outside the image of {width} x {height} (width x height) "
            "px; drop such points before they are rasterised"
        )


class _Cover(NamedTuple):
    """The cells of all points' squares, flat: cell, point and Chebyshev distance, each ``(K,)``."""

    cell: np.ndarray
    point: np.ndarray
    distance: np.ndarray


def _cover(
    coords: np.ndarray, grid: tuple[int, int], stride: tuple[float, float], side: float
) -> _Cover:
    near = []
    for axis, cells, step in ((1, grid[0], stride[0]), (0, grid[1], stride[1])):
        at = coords[:, axis, None]
        own = np.clip((at // step).astype(np.int64), 0, cells - 1)
        reach = int((side / 2 + step / 2 + _TOLERANCE) // step)
        candidate = own + np.arange(-reach, reach + 1)  # (P, cells in reach)
        offset = np.abs(step * (candidate + 0.5) - at)
        inside = (offset <= side / 2 + _TOLERANCE) & (candidate >= 0) & (candidate < cells)
        near.append((candidate, offset, inside, reach))
    (row, down, in_row, up), (column, across, in_column, left) = near
    belongs = in_row[:, :, None] & in_column[:, None, :]  # (P, rows in reach, columns in reach)
    belongs[:, up, left] = True
    cell = row[:, :, None] * grid[1] + column[:, None, :]
    distance = np.maximum(down[:, :, None], across[:, None, :])
    return _Cover(cell[belongs], np.nonzero(belongs)[0], distance[belongs])


def _nearest(cover: _Cover, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cells and points of the cover that no other point is nearer to."""
    nearest = np.full(grid[0] * grid[1], np.inf)
    np.minimum.at(nearest, cover.cell, cover.distance)
    wins = cover.distance <= nearest[cover.cell] + _TOLERANCE
    return cover.cell[wins], cover.point[wins]


def _where_unanimous(cell: np.ndarray, value: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Per cell, the value that all its entries share, or -1; int32 ``(rows, columns)``.

    Whichever entry of a cell is written last, the others agree with it or the cell has none.
    """
    result = np.full(grid[0] * grid[1], -1, dtype=np.int32)
    result[cell] = value
    result[cell[result[cell] != value]] = -1
    return result.reshape(grid)

"""Rules W205 and W206: what the training grid of stride 8 cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdd.points.findings import Finding
from fdd.points.raster import rasterize_points
from fdd.points.structures import PointImage
from fdd.points.wording import counted

__all__ = ["Grid", "check_cells", "training_size"]

# Of things that share cells, in one image; beyond, the image is crowded as a whole.
_MAX_PAIRS = 100_000


@dataclass(frozen=True)
class Grid:
    """How images are resized for training, and points dilated; the config's keys.

    Attributes:
        short_side: the smallest of ``INPUT.MIN_SIZE_TRAIN``, in pixels.
        max_side: ``INPUT.MAX_SIZE_TRAIN``.
        dilate_side: ``INPUT.POINTS.DILATE_SIDE``.
        dilate_reference: ``INPUT.POINTS.DILATE_REFERENCE``.
    """

    short_side: int = 800
    max_side: int = 1333
    dilate_side: float = 17.0
    dilate_reference: float = 600.0


def training_size(width: int, height: int, grid: Grid) -> tuple[int, int]:
    """Width and height of an image in training, as Detectron2's ``ResizeShortestEdge`` has them."""
    if grid.short_side == 0:
        return width, height
    scale = grid.short_side / min(width, height)
    if max(width, height) * scale > grid.max_side:
        scale = grid.max_side / max(width, height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def check_cells(images: Iterable[PointImage], things: set[int], grid: Grid) -> Iterator[Finding]:
    """Find things that share cells after dilation, and segments without a cell left.

    Args:
        images: those to look at (all, maybe with a progress bar).
        things: ids of the thing classes.
        grid: the training size.
    """
    for image in images:
        if len(image.segments) > 1 and image.has_size:
            yield from _check_image(image, things, grid)


def _check_image(image: PointImage, things: set[int], grid: Grid) -> Iterator[Finding]:
    xy, owner = _points(image)
    if not len(xy):
        return
    width, height = training_size(image.width, image.height, grid)
    count = len(image.segments)
    raster = rasterize_points(
        xy * np.array([width / image.width, height / image.height]),
        owner,
        np.zeros(count, np.int64),
        height,
        width,
        grid.dilate_side,
        grid.dilate_reference,
    )
    size = f"{width} x {height} px"
    isthing = np.array([s.category_id in things for s in image.segments])
    cells = raster.cells[isthing[raster.cells[:, 0]]]
    thing, code = cells[:, 0], cells[:, 1] * raster.instance_map.shape[1] + cells[:, 2]
    per_cell = np.bincount(code, minlength=1)
    if (per_cell * (per_cell - 1)).sum() > 2 * _MAX_PAIRS:
        # One finding for an image of so many pairs that nobody would read them.
        crowded, total = len(np.unique(thing[per_cell[code] > 1])), len(np.unique(thing))
        text = (
            f"{crowded} of {total} things share cells of the grid at {size}, up to "
            f"{per_cell.max()} in one cell"
        )
        yield Finding.about("W205", image, text)
        return
    start = np.searchsorted(owner, np.arange(count + 1))  # points come in the order of segments
    for a, b, shared in _shared_cells(code, thing):
        first, second = (xy[start[n] : start[n + 1]] for n in (a, b))
        distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        if (np.floor(first[i]) == np.floor(second[j])).all():
            continue  # E203
        ids = image.segments[a].id, image.segments[b].id
        text = (
            f"image {image.image_id!r}, segments {ids[0]!r} and {ids[1]!r}: points "
            f"{distance[i, j]:.1f} px apart share {counted(shared, 'cell')} of the grid at {size}"
        )
        point = (float(first[i, 0]), float(first[i, 1]))
        yield Finding("W205", text, None, image.image_id, ids[0], point)
    visible = np.bincount(raster.instance_map[raster.instance_map >= 0], minlength=count) > 0
    for n in np.setdiff1d(owner, np.flatnonzero(visible)).tolist():
        text = f"at {size}, points of others are nearer, or equally near, to all of its cells"
        yield Finding.about("W206", image, text, image.segments[n].id)


def _points(image: PointImage) -> tuple[np.ndarray, np.ndarray]:
    """The valid points inside the image, (P, 2), and the position of their segments, (P,)."""
    rows = [
        (point, n)
        for n, segment in enumerate(image.segments)
        for point in segment.points
        if _inside(point, image)
    ]
    xy = np.array([point for point, _ in rows], dtype=np.float64).reshape(-1, 2)
    return xy, np.array([n for _, n in rows], dtype=np.int64)


def _inside(point: Any, image: PointImage) -> bool:
    try:
        x, y = point
        return bool(0 <= x <= image.width and 0 <= y <= image.height)
    except (TypeError, ValueError):
        return False


def _shared_cells(code: np.ndarray, owner: np.ndarray) -> list[tuple[int, int, int]]:
    """Pairs of things that share cells: (segment, segment, number of cells)."""
    order = np.argsort(code, kind="stable")
    code, owner = code[order], owner[order]
    pairs = []
    for step in range(1, len(code)):
        same = code[step:] == code[:-step]
        if not same.any():
            break
        pairs.append(np.stack([owner[:-step][same], owner[step:][same]], axis=1))
    if not pairs:
        return []
    distinct, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    return [(int(a), int(b), int(n)) for (a, b), n in zip(distinct, counts, strict=True)]

"""Rules W205 and W206: what the training grid of stride 8 cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdd.points.raster import rasterize_points
from fdd.points.rules.finding import Finding
from fdd.points.rules.point_file import Labels
from fdd.points.structures import PointImage
from fdd.points.validation import is_side
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


def check_cells(labels: Labels, grid: Grid, images: Iterable[PointImage]) -> list[Finding]:
    """Find things that share cells after dilation, and segments without a cell left.

    Args:
        labels: the file.
        grid: the training size.
        images: those of the labels to look at (all, maybe with a progress bar).
    """
    things = {c.id for c in labels.dataset.categories if c.isthing}
    findings: list[Finding] = []
    for image in images:
        if len(image.segments) > 1 and is_side(image.width) and is_side(image.height):
            findings += _check_image(labels, grid, image, things)
    return findings


def _check_image(labels: Labels, grid: Grid, image: PointImage, things: set[int]) -> list[Finding]:
    xy, owner = _points(image)
    if not len(xy):
        return []
    width, height = training_size(image.width, image.height, grid)
    moved = xy * np.array([width / image.width, height / image.height])
    count = len(image.segments)
    raster = rasterize_points(
        moved,
        owner,
        np.zeros(count, np.int64),
        height,
        width,
        grid.dilate_side,
        grid.dilate_reference,
    )
    where, size = f"image {image.image_id!r}", f"{width} x {height} px"
    isthing = np.array([s.category_id in things for s in image.segments])
    cells = raster.cells[isthing[raster.cells[:, 0]]]
    code = cells[:, 1] * raster.instance_map.shape[1] + cells[:, 2]
    most = np.bincount(code, minlength=1)
    if (most * (most - 1)).sum() > 2 * _MAX_PAIRS:
        return [_crowded(labels, image, code, cells[:, 0], size)]
    findings = []
    start = np.searchsorted(owner, np.arange(count + 1))  # points come in the order of segments
    for a, b, shared in _shared_cells(code, cells[:, 0]):
        first, second = (xy[start[n] : start[n + 1]] for n in (a, b))
        distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        if (np.floor(first[i]) == np.floor(second[j])).all():
            continue  # E203
        ids = image.segments[a].id, image.segments[b].id
        message = (
            f"{where}, segments {ids[0]!r} and {ids[1]!r}: points {distance[i, j]:.1f} px apart "
            f"share {counted(shared, 'cell')} of the grid at {size}"
        )
        point = (float(first[i, 0]), float(first[i, 1]))
        findings.append(Finding("W205", message, labels.file, image.image_id, ids[0], point))
    visible = np.bincount(raster.instance_map[raster.instance_map >= 0], minlength=count) > 0
    for n in np.setdiff1d(owner, np.flatnonzero(visible)).tolist():
        segment_id = image.segments[n].id
        message = (
            f"{where}, segment {segment_id!r}: at {size}, points of others are nearer to, or as "
            "near to, all of its cells"
        )
        findings.append(Finding("W206", message, labels.file, image.image_id, segment_id))
    return findings


def _points(image: PointImage) -> tuple[np.ndarray, np.ndarray]:
    """The sound points inside the image, (P, 2), and the position of their segments, (P,)."""
    rows = [(p, n) for n, segment in enumerate(image.segments) for p in segment.points]
    good = [(p, n) for p, n in rows if _inside(p, image)]
    xy = np.array([p for p, _ in good], dtype=np.float64).reshape(-1, 2)
    return xy, np.array([n for _, n in good], dtype=np.int64)


def _inside(point: Any, image: PointImage) -> bool:
    try:
        x, y = point
        return bool(0 <= x <= image.width and 0 <= y <= image.height)
    except (TypeError, ValueError):
        return False


def _crowded(
    labels: Labels, image: PointImage, code: np.ndarray, owner: np.ndarray, size: str
) -> Finding:
    """One finding for an image of so many pairs that nobody would read them."""
    counts = np.bincount(code)
    crowded = len(np.unique(owner[counts[code] > 1]))
    message = (
        f"image {image.image_id!r}: {crowded} of {len(np.unique(owner))} things share cells of the "
        f"grid at {size}, up to {counts.max()} one cell"
    )
    return Finding("W205", message, labels.file, image.image_id)


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

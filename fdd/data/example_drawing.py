"""Pictures like those under a microscope: cells of two kinds, on glass, with a fibre across."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["CLASSES", "CellImage", "draw_cells"]

#: Name and whether it is a thing, in the order of category ids from 1.
CLASSES = (("red cell", True), ("white cell", True), ("fibre", False), ("glass", False))
_RED, _WHITE, _FIBRE, _GLASS = 1, 2, 3, 4
_GLASS_COLOR, _FIBRE_COLOR = (226, 221, 205), (120, 136, 150)
_CELL_COLOR = {_RED: (203, 92, 86), _WHITE: (171, 160, 201)}
_NUCLEUS_COLOR = (92, 62, 138)
_MIN_PIXELS = 40


@dataclass(frozen=True)
class CellImage:
    """A drawn image and its masks.

    Attributes:
        image: uint8 ``(S, S, 3)`` RGB.
        ids: int32 ``(S, S)``, the segment that each pixel belongs to, from 1.
        categories: segment id -> category id.
    """

    image: np.ndarray
    ids: np.ndarray
    categories: dict[int, int]


def draw_cells(rng: np.random.Generator, size: int) -> CellImage:
    """Draw one image; the same state of ``rng`` draws the same.

    Args:
        rng: source of all that is random.
        size: side of the square image in pixels.
    """
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = _GLASS_COLOR
    ids = np.ones((size, size), np.int32)
    categories = {1: _GLASS}
    if rng.random() < 0.7:
        _draw_fibre(rng, canvas, ids)
        categories[2] = _FIBRE
    for segment in range(3, 3 + int(rng.integers(4, 8))):
        kind = _RED if rng.random() < 0.65 else _WHITE
        _draw_cell(rng, canvas, ids, segment, kind)
        categories[segment] = kind
    shade = cv2.resize(rng.normal(0, 6, (5, 5, 1)), (size, size), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 4, canvas.shape)
    image = cv2.GaussianBlur(canvas, (0, 0), 0.7) + shade[..., None] + noise
    # What later cells have all but covered is no object of its own any more.
    for segment in [s for s in categories if (ids == s).sum() < _MIN_PIXELS]:
        del categories[segment]
        ids[ids == segment] = 0
    return CellImage(np.clip(image, 0, 255).astype(np.uint8), ids, categories)


def _draw_fibre(rng: np.random.Generator, canvas: np.ndarray, ids: np.ndarray) -> None:
    size = len(ids)
    ends = [(-10, int(rng.integers(size))), (size + 10, int(rng.integers(size)))]
    if rng.random() < 0.5:
        ends = [(y, x) for x, y in ends]
    mask = np.zeros(ids.shape, np.uint8)
    cv2.line(mask, ends[0], ends[1], 1, max(5, size // 14))
    canvas[mask > 0], ids[mask > 0] = _FIBRE_COLOR, 2


def _draw_cell(
    rng: np.random.Generator, canvas: np.ndarray, ids: np.ndarray, segment: int, kind: int
) -> None:
    size = len(ids)
    x, y = (int(n) for n in rng.integers(size // 10, size - size // 10, 2))
    radius = size * rng.uniform(0.07, 0.11) * (1.25 if kind == _WHITE else 1.0)
    axes = (round(radius), round(radius * rng.uniform(0.75, 1.0)))
    angle = float(rng.uniform(0, 180))
    mask = np.zeros(ids.shape, np.uint8)
    cv2.ellipse(mask, (x, y), axes, angle, 0, 360, 1, -1)
    color = np.array(_CELL_COLOR[kind]) + rng.integers(-12, 13, 3)
    canvas[mask > 0], ids[mask > 0] = np.clip(color, 0, 255), segment
    rim = tuple(int(c) for c in np.clip(color - 45, 0, 255))
    cv2.ellipse(canvas, (x, y), axes, angle, 0, 360, rim, 1)
    if kind == _WHITE:
        inner = (round(axes[0] * 0.5), round(axes[1] * 0.55))
        cv2.ellipse(canvas, (x, y), inner, angle, 0, 360, _NUCLEUS_COLOR, -1)
    else:
        pale = tuple(int(c) for c in np.clip(color + 22, 0, 255))
        cv2.circle(canvas, (x, y), max(1, round(radius * 0.35)), pale, -1)

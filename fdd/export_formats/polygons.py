"""Outlines of masks as polygons along pixel edges, for formats that know nothing else."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["mask_polygon", "mask_rings"]


def mask_rings(mask: np.ndarray) -> list[np.ndarray]:
    """The exact outlines of a mask: of every part, and of every hole.

    Args:
        mask: (H, W) bool.

    Returns:
        (K, 2) int64 corners (x, y) in pixels from the upper left corner of the map, so that a
        single pixel's outline is a square of side 1. Parts turn one way and holes the other: the
        signed areas add up to the number of pixels.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return []
    top, left = rows[0], columns[0]
    origin = np.array([left, top])
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # OpenCV gives the coordinates of border pixels. Of an image twice as large these tell which
    # side of an original pixel is meant: the odd ones are its right or lower half.
    double = crop.repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = []
    for contour in contours:
        corners = contour[:, 0].astype(np.int64)
        ring = _without_straight((corners + (corners & 1)) // 2)
        if len(ring) >= 4:
            rings.append(ring + origin)
    return rings


def mask_polygon(mask: np.ndarray) -> np.ndarray:
    """A mask as one polygon, also with several parts and holes.

    Parts and holes are joined by bridges of no width: the outline goes there and back on the same
    line, so that the enclosed area is exactly the mask's (under the even-odd and the winding rule).

    Args:
        mask: (H, W) bool.

    Returns:
        (K, 2) int64 corners (x, y); K = 0 for an empty mask.
    """
    rings = sorted(mask_rings(mask), key=lambda ring: -abs(signed_area(ring)))
    if not rings:
        return np.zeros((0, 2), dtype=np.int64)
    polygon = rings[0]
    for ring in rings[1:]:
        i, j = _nearest(polygon, ring)
        polygon = np.concatenate([polygon[: i + 1], ring[j:], ring[: j + 1], polygon[i:]])
    return polygon


def signed_area(ring: np.ndarray) -> float:
    """Area of a polygon (K, 2), positive or negative by the way it turns."""
    x, y = ring.T.astype(np.float64)
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def _without_straight(ring: np.ndarray) -> np.ndarray:
    """Leave out repeated corners, and those on a straight line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Indices of the corners of two rings that are nearest to each other."""
    best, place = np.inf, (0, 0)
    for start in range(0, len(a), 256):  # bounded memory for long outlines
        part = a[start : start + 256]
        distance = np.square(part[:, None] - b[None]).sum(-1)
        found = int(distance.argmin())
        if distance.flat[found] < best:
            best = distance.flat[found]
            i, j = divmod(found, len(b))
            place = (start + i, j)
    return place

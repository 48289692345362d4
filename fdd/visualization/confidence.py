"""A map of probabilities over a photograph: dark where the label is unsure."""

from __future__ import annotations

import cv2
import numpy as np

from fdd.visualization.draw import to_rgb


def confidence_colors() -> np.ndarray:
    """uint8 ``(256, 3)`` RGB from 0 to 1: viridis, whose lightness rises evenly, so that it reads
    under every kind of colour vision and in grey."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def draw_confidence(
    image: np.ndarray, confidence: np.ndarray, *, alpha: float = 0.75, upscale_to: int = 0
) -> np.ndarray:
    """Blend a map of probabilities over the image in grey.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        confidence: floats ``(h, w)`` in [0, 1], of any size; what is not finite stays grey.
        alpha: weight of the colour against the image.
        upscale_to: see :mod:`fdd.visualization.draw`.

    Returns:
        uint8 ``(H, W, 3)``, RGB.

    Raises:
        ValueError: the map is no map.
    """
    confidence = np.asarray(confidence, dtype=np.float32)
    if confidence.ndim != 2:
        raise ValueError(f"expected probabilities of shape (h, w), found {confidence.shape}")
    canvas = to_rgb(image, upscale_to)
    if canvas.size == 0 or confidence.size == 0:
        return canvas
    height, width = canvas.shape[:2]
    shrinks = confidence.shape[0] * confidence.shape[1] > height * width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(confidence, (width, height), interpolation=how)
    known = np.isfinite(resized)
    level = np.round(255 * np.clip(np.where(known, resized, 0), 0, 1)).astype(np.uint8)
    grey = np.repeat(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2).astype(np.float32)
    out = (1 - alpha) * grey + alpha * confidence_colors()[level]
    return np.round(np.where(known[:, :, None], out, grey)).astype(np.uint8)

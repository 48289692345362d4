"""Points, label maps and predictions over a photograph: pure functions of numpy arrays.

Everywhere: an image is uint8 ``(H, W, 3)`` RGB (a grey ``(H, W)`` one is taken too), ``metadata``
is anything that :func:`fdd.visualization.as_palette` takes, and the result is a new uint8 ``(H, W,
3)`` RGB array. With ``upscale_to``, an image whose longer side is shorter than that many pixels is
first enlarged by a whole factor, so that points and text are legible on a thumbnail. ``alpha``,
``contours`` and ``void`` are those of :class:`fdd.visualization.layers.LabelStyle`. Label maps of
another size are resized by nearest neighbour. Same input, same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from fdd.visualization.layers import (
    LabelStyle,
    compose,
    instances_layer,
    marker_radius,
    panoptic_layer,
    points_layer,
    semantic_layer,
)
from fdd.visualization.palette import as_palette, instance_colors, text_color_on
from fdd.visualization.text import Text, draw_texts, legend_strip, text_height, text_size

__all__ = [
    "add_legend",
    "confidence_colors",
    "draw_confidence",
    "draw_instance_labels",
    "draw_panoptic",
    "draw_points",
    "draw_semantic",
    "expand_cells",
    "fit_into",
    "to_rgb",
]


def to_rgb(image: np.ndarray, upscale_to: int = 0) -> np.ndarray:
    """A contiguous uint8 RGB copy, enlarged by a whole factor until its longer side is at least
    ``upscale_to``.

    Raises:
        ValueError: for another dtype or shape.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected an image of uint8 (H, W, 3) or (H, W), found {image.dtype} "
            f"{tuple(image.shape)}; a (3, H, W) tensor needs .permute(1, 2, 0) first"
        )
    height, width = image.shape[:2]
    longer = max(height, width)
    if min(height, width) == 0 or longer >= upscale_to:
        return np.ascontiguousarray(image).copy()
    factor = -(-upscale_to // longer)
    return cv2.resize(image, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)


def fit_into(picture: np.ndarray, max_side: int) -> np.ndarray:
    """The picture, uint8 RGB or RGBA, with its longer side no more than ``max_side`` pixels."""
    height, width = picture.shape[:2]
    scale = max_side / max(height, width, 1)
    if scale >= 1 or picture.size == 0:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if picture.shape[2] != 4:
        return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    # Colours count as far as they are seen, or rims fade into what is not there.
    opacity = picture[:, :, 3:].astype(np.float32)
    seen = np.concatenate([picture[:, :, :3] * opacity, opacity], 2)
    small = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    colors = small[:, :, :3] / np.maximum(small[:, :, 3:], 1e-3)
    return np.round(np.concatenate([colors, small[:, :, 3:]], 2)).clip(0, 255).astype(np.uint8)


def expand_cells(labels: np.ndarray, stride: int, height: int, width: int) -> np.ndarray:
    """A map of stride-``stride`` cells at pixel resolution: cell ``(v, u)`` covers its own square
    of pixels exactly.

    Pixels beyond the last cell (fewer than ``stride``) take the last cell's label, which is the
    cell their points go to.
    """
    labels = np.asarray(labels)
    if labels.size == 0:
        return np.full((height, width), -1, dtype=np.int64)
    rows = np.minimum(np.arange(height) // stride, labels.shape[0] - 1)
    cols = np.minimum(np.arange(width) // stride, labels.shape[1] - 1)
    return labels[rows[:, None], cols[None, :]].astype(np.int64)


def draw_points(
    image: np.ndarray,
    coords: np.ndarray,
    point_index: np.ndarray,
    classes: np.ndarray,
    metadata: Any,
    *,
    radius: float | None = None,
    upscale_to: int = 0,
    numbers: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw labelled points: discs on things, squares on stuff, in the colour of their instance.

    A black line inside a white one surrounds each marker, so that it stands out from any
    background.

    Args:
        image, metadata, upscale_to: see the module.
        coords: floats ``(P, 2)``, x and y in the image's pixels (pixel centres at +0.5). Non-finite
            points, and those too far outside to touch the image, are left out.
        point_index: ints ``(P,)``, the instance of each point.
        classes: ints ``(N,)``, the contiguous class of each instance.
        radius: of the markers in pixels of the result; from its size if not given.
        numbers: N short texts, each written beside the first point of its instance that lies in
            the image.

    Raises:
        ValueError: where the arrays do not fit each other.
    """
    canvas = to_rgb(image, upscale_to)
    height, width = canvas.shape[:2]
    coords = np.asarray(coords, dtype=np.float64).reshape(-1, 2)
    coords = coords * (width / max(np.asarray(image).shape[1], 1))
    palette = as_palette(metadata)
    radius = marker_radius(height, width) if radius is None else radius
    layer = points_layer((height, width), coords, point_index, classes, palette, radius)
    picture = compose(canvas, layer)
    if numbers is None or picture.size == 0:
        return picture
    first: dict[int, tuple[float, float]] = {}
    for (x, y), n in zip(coords.tolist(), np.asarray(point_index).tolist(), strict=True):
        if 0 <= x <= width and 0 <= y <= height:
            first.setdefault(n, (x + 1.6 * radius, y))
    return _write_numbers(picture, first, numbers, instance_colors(np.asarray(classes), palette))


def _write_numbers(
    canvas: np.ndarray,
    places: Mapping[int, tuple[float, float]],
    numbers: Sequence[str],
    colors: np.ndarray,
) -> np.ndarray:
    """A number on a plate in its instance's colour, to the right of each place, within the
    image."""
    height, width = canvas.shape[:2]
    size = text_height(height, width)
    texts: list[Text] = []
    for n, (x, y) in places.items():
        text_width, line = text_size(numbers[n], size)
        left = int(np.clip(x, 0, max(0, width - text_width - 2)))
        top = int(np.clip(y - line / 2, 0, max(0, height - line)))
        plate = colors[n] * 0.55
        patch = canvas[top : top + line, left : left + text_width + 2]
        patch[:] = np.round(0.1 * patch + 0.9 * plate).astype(np.uint8)
        texts.append((numbers[n], (left + 1, top), size, text_color_on(plate)))
    return draw_texts(canvas, texts)


def draw_instance_labels(
    image: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    metadata: Any,
    *,
    alpha: float = 0.6,
    contours: bool = True,
    void: str = "hatch",
    upscale_to: int = 0,
) -> np.ndarray:
    """Blend a map of instance indices over the image, each instance in its own colour.

    Args:
        image, metadata, alpha, contours, void, upscale_to: see the module.
        labels: ints ``(h, w)``, instance index, -1 where there is no label.
        classes: ints ``(N,)``, the contiguous class of each instance.

    Raises:
        ValueError: for an index outside of ``-1..N-1`` or an unknown ``void``.
    """
    canvas, style = to_rgb(image, upscale_to), LabelStyle(alpha, contours, void)
    size = canvas.shape[0], canvas.shape[1]
    return compose(canvas, instances_layer(size, labels, classes, as_palette(metadata), style))


def draw_semantic(
    image: np.ndarray,
    semantic: np.ndarray,
    metadata: Any,
    *,
    alpha: float = 0.6,
    contours: bool = True,
    void: str = "hatch",
    legend: bool = False,
    upscale_to: int = 0,
) -> np.ndarray:
    """Blend a map of contiguous class ids ``(h, w)`` (-1: none) over the image; with ``legend``,
    names below it.
    """
    canvas, palette = to_rgb(image, upscale_to), as_palette(metadata)
    size, style = (canvas.shape[0], canvas.shape[1]), LabelStyle(alpha, contours, void)
    picture = compose(canvas, semantic_layer(size, semantic, palette, style))
    present = [int(k) for k in np.unique(semantic) if k >= 0]
    return add_legend(picture, palette, present) if legend else picture


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    metadata: Any,
    *,
    alpha: float = 0.6,
    contours: bool = True,
    void: str = "hatch",
    labels: bool = True,
    scores: bool = False,
    legend: bool = False,
    upscale_to: int = 0,
) -> np.ndarray:
    """Blend a panoptic map over the image, with the class name on each segment large enough to
    carry it.

    Args:
        image, metadata, alpha, contours, void, upscale_to: see the module.
        panoptic_seg: ints ``(h, w)``, segment ids. Ids that ``segments_info`` does not name (0 and
            -1 among them) are void.
        segments_info: ``id`` and contiguous ``category_id`` of each segment, and ``score`` where
            ``scores`` is set.
        labels: write class names.
        scores: write the score behind the name.
        legend: put swatches and names of the classes in the picture below it.
    """
    canvas, palette = to_rgb(image, upscale_to), as_palette(metadata)
    size, style = (canvas.shape[0], canvas.shape[1]), LabelStyle(alpha, contours, void)
    layer = panoptic_layer(size, panoptic_seg, segments_info, palette, style, labels, scores)
    picture = compose(canvas, layer)
    present = sorted({int(s["category_id"]) for s in segments_info})
    return add_legend(picture, palette, present) if legend else picture


def confidence_colors() -> np.ndarray:
    """uint8 ``(256, 3)`` RGB from 0 to 1: viridis, whose lightness rises evenly, so that it reads
    under every kind of colour vision and in grey."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def draw_confidence(
    image: np.ndarray, confidence: np.ndarray, *, alpha: float = 0.75, upscale_to: int = 0
) -> np.ndarray:
    """Blend a map of probabilities over the image in grey: dark where the label is unsure.

    Args:
        image, upscale_to: see the module.
        confidence: floats ``(h, w)`` in [0, 1], of any size; what is not finite stays grey.
        alpha: weight of the colour against the image.

    Raises:
        ValueError: the map has another number of dimensions.
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


def add_legend(picture: np.ndarray, metadata: Any, class_ids: Sequence[int]) -> np.ndarray:
    """The picture with a legend strip of the classes below it."""
    size = text_height(*picture.shape[:2])
    return np.concatenate(
        [picture, legend_strip(as_palette(metadata), class_ids, picture.shape[1], size=size)]
    )

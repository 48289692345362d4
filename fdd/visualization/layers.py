"""What is drawn over a photograph: the colour and the opacity of each pixel.

A layer is float32 ``(H, W, 4)``: RGB in 0..255 and opacity in 0..1. :func:`compose` puts one over
an image; a page can do that itself, and let its reader choose how much of the image shows through.
``palette`` is a :class:`fdd.visualization.palette.Palette`, ``size`` is (height, width) of the
layer, and label maps of another size are resized by nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fdd.visualization.palette import Palette, instance_colors, text_color_on
from fdd.visualization.text import Text, draw_texts, text_height, text_size

VOID_STYLES = ("hatch", "plain")


@dataclass(frozen=True)
class LabelStyle:
    """How a label map is drawn.

    Attributes:
        alpha: weight of the colour against the image.
        contours: outline the segments.
        void: what has no label looks ``hatch``-ed, or ``plain``, like the bare image.

    Raises:
        ValueError: an unknown ``void``.
    """

    alpha: float = 0.6
    contours: bool = True
    void: str = "hatch"

    def __post_init__(self) -> None:
        if self.void not in VOID_STYLES:
            allowed = ", ".join(map(repr, VOID_STYLES))
            raise ValueError(f"void is {self.void!r}; allowed: {allowed}")


_STYLE = LabelStyle()


def compose(image: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """A layer over an image of its size, uint8 ``(H, W, 3)``."""
    color, opacity = layer[:, :, :3], layer[:, :, 3:]
    return np.clip(np.round(image + opacity * (color - image)), 0, 255).astype(np.uint8)


def as_rgba(layer: np.ndarray) -> np.ndarray:
    """A layer as a picture with transparency, uint8 ``(H, W, 4)``."""
    scale = np.array([1, 1, 1, 255], np.float32)
    return np.round(layer * scale).clip(0, 255).astype(np.uint8)


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A label map at another size, nearest neighbour at pixel centres; ids of any size survive.
    int64 ``(height, width)``.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"expected a label map of shape (h, w), found {tuple(labels.shape)}")
    if labels.size == 0:
        return np.full((height, width), -1, dtype=np.int64)
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / max(height, 1)).astype(np.int64)
    cols = ((np.arange(width) + 0.5) * labels.shape[1] / max(width, 1)).astype(np.int64)
    return labels[rows[:, None], cols[None, :]].astype(np.int64)


def marker_radius(height: int, width: int) -> float:
    """Radius in pixels of a point's marker, without its outline."""
    return max(2.5, 0.009 * (height * width) ** 0.5)


def points_layer(
    size: tuple[int, int],
    coords: np.ndarray,
    point_index: np.ndarray,
    classes: np.ndarray,
    palette: Palette,
    radius: float,
) -> np.ndarray:
    """Markers of labelled points; see :func:`fdd.visualization.draw_points`.

    Args:
        coords: floats ``(P, 2)``, x and y in pixels of the layer.
        radius: in pixels of the layer.
    """
    coords = np.asarray(coords, dtype=np.float64).reshape(-1, 2)
    index = np.asarray(point_index, dtype=np.int64).reshape(-1)
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    if len(coords) != len(index):
        raise ValueError(f"{len(coords)} points, but point_index has {len(index)} entries")
    _check_index(index, len(classes), "point_index", lowest=0)
    height, width = size
    layer = np.zeros((*size, 4), np.float32)
    if not layer.size:
        return layer
    # White, as the markers' rims: their soft edges are part of both.
    color, opacity = np.full((*size, 3), 255, np.uint8), np.zeros(size, np.uint8)
    colors = instance_colors(classes, palette)
    line = max(1.0, radius * 0.3)
    for (x, y), n in zip(coords, index.tolist(), strict=True):
        reach = radius + 2 * line
        if not (-reach < x < width + reach and -reach < y < height + reach):
            continue
        isthing = bool(palette.isthing[classes[n]])
        _marker(opacity, x, y, reach, (255,), isthing)
        _marker(color, x, y, reach, (255, 255, 255), isthing)
        _marker(color, x, y, radius + line, (0, 0, 0), isthing)
        _marker(color, x, y, radius, tuple(colors[n].tolist()), isthing)
    opacity[opacity < 4] = 0  # OpenCV's soft edges leave a trace beyond, on one side only
    layer[:, :, :3], layer[:, :, 3] = color, opacity / np.float32(255)
    return layer


def instances_layer(
    size: tuple[int, int],
    labels: np.ndarray,
    classes: np.ndarray,
    palette: Palette,
    style: LabelStyle = _STYLE,
) -> np.ndarray:
    """A map of instance indices; see :func:`fdd.visualization.draw_instance_labels`."""
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    _check_index(np.asarray(labels), len(classes), "the label map", lowest=-1)
    colors = instance_colors(classes, palette)
    return _label_layer(resize_labels(labels, *size), colors, style)


def semantic_layer(
    size: tuple[int, int],
    semantic: np.ndarray,
    palette: Palette,
    style: LabelStyle = _STYLE,
) -> np.ndarray:
    """A map of contiguous class ids, -1 for none."""
    _check_index(np.asarray(semantic), len(palette), "the semantic map", lowest=-1)
    return _label_layer(resize_labels(semantic, *size), palette.colors, style)


def panoptic_layer(
    size: tuple[int, int],
    panoptic_seg: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    palette: Palette,
    style: LabelStyle = _STYLE,
    labels: bool = True,
    scores: bool = False,
) -> np.ndarray:
    """A panoptic map with names on its segments; see :func:`fdd.visualization.draw_panoptic`."""
    seg = resize_labels(panoptic_seg, *size)
    ids = np.array([int(s["id"]) for s in segments_info], dtype=np.int64)
    classes = np.array([int(s["category_id"]) for s in segments_info], dtype=np.int64)
    colors = instance_colors(classes, palette)
    index = np.full(seg.shape, -1, dtype=np.int64)
    if len(ids):
        order = np.argsort(ids)
        place = np.minimum(np.searchsorted(ids[order], seg), len(ids) - 1)
        index = np.where(ids[order][place] == seg, order[place], -1)
    layer = _label_layer(index, colors, style)
    if labels:
        names = [palette.names[k] for k in classes]
        if scores:
            given = [s.get("score") for s in segments_info]
            names = [
                name if score is None else f"{name} {float(score):.2f}"
                for name, score in zip(names, given, strict=True)
            ]
        _write_names(layer, index, names, colors)
    return layer


def _check_index(values: np.ndarray, count: int, what: str, lowest: int) -> None:
    if values.size and (values.min() < lowest or values.max() >= count):
        raise ValueError(
            f"{what} spans {values.min()}..{values.max()}, expected {lowest}..{count - 1}"
        )


def _label_layer(index: np.ndarray, colors: np.ndarray, style: LabelStyle) -> np.ndarray:
    height, width = index.shape
    layer = np.zeros((height, width, 4), np.float32)
    if not layer.size:
        return layer
    labelled = index >= 0
    table = np.concatenate([colors.reshape(-1, 3), np.zeros((1, 3), np.uint8)]).astype(np.float32)
    layer[:, :, :3] = table[index]
    layer[:, :, 3] = style.alpha * labelled
    if style.void == "hatch":
        thick = max(1, round((height * width) ** 0.5 / 300))
        period = 7 * thick
        phase = (np.arange(height)[:, None] + np.arange(width)[None, :]) % period
        # A light line beside a dark one: one of the two shows on any background.
        layer[~labelled & (phase < thick)] = (0, 0, 0, 0.55)
        layer[~labelled & (phase >= thick) & (phase < 2 * thick)] = (255, 255, 255, 0.55)
    if style.contours:
        edge = boundary(index, max(1, round((height * width) ** 0.5 / 450)))
        layer[edge, :3] *= 0.25
        layer[edge, 3] = 1.0
    return layer


def boundary(index: np.ndarray, thickness: int) -> np.ndarray:
    """bool map of the labelled pixels within ``thickness`` of a pixel with another label (image
    edges do not count).
    """
    values = index.astype(np.float32)  # exact below 2**24 indices; cv2 has no int64 morphology
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    high = cv2.dilate(values, kernel, borderType=cv2.BORDER_REPLICATE)
    low = cv2.erode(values, kernel, borderType=cv2.BORDER_REPLICATE)
    return (high != low) & (index >= 0)


def _marker(
    canvas: np.ndarray, x: float, y: float, radius: float, color: tuple[int, ...], disc: bool
) -> None:
    # cv2 puts the centre of the first pixel at 0, the labels at 0.5; 4 fractional bits.
    unit = 16
    cx, cy, r = round((x - 0.5) * unit), round((y - 0.5) * unit), round(radius * unit)
    if disc:
        cv2.circle(canvas, (cx, cy), r, color, -1, cv2.LINE_AA, shift=4)
    else:
        half = round(r * 0.9)
        corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        corners += np.array([cx, cy])
        cv2.fillConvexPoly(canvas, corners.astype(np.int32), color, cv2.LINE_AA, shift=4)


def _write_names(
    layer: np.ndarray, index: np.ndarray, names: Sequence[str], colors: np.ndarray
) -> None:
    """Class names at the innermost point of each segment, largest first, none over another."""
    height, width = index.shape
    size = text_height(height, width)
    areas = np.bincount(index[index >= 0], minlength=len(names))
    boxes: list[tuple[int, int, int, int]] = []
    texts: list[Text] = []
    for n in np.argsort(-areas, kind="stable").tolist():
        text_width, box_height = text_size(names[n], size)
        box_width = text_width + size // 2
        if areas[n] < 2 * size * size or box_width > width or box_height > height:
            continue
        cx, cy = _innermost(index == n)
        left = int(np.clip(cx - box_width // 2, 0, width - box_width))
        for shift in (0, -1, 1, -2, 2):
            top = int(np.clip(cy - box_height // 2 + shift * box_height, 0, height - box_height))
            box = (left, top, left + box_width, top + box_height)
            middle = index[top + box_height // 2, int(np.clip(cx, 0, width - 1))]
            if middle == n and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                _cover(layer[top : box[3], left : box[2]], colors[n] * 0.55, 0.85)
                ink = text_color_on(colors[n] * 0.55)
                texts.append((names[n], (left + size // 4, top), size, ink))
                break
    if not texts:
        return
    layer[:, :, :3] = draw_texts(np.round(layer[:, :, :3]).astype(np.uint8), texts)
    white = [(text, place, pixels, (255, 255, 255)) for text, place, pixels, _ in texts]
    letters = draw_texts(np.zeros((height, width, 3), np.uint8), white)[:, :, 0]
    layer[:, :, 3] = np.maximum(layer[:, :, 3], letters / np.float32(255))


def _cover(part: np.ndarray, color: np.ndarray, opacity: float) -> None:
    """Put one colour over a part of a layer."""
    below = (1 - opacity) * part[:, :, 3:]
    part[:, :, :3] = (opacity * color + below * part[:, :, :3]) / (opacity + below)
    part[:, :, 3:] = opacity + below


def _innermost(mask: np.ndarray) -> tuple[int, int]:
    """x and y of the pixel farthest from the mask's outside (and from the image's edge)."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(distance)), mask.shape)
    return int(x), int(y)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

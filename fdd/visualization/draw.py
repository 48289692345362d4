"""Points, label maps and predictions over a photograph: pure functions of numpy arrays.

Everywhere: an image is uint8 ``(H, W, 3)`` RGB (a grey ``(H, W)`` one is taken too), ``metadata``
is anything that :func:`fdd.visualization.as_palette` takes, and the result is a new uint8 ``(H, W,
3)`` RGB array. With ``upscale_to``, an image whose longer side is shorter than that many pixels is
first enlarged by a whole factor, so that points and text are legible on a thumbnail. Label maps of
another size are resized by nearest neighbour. Same input, same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from fdd.visualization.palette import Palette, as_palette, instance_colors, text_color_on
from fdd.visualization.text import draw_texts, legend_strip, text_size

_VOID_STYLES = ("hatch", "plain")


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


def marker_radius(height: int, width: int) -> float:
    """Radius in pixels of a point's marker, without its outline."""
    return max(2.5, 0.009 * (height * width) ** 0.5)


def draw_points(
    image: np.ndarray,
    coords: np.ndarray,
    point_index: np.ndarray,
    classes: np.ndarray,
    metadata: Any,
    *,
    radius: float | None = None,
    upscale_to: int = 0,
) -> np.ndarray:
    """Draw labelled points: discs on things, squares on stuff, in the colour of their instance.

    A black line inside a white one surrounds each marker, so that it stands out from any
    background.

    Args:
        image: the image.
        coords: floats ``(P, 2)``, x and y in the image's pixels (pixel centres at +0.5). Non-finite
            points, and those too far outside to touch the image, are left out.
        point_index: ints ``(P,)``, the instance of each point.
        classes: ints ``(N,)``, the contiguous class of each instance.
        metadata: names and colours.
        radius: of the markers in pixels of the result; from its size if not given.
        upscale_to: see the module.

    Raises:
        ValueError: where the arrays do not fit each other.
    """
    palette = as_palette(metadata)
    coords = np.asarray(coords, dtype=np.float64).reshape(-1, 2)
    index = np.asarray(point_index, dtype=np.int64).reshape(-1)
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    if len(coords) != len(index):
        raise ValueError(f"{len(coords)} points, but point_index has {len(index)} entries")
    _check_index(index, len(classes), "point_index", lowest=0)
    canvas = to_rgb(image, upscale_to)
    height, width = canvas.shape[:2]
    if canvas.size == 0:
        return canvas
    colors = instance_colors(classes, palette)
    coords = coords * (width / np.asarray(image).shape[1])
    if radius is None:
        radius = marker_radius(height, width)
    line = max(1.0, radius * 0.3)
    for (x, y), n in zip(coords, index.tolist(), strict=True):
        reach = radius + 2 * line
        if not (-reach < x < width + reach and -reach < y < height + reach):
            continue
        isthing = bool(palette.isthing[classes[n]])
        _marker(canvas, x, y, radius + 2 * line, (255, 255, 255), isthing)
        _marker(canvas, x, y, radius + line, (0, 0, 0), isthing)
        _marker(canvas, x, y, radius, tuple(colors[n].tolist()), isthing)
    return canvas


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
        image: the image.
        labels: ints ``(h, w)``, instance index, -1 where there is no label.
        classes: ints ``(N,)``, the contiguous class of each instance.
        metadata: names and colours.
        alpha: weight of the colour against the image.
        contours: outline the instances.
        void: what -1 looks like: ``hatch``, or ``plain`` for the bare image.
        upscale_to: see the module.

    Raises:
        ValueError: for an index outside of ``-1..N-1`` or an unknown ``void``.
    """
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    _check_index(np.asarray(labels), len(classes), "the label map", lowest=-1)
    canvas = to_rgb(image, upscale_to)
    labels = resize_labels(labels, *canvas.shape[:2])
    return _blend(
        canvas, labels, instance_colors(classes, as_palette(metadata)), alpha, contours, void
    )


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
    palette = as_palette(metadata)
    _check_index(np.asarray(semantic), len(palette), "the semantic map", lowest=-1)
    canvas = to_rgb(image, upscale_to)
    semantic = resize_labels(semantic, *canvas.shape[:2])
    picture = _blend(canvas, semantic, palette.colors, alpha, contours, void)
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
        image: the image.
        panoptic_seg: ints ``(h, w)``, segment ids. Ids that ``segments_info`` does not name (0 and
            -1 among them) are void.
        segments_info: ``id`` and contiguous ``category_id`` of each segment, and ``score`` where
            ``scores`` is set.
        metadata: names and colours.
        alpha, contours, void, upscale_to: as in :func:`draw_instance_labels`.
        labels: write class names.
        scores: write the score behind the name.
        legend: put swatches and names of the classes in the picture below it.
    """
    palette = as_palette(metadata)
    canvas = to_rgb(image, upscale_to)
    seg = resize_labels(panoptic_seg, *canvas.shape[:2])
    ids = np.array([int(s["id"]) for s in segments_info], dtype=np.int64)
    classes = np.array([int(s["category_id"]) for s in segments_info], dtype=np.int64)
    colors = instance_colors(classes, palette)
    index = np.full(seg.shape, -1, dtype=np.int64)
    if len(ids):
        order = np.argsort(ids)
        place = np.minimum(np.searchsorted(ids[order], seg), len(ids) - 1)
        index = np.where(ids[order][place] == seg, order[place], -1)
    picture = _blend(canvas, index, colors, alpha, contours, void)
    if labels:
        names = [_segment_text(s, palette, scores) for s in segments_info]
        picture = _write_names(picture, index, names, colors)
    return add_legend(picture, palette, sorted(set(classes.tolist()))) if legend else picture


def add_legend(picture: np.ndarray, metadata: Any, class_ids: Sequence[int]) -> np.ndarray:
    """The picture with a legend strip of the classes below it."""
    size = _text_height(*picture.shape[:2])
    return np.concatenate(
        [picture, legend_strip(as_palette(metadata), class_ids, picture.shape[1], size=size)]
    )


def _segment_text(segment: Mapping[str, Any], palette: Palette, scores: bool) -> str:
    name = palette.names[int(segment["category_id"])]
    score = segment.get("score")
    return f"{name} {float(score):.2f}" if scores and score is not None else name


def _check_index(values: np.ndarray, count: int, what: str, lowest: int) -> None:
    if values.size and (values.min() < lowest or values.max() >= count):
        raise ValueError(
            f"{what} spans {values.min()}..{values.max()}, expected {lowest}..{count - 1}"
        )


def _blend(
    canvas: np.ndarray,
    index: np.ndarray,
    colors: np.ndarray,
    alpha: float,
    contours: bool,
    void: str,
) -> np.ndarray:
    if void not in _VOID_STYLES:
        raise ValueError(f"void is {void!r}; allowed: {', '.join(map(repr, _VOID_STYLES))}")
    if canvas.size == 0:
        return canvas
    labelled = index >= 0
    table = np.concatenate([colors.reshape(-1, 3), np.zeros((1, 3), np.uint8)]).astype(np.float32)
    tint = table[index]
    out = np.where(labelled[:, :, None], (1 - alpha) * canvas + alpha * tint, canvas)
    height, width = index.shape
    if void == "hatch":
        thick = max(1, round((height * width) ** 0.5 / 300))
        period = 7 * thick
        phase = (np.arange(height)[:, None] + np.arange(width)[None, :]) % period
        # A light line beside a dark one: one of the two shows on any background.
        out[~labelled & (phase < thick)] *= 0.45
        out[~labelled & (phase >= thick) & (phase < 2 * thick)] *= 0.45
        out[~labelled & (phase >= thick) & (phase < 2 * thick)] += 140.0
    if contours:
        edge = _boundary(index, max(1, round((height * width) ** 0.5 / 450)))
        out[edge] = 0.25 * tint[edge]
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def _boundary(index: np.ndarray, thickness: int) -> np.ndarray:
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


def _text_height(height: int, width: int) -> int:
    return int(np.clip(round((height * width) ** 0.5 / 32), 11, 28))


def _write_names(
    picture: np.ndarray, index: np.ndarray, names: Sequence[str], colors: np.ndarray
) -> np.ndarray:
    """Class names at the innermost point of each segment, largest first, none over another."""
    height, width = index.shape
    size = _text_height(height, width)
    areas = np.bincount(index[index >= 0], minlength=len(names))
    boxes: list[tuple[int, int, int, int]] = []
    texts: list[tuple[str, tuple[float, float], int, tuple[int, int, int]]] = []
    out = picture.copy()
    for n in np.argsort(-areas, kind="stable").tolist():
        text_width, text_height = text_size(names[n], size)
        box_width, box_height = text_width + size // 2, text_height
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
                patch = out[top : box[3], left : box[2]]
                patch[:] = np.round(0.15 * patch + 0.85 * (colors[n] * 0.55)).astype(np.uint8)
                ink = text_color_on(colors[n] * 0.55)
                texts.append((names[n], (left + size // 4, top), size, ink))
                break
    return draw_texts(out, texts)


def _innermost(mask: np.ndarray) -> tuple[int, int]:
    """x and y of the pixel farthest from the mask's outside (and from the image's edge)."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(distance)), mask.shape)
    return int(x), int(y)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

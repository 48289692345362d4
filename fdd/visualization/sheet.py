"""Contact sheets: the stages of one image side by side, one image a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from fdd.visualization.draw import draw_confidence, draw_points, fit_into, to_rgb
from fdd.visualization.layers import (
    as_rgba,
    compose,
    instances_layer,
    panoptic_layer,
    semantic_layer,
)
from fdd.visualization.palette import as_palette
from fdd.visualization.text import Text, draw_texts, legend_strip, shorten, text_size

# The order of the columns, and the keys of the panels of a sample.
POINTS, PSEUDO_LABEL, SEMANTIC = "Points", "Pseudo label", "Auxiliary semantics"
PREDICTION, GROUND_TRUTH = "Prediction", "Ground truth"
IMAGE, CONFIDENCE, RULE = "Image", "Confidence", "By rule"

_ORDER = (IMAGE, POINTS, PSEUDO_LABEL, RULE, CONFIDENCE, SEMANTIC, PREDICTION, GROUND_TRUTH)
_INK = (25, 25, 25)

Panoptic = tuple[Any, Sequence[Mapping[str, Any]]]
_Row = Mapping[str, np.ndarray] | Sequence[np.ndarray | None]


def to_numpy(value: Any) -> np.ndarray:
    """A numpy array from an array, a list, or a tensor on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def image_from_input(image: Any, image_format: str) -> np.ndarray:
    """The ``image`` of a mapper's output, ``(3, H, W)`` in 0..255, as uint8 ``(H, W, 3)`` RGB.

    Raises:
        ValueError: for an ``image_format`` other than RGB and BGR.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format is {image_format!r}; allowed: 'RGB', 'BGR'")
    pixels = np.clip(to_numpy(image).transpose(1, 2, 0), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, :, ::-1] if image_format == "BGR" else pixels)


def flatten_points(
    points: Sequence[Mapping[str, Any]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``points`` of a dataset dict as drawing wants them.

    Returns:
        coords float64 ``(P, 2)``, point_index int64 ``(P,)``, classes int64 ``(N,)``; instances in
        the order given.
    """
    coords = [np.asarray(p["coords"], dtype=np.float64).reshape(-1, 2) for p in points]
    index = np.repeat(np.arange(len(points)), [len(c) for c in coords])
    classes = np.array([int(p["category_id"]) for p in points], dtype=np.int64)
    flat = np.concatenate(coords) if coords else np.zeros((0, 2))
    return flat, index.astype(np.int64), classes


def fit_with_points(
    image: np.ndarray, points: Sequence[Mapping[str, Any]], max_side: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """An image with its longer side no more than ``max_side`` pixels, and its points there.

    What is drawn at the size in which it is shown keeps the width of its markers and outlines.

    Args:
        image: uint8 ``(H, W, 3)``, RGB.
        points: the ``points`` of its dataset dict.
        max_side: in pixels.
    """
    small = fit_into(image, max_side)
    scale = np.array(small.shape[1::-1]) / image.shape[1::-1]
    return small, [{**p, "coords": np.asarray(p["coords"]) * scale} for p in points]


def make_panels(
    image: np.ndarray,
    metadata: Any,
    *,
    points: Sequence[Mapping[str, Any]] | None = None,
    pseudo_label: Any = None,
    classes: Any = None,
    confidence: Any = None,
    rule: Any = None,
    semantic: Any = None,
    prediction: Panoptic | None = None,
    ground_truth: Panoptic | None = None,
    upscale_to: int = 320,
    layers: bool = False,
) -> dict[str, np.ndarray]:
    """Draw what there is to see of one image.

    Args:
        image: uint8 ``(H, W, 3)``, RGB.
        metadata: names and colours, see :func:`fdd.visualization.as_palette`.
        points: the ``points`` of the dataset dict; without them the first panel is the bare image.
        pseudo_label: ints ``(h, w)``, instance index; needs ``classes`` (of its instances,
            ``(N,)``).
        classes: contiguous class of each instance of the pseudo label.
        confidence: floats ``(h, w)`` in [0, 1], probability of the pseudo label.
        rule: ints ``(h, w)``, the label that a rule makes of the same points, of the same
            instances.
        semantic: ints ``(h, w)``, contiguous class ids.
        prediction: the model's ``(panoptic_seg, segments_info)``.
        ground_truth: the same of the ground truth.
        upscale_to: small images are enlarged to this many pixels.
        layers: leave the image out below labels and predictions, which are RGBA then, for a page
            that puts it there itself.

    Returns:
        Column title -> uint8 RGB picture, all of one size, in the order of the columns. Arrays may
        be tensors.
    """
    if classes is None and (pseudo_label is not None or rule is not None):
        raise ValueError("a label needs `classes`, the contiguous class of each of its instances")
    palette, canvas = as_palette(metadata), to_rgb(image, upscale_to)
    size = canvas.shape[0], canvas.shape[1]
    made: dict[str, np.ndarray] = {}
    for title, label in ((PSEUDO_LABEL, pseudo_label), (RULE, rule)):
        if label is not None:
            made[title] = instances_layer(size, to_numpy(label), to_numpy(classes), palette)
    if semantic is not None:
        made[SEMANTIC] = semantic_layer(size, to_numpy(semantic), palette)
    for title, panoptic in ((PREDICTION, prediction), (GROUND_TRUTH, ground_truth)):
        if panoptic is not None:
            made[title] = panoptic_layer(size, to_numpy(panoptic[0]), panoptic[1], palette)
    panels = {k: as_rgba(v) if layers else compose(canvas, v) for k, v in made.items()}
    if points is None:
        panels[IMAGE] = canvas
    else:
        panels[POINTS] = draw_points(image, *flatten_points(points), palette, upscale_to=upscale_to)
    if confidence is not None:
        panels[CONFIDENCE] = draw_confidence(canvas, to_numpy(confidence))
    return {title: panels[title] for title in _ORDER if title in panels}


def contact_sheet(
    rows: Sequence[_Row],
    titles: Sequence[str] | None = None,
    *,
    captions: Sequence[str] | None = None,
    metadata: Any = None,
    legend_classes: Sequence[int] | None = None,
    cell_width: int = 320,
    margin: int = 10,
) -> np.ndarray:
    """A grid of pictures with column headers above, a caption below each row and a legend at the
    bottom.

    Args:
        rows: one entry an image: panels by title (as :func:`make_panels` returns them), or pictures
            in the order of ``titles``. A missing panel, or None, leaves its place empty. Pictures
            are scaled to ``cell_width``.
        titles: the columns; from the rows, in order of appearance, if not given.
        captions: one line a row (file name, PQ).
        metadata: names and colours of the legend; no legend without it.
        legend_classes: the classes in the legend; all if not given.
        cell_width: width of a column in pixels.
        margin: space between cells in pixels.

    Returns:
        uint8 ``(H, W, 3)``, RGB.

    Raises:
        ValueError: where a row is longer than ``titles``, or captions and rows differ in number.
    """
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"{len(captions)} captions for {len(rows)} rows")
    columns = _titles(rows) if titles is None else titles
    lefts = [margin + c * (cell_width + margin) for c in range(len(columns))]
    width = margin + max(len(columns), 1) * (cell_width + margin)
    header, small = max(13, cell_width // 18), max(11, cell_width // 22)
    texts: list[Text] = [
        (shorten(title, header, cell_width), (left, margin / 2), header, _INK)
        for title, left in zip(columns, lefts, strict=True)
    ]
    placed: list[tuple[int, int, np.ndarray]] = []
    top = margin + text_size("", header)[1]
    for r, row in enumerate(rows):
        pictures = [_fit(cell, cell_width) for cell in _cells(row, columns)]
        found = [(p, left) for p, left in zip(pictures, lefts, strict=True) if p is not None]
        placed += [(top, left, picture) for picture, left in found]
        top += max([len(picture) for picture, _ in found], default=0)
        if captions is not None:
            caption = shorten(captions[r], small, width - 2 * margin)
            texts.append((caption, (margin, top + margin / 4), small, _INK))
            top += text_size("", small)[1]
        top += margin
    sheet = np.full((top, width, 3), 255, dtype=np.uint8)
    for above, left, picture in placed:
        sheet[above : above + picture.shape[0], left : left + picture.shape[1]] = picture
    sheet = draw_texts(sheet, texts)
    if metadata is None:
        return sheet
    palette = as_palette(metadata)
    shown = list(range(len(palette)) if legend_classes is None else legend_classes)
    return np.concatenate([sheet, legend_strip(palette, shown, width, size=small)])


def training_sheet(
    batched_input: Mapping[str, Any],
    labels: Mapping[str, Any],
    metadata: Any,
    *,
    image_format: str = "BGR",
    cell_width: int = 320,
) -> np.ndarray:
    """One training image as the model sees it: its points, the pseudo label made from them, the
    auxiliary semantics.

    Args:
        batched_input: what the mapper returns: ``image`` uint8 ``(3, H, W)``, ``classes``,
            ``point_coords``, ``point_index`` (and ``file_name`` for the caption).
        labels: one element of ``model.estimate_labels``, or a dict with ``{"pseudo_labels":
            {"learned": map}}`` alone; ``semantic`` and ``panoptic_seg`` (the model's pair) where
            they are there. Maps of any resolution. Without a learned label the first one is shown.
        metadata: names and colours.
        image_format: the channel order of ``image``: ``INPUT.FORMAT``, whose default in Detectron2
            is BGR.
        cell_width: width of a panel in pixels.

    Returns:
        uint8 ``(H, W, 3)``, RGB.
    """
    palette = as_palette(metadata)
    image = image_from_input(batched_input["image"], image_format)
    classes = to_numpy(batched_input["classes"]).astype(np.int64).reshape(-1)
    coords, index = to_numpy(batched_input["point_coords"]), to_numpy(batched_input["point_index"])
    made = labels.get("pseudo_labels", {})
    panels = make_panels(
        image,
        palette,
        pseudo_label=made.get("learned", next(iter(made.values()), None)),
        classes=labels.get("classes", classes),
        semantic=labels.get("semantic"),
        prediction=labels.get("panoptic_seg"),
        upscale_to=cell_width,
    )
    panels.pop(IMAGE)
    points = draw_points(image, coords, index, classes, palette, upscale_to=cell_width)
    return contact_sheet(
        [{POINTS: points, **panels}],
        captions=[str(batched_input["file_name"])] if "file_name" in batched_input else None,
        metadata=palette,
        legend_classes=sorted(set(classes.tolist())),
        cell_width=cell_width,
    )


def _titles(rows: Sequence[_Row]) -> list[str]:
    named = [row for row in rows if isinstance(row, Mapping)]
    if len(named) < len(rows):
        raise ValueError("rows given as lists of pictures need `titles`")
    return list(dict.fromkeys(title for row in named for title in row))


def _cells(row: _Row, titles: Sequence[str]) -> list[np.ndarray | None]:
    if isinstance(row, Mapping):
        return [row.get(title) for title in titles]
    if len(row) > len(titles):
        raise ValueError(f"a row has {len(row)} pictures, but there are {len(titles)} titles")
    return [*row, *[None] * (len(titles) - len(row))]


def _fit(picture: np.ndarray | None, width: int) -> np.ndarray | None:
    """Scaled to ``width``, portraits to no more than 1.5 times that in height."""
    if picture is None or picture.size == 0:
        return None
    picture = to_rgb(picture)
    scale = min(width / picture.shape[1], 1.5 * width / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=how)

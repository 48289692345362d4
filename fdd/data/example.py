"""A folder as an annotator leaves it: a few drawn images, and their points in LabelMe's files.

For trying the way from a labelling tool's export to a trained model without data of one's own. The
images look like those of a microscope: cells of two kinds, on glass, with a fibre across.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fdd.points import Category, sample_points
from fdd.points.coco_panoptic import PanopticWriter, describe_segments, save_segment_ids
from fdd.points.files import check_new_folder, new_folder

__all__ = [
    "CLASSES",
    "DATASET_FILE",
    "MASKED_FILE",
    "TRUE_MASKS",
    "CellImage",
    "draw_cells",
    "draw_example",
]

DATASET_FILE = "dataset.yaml"
TRUE_MASKS, MASKED_FILE = "true_masks", "with_true_masks.yaml"

_SIZE = 128

#: Name and whether it is a thing, in the order of category ids from 1.
CLASSES = (("red cell", True), ("white cell", True), ("fibre", False), ("glass", False))
_RED, _WHITE, _FIBRE, _GLASS = 1, 2, 3, 4
_GLASS_COLOR, _FIBRE_COLOR = (226, 221, 205), (120, 136, 150)
_CELL_COLOR = {_RED: (203, 92, 86), _WHITE: (171, 160, 201)}
_NUCLEUS_COLOR = (92, 62, 138)
_MIN_PIXELS = 40


def draw_example(
    folder: str | os.PathLike[str],
    num_images: int = 10,
    num_val: int = 4,
    points: int = 10,
    seed: int = 0,
) -> Path:
    """Draw ``folder``: ``images/*.png``, their points in ``labelme/*.json``, and for validation
    ``val_images/*.png`` with the masks ``panoptic_val.json`` and ``panoptic_val/*.png``.

    The masks that the labelled images were drawn from are there, too (``true_masks.json``,
    ``true_masks/*.png``), to measure labels with. No training reads them, and only
    ``with_true_masks.yaml`` names them: a data set file of the points that are to be imported
    (``points.json``) with masks and validation.

    Args:
        folder: made by this function, if it is not there and empty; nothing is left in it after an
            error.
        num_images, num_val: numbers of images.
        points: clicks for each thing and for each stuff class of an image.
        seed: any non-negative number.

    Raises:
        FileExistsError: ``folder`` is there and not empty.
        ValueError: a number is out of its range.
        OSError: it cannot be written; of a full disk, names ``folder``.
    """
    target = Path(folder).expanduser()
    check_new_folder(target)
    if num_images < 1 or num_val < 0 or points < 1 or seed < 0:
        raise ValueError(
            f"{num_images} images and {num_val} for validation, {points} points, seed {seed}: at "
            "least 1 image and 1 point, and no negative number"
        )
    with new_folder(target) as aside:
        for name in ("images", "labelme", TRUE_MASKS, "val_images", "panoptic_val"):
            (aside / name).mkdir(parents=True)
        labelled = {
            f"slide_{n:02d}": draw_cells(np.random.default_rng([seed, 0, n]), _SIZE)
            for n in range(num_images)
        }
        for stem, drawn in labelled.items():
            _write_labelled(aside, stem, drawn, points, seed)
        _write_masks(aside, TRUE_MASKS, labelled)
        for name, masks in ((DATASET_FILE, False), (MASKED_FILE, True)):
            (aside / name).write_text(_dataset_file(num_val, masks=masks), encoding="utf-8")
        _write_validation(
            aside, [draw_cells(np.random.default_rng([seed, 2, n]), _SIZE) for n in range(num_val)]
        )
    return target


def _write_labelled(folder: Path, stem: str, drawn: CellImage, points: int, seed: int) -> None:
    """One image and its points as LabelMe keeps them: a shape a click, an object's in a group."""
    Image.fromarray(drawn.image).save(folder / "images" / f"{stem}.png")
    shapes = [
        {
            "label": CLASSES[category - 1][0],
            "points": [[float(x), float(y)]],
            "group_id": segment,
            "description": "",
            "shape_type": "point",
            "flags": {},
        }
        for segment, category in drawn.categories.items()
        for x, y in sample_points(drawn.ids == segment, points, "uniform", seed, stem, segment)
    ]
    record = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"../images/{stem}.png",
        "imageData": None,
        "imageHeight": drawn.ids.shape[0],
        "imageWidth": drawn.ids.shape[1],
    }
    text = json.dumps(record, indent=1)
    (folder / "labelme" / f"{stem}.json").write_text(text, encoding="utf-8")


def _write_validation(folder: Path, drawn: list[CellImage]) -> None:
    named = {f"val_{n:02d}": cells for n, cells in enumerate(drawn)}
    for stem, cells in named.items():
        Image.fromarray(cells.image).save(folder / "val_images" / f"{stem}.png")
    _write_masks(folder, "panoptic_val", named)


def _write_masks(folder: Path, name: str, drawn: dict[str, CellImage]) -> None:
    """COCO panoptic masks: ``name.json`` and the folder ``name``."""
    writer = PanopticWriter(Category(n, *entry) for n, entry in enumerate(CLASSES, start=1))
    for stem, cells in drawn.items():
        file_name = f"{stem}.png"
        save_segment_ids(folder / name / file_name, cells.ids)
        segments = describe_segments(cells.ids, cells.categories)
        writer.add(stem, file_name, cells.ids.shape, file_name, segments)
    writer.write(folder / f"{name}.json")


def _dataset_file(num_val: int, *, masks: bool) -> str:
    things, stuff = (
        ", ".join(name for name, isthing in CLASSES if isthing == kind) for kind in (True, False)
    )
    text = "# The points are those that `fdd points import` writes.\nname: cells\n"
    if masks:
        text = (
            "# The data set with the masks that its images were drawn from, to measure labels "
            "with:\n# no training reads them. The points are those that `fdd points import` "
            "writes.\nname: cells with masks\n"
        )
    text += (
        f"images: images\npoints: points.json\nclasses:\n  things: [{things}]\n  stuff: [{stuff}]\n"
    )
    if masks:
        text += f"masks: {{json: {TRUE_MASKS}.json, folder: {TRUE_MASKS}}}\n"
    if num_val:
        text += (
            "validation:\n  masks: {json: panoptic_val.json, folder: panoptic_val}\n"
            "  images: val_images\n"
        )
    return text


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
    # What later cells cover almost completely does not count as an object.
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

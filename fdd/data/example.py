"""A folder as an annotator leaves it: a few drawn images, and their points in LabelMe's files.

For trying the way from a labelling tool's export to a trained model without data of one's own.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from fdd.data.example_drawing import CLASSES, CellImage, draw_cells
from fdd.points import Category, sample_points
from fdd.points.coco_panoptic import PanopticWriter, describe_segments, save_segment_ids
from fdd.points.files import find_no_room

__all__ = ["DATASET_FILE", "MASKED_FILE", "TRUE_MASKS", "draw_example"]

DATASET_FILE = "dataset.yaml"
TRUE_MASKS, MASKED_FILE = "true_masks", "with_true_masks.yaml"

_SIZE = 128


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
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not a new or empty folder; name another one")
    if num_images < 1 or num_val < 0 or points < 1 or seed < 0:
        raise ValueError(
            f"{num_images} images and {num_val} for validation, {points} points, seed {seed}: at "
            "least 1 image and 1 point, and no negative number"
        )
    is_there = target.exists()  # maybe the working folder, or a link: stays the folder that it is
    beside = target if is_there else target.parent
    beside.mkdir(parents=True, exist_ok=True)
    with (
        _full_disk_names(target),
        tempfile.TemporaryDirectory(dir=beside, prefix=".example-") as scratch,
    ):
        aside = Path(scratch, "example")
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
        for entry in sorted(aside.iterdir()) if is_there else ():
            entry.rename(target / entry.name)
        if not is_there:
            aside.rename(target)
    return target


@contextmanager
def _full_disk_names(folder: Path) -> Iterator[None]:
    """Of a full disk, name the folder that a person knows: what is begun beside it is gone."""
    try:
        yield
    except OSError as error:
        if (full := find_no_room(error)) is None:
            raise
        raise OSError(full.errno, full.strerror, str(folder)) from error


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

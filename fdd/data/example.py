"""A folder as an annotator leaves it: a few drawn images, and their points in LabelMe's files.

For trying the way from a labelling tool's export to a trained model without data of one's own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fdd.data.shapes import generate_shapes
from fdd.points import PointImage, sample_panoptic

__all__ = ["draw_example"]

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

    Args:
        folder: made by this function; nothing is left of it after an error.
        num_images, num_val: numbers of images.
        points: clicks for each thing and for each stuff class of an image.
        seed: any non-negative number.

    Raises:
        FileExistsError: ``folder`` is there and not empty.
        ValueError: a number is out of its range.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; name a new folder")
    if num_images < 1 or points < 1:
        raise ValueError(f"{num_images} images with {points} points; at least 1 of both")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        drawn = generate_shapes(scratch, num_images, num_val, _SIZE, seed, points=())
        clicks = sample_panoptic(
            drawn / "panoptic_train.json", drawn / "panoptic_train", points, seed=seed
        )
        aside = Path(scratch, "example")
        (aside / "labelme").mkdir(parents=True)
        (drawn / "train").rename(aside / "images")
        (drawn / "val").rename(aside / "val_images")
        for name in ("panoptic_val", "panoptic_val.json"):
            (drawn / name).rename(aside / name)
        names = {category.id: category.name for category in clicks.categories}
        for image in clicks.images:
            record = _labelme(image, names)
            path = aside / "labelme" / f"{Path(image.file_name).stem}.json"
            path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        if target.exists():
            target.rmdir()
        shutil.move(aside, target)
    return target


def _labelme(image: PointImage, names: dict[int, str]) -> dict[str, Any]:
    """One image's points as LabelMe keeps them: a shape a click, an object's clicks in a group."""
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {
                "label": names[segment.category_id],
                "points": [[x, y]],
                "group_id": group,
                "shape_type": "point",
                "flags": {},
            }
            for group, segment in enumerate(image.segments, start=1)
            for x, y in segment.points
        ],
        "imagePath": f"../images/{image.file_name}",
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }

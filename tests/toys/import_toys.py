"""Images of all kinds, and writing labels of a few points."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fdd.points.importers import RawImage, RawPoint

EXPORTS = Path(__file__).resolve().parents[1] / "points" / "exports"
COW, GRASS = "cow", "grass"


def save_image(path, width=30, height=20, mode="RGB", orientation=None):
    """A picture of a mode of Pillow's; ``orientation`` is that of its EXIF tag."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint16 if mode == "I;16" else np.uint8
    picture = Image.fromarray(np.zeros((height, width), kind))
    picture = picture if mode == "I;16" else picture.convert(mode)
    options = {}
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    picture.save(path, **options)
    return path


def farm(root):
    """The images that the exports written by hand speak of."""
    save_image(root / "field.jpg")
    save_image(root / "sub" / "shed, old.png", 12, 10)
    save_image(root / "sub" / "shed.jpg", 12, 10)
    return root


def raw_image(name="field.jpg", *points, **options):
    """An image of an export; a point is label, x, y and maybe the instance."""
    made = [
        RawPoint(p[0], p[1], p[2], p[3] if len(p) > 3 else None, f"{name}, point {i}")
        for i, p in enumerate(points)
    ]
    return RawImage(name, made, where=f"entry {name}", **options)


def labelme(path, image="field.jpg", points=(), **others):
    """Write a LabelMe file; a point is label, x, y and maybe the group."""
    shapes = [
        {
            "label": p[0],
            "points": [[p[1], p[2]]],
            "group_id": p[3] if len(p) > 3 else None,
            "shape_type": "point",
            "flags": {},
        }
        for p in points
    ]
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | {"imageData": None} | others), encoding="utf-8")
    return path


def segments(dataset, image=0):
    """Class name and points of each segment."""
    names = {c.id: c.name for c in dataset.categories}
    return [(names[s.category_id], s.points) for s in dataset.images[image].segments]

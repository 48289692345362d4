"""A small data set on disk, built by hand, in a folder with a space and an accent in its name."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fdd.data import register_panoptic, register_points

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
    {"id": 9, "name": "grass", "isthing": 0},
    {"id": 1, "name": "dog", "isthing": 1},
]


@pytest.fixture
def register():
    """Register under a name that is removed after the test: ``register(function, name, *args)``."""
    names = []

    def call(function, name, *args, **kwargs):
        function(name, *args, **kwargs)
        names.append(name)
        return name

    yield call
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


class Folder:
    """Files of a data set of 40 x 60 (height x width) images; the halves of each are sky and grass,
    with a cat and a dog of 10 x 10 px on them."""

    height, width = 40, 60
    ids = ("2007_000032", 12)

    def __init__(self, root):
        self.images, self.pngs = root / "images", root / "masks"
        self.panoptic_json, self.points_json = root / "panoptic.json", root / "points.json"
        self.images.mkdir(parents=True)
        self.pngs.mkdir()
        self.segment_map = np.full((self.height, self.width), 7001, np.int32)
        self.segment_map[20:] = 9001
        self.segment_map[5:15, 10:20] = 3001
        self.segment_map[25:35, 40:50] = 70000
        self.segments = {7001: 7, 9001: 9, 3001: 3, 70000: 1}
        self.coords = {
            7001: [[5.5, 2.5], [55.5, 3.5]],
            9001: [[2.5, 38.5]],
            3001: [[12.5, 7.5], [18.5, 13.5]],
            70000: [[45.5, 30.5]],
        }
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
        for image_id in self.ids:
            Image.fromarray(self.pixels).save(self.images / f"{image_id}.png")
            self.write_png(image_id, self.segment_map)
        self.write_panoptic(self.panoptic_content())
        self.write_points(self.points_content())

    def write_png(self, image_id, ids):
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(rgb).save(self.pngs / f"{image_id}.png")

    def write_panoptic(self, content):
        self.panoptic_json.write_text(json.dumps(content))

    def write_points(self, content):
        self.points_json.write_text(json.dumps(content))

    def panoptic_content(self):
        images = [
            {"id": n, "file_name": f"{n}.png", "height": self.height, "width": self.width}
            for n in self.ids
        ]
        annotations = [
            {
                "image_id": n,
                "file_name": f"{n}.png",
                "segments_info": [{"id": s, "category_id": c} for s, c in self.segments.items()],
            }
            # In another order than the images.
            for n in reversed(self.ids)
        ]
        return {"images": images, "annotations": annotations, "categories": CATEGORIES}

    def points_content(self):
        images = [
            {
                "id": n,
                "file_name": f"{n}.png",
                "height": self.height,
                "width": self.width,
                "segments": [
                    {"id": s, "category_id": c, "points": self.coords[s]}
                    for s, c in self.segments.items()
                ],
            }
            for n in self.ids
        ]
        categories = [{k: c[k] for k in ("id", "name", "isthing")} for c in CATEGORIES]
        return {
            "format": "fdd-points",
            "version": 1,
            "info": {},
            "categories": categories,
            "images": images,
        }


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "my data é")


@pytest.fixture
def points(folder, register):
    paths = folder.images, folder.points_json, folder.panoptic_json, folder.pngs
    return DatasetCatalog.get(register(register_points, "test_points", *paths))


@pytest.fixture
def masks(folder, register):
    paths = folder.images, folder.panoptic_json, folder.pngs
    return DatasetCatalog.get(register(register_panoptic, "test_masks", *paths))

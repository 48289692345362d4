"""A small COCO panoptic data set, in a folder with a space and an accent in its paths."""

import json

import numpy as np
import pytest

from fdd.points import sample_panoptic
from fdd.points.coco_panoptic import save_segment_ids


class Panoptic:
    """Two images with things, stuff, a crowd and void, written as COCO panoptic data."""

    def __init__(self, root):
        self.json, self.pngs = root / "panoptic é.json", root / "panoptic pngs"
        self.pngs.mkdir()
        self.ids = np.full((20, 30), 70_001, np.int32)
        self.ids[10:] = 3
        self.ids[2:6, 2:6] = 500
        self.ids[2:6, 10:14] = 501
        self.ids[12:16, 2:9] = 900  # a crowd
        self.ids[:, 28:] = 0
        segments = [(3, 9, 0), (500, 1, 0), (501, 1, 0), (900, 1, 1), (70_001, 4, 0)]
        self.content = {
            "images": [
                {"id": "2007_000032", "file_name": "a/x.jpg", "height": 20, "width": 30},
                {"id": 5, "file_name": "a/y.jpg", "height": 20, "width": 30},
            ],
            "annotations": [
                {
                    "image_id": image_id,
                    "file_name": f"{name}.png",
                    "segments_info": [
                        {"id": i, "category_id": c, "iscrowd": crowd, "area": 1, "bbox": [0] * 4}
                        for i, c, crowd in segments
                    ],
                }
                for image_id, name in ((5, "y"), ("2007_000032", "x"))
            ],
            "categories": [
                {"id": 9, "name": "grass", "isthing": 0},
                {"id": 1, "name": "dog", "isthing": 1},
                {"id": 4, "name": "sky", "isthing": 0},
            ],
        }
        self.write()
        for name in "xy":
            save_segment_ids(self.pngs / f"{name}.png", self.ids)

    def write(self):
        self.json.write_text(json.dumps(self.content), encoding="utf-8")

    def segments(self, image=0):
        image_id = self.content["images"][image]["id"]
        (entry,) = [a for a in self.content["annotations"] if a["image_id"] == image_id]
        return entry["segments_info"]

    def sample(self, k=10, *args, **kwargs):
        return sample_panoptic(self.json, self.pngs, k, *args, **kwargs)


@pytest.fixture
def panoptic(tmp_path):
    return Panoptic(tmp_path)

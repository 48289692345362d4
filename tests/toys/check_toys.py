"""A sound little data set on disk, to be spoilt in one place by each test."""

import json

import numpy as np
from PIL import Image

from fdd.points.coco_panoptic import save_segment_ids
from fdd.points.rules import CheckOptions, CheckTarget, check_data

CATEGORIES = [
    {"id": 1, "name": "dog", "isthing": True},
    {"id": 2, "name": "sky", "isthing": False},
    {"id": 3, "name": "cat", "isthing": True},
]
WIDTH, HEIGHT = 60, 40


class Data:
    """Training images ``a`` and ``b`` and the validation image ``v``: a dog, a cat, the sky."""

    def __init__(self, root):
        self.root = root
        self.images, self.val = root / "images", root / "val"
        for folder in (self.images, self.val, root / "masks", root / "val_masks"):
            folder.mkdir(parents=True)
        for n, path in enumerate(
            (self.images / "a.png", self.images / "b.png", self.val / "v.png")
        ):
            pixels = np.random.default_rng(n).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        self.points = {
            "format": "fdd-points",
            "version": 1,
            "info": {},
            "categories": [dict(c) for c in CATEGORIES],
            "images": [self.image("a"), self.image("b")],
        }
        self.ids = np.full((HEIGHT, WIDTH), 9, np.int32)
        self.ids[5:15, 5:15], self.ids[25:35, 40:50] = 4, 5
        self.masks = self.panoptic("a", "b")
        self.val_masks = self.panoptic("v")
        for folder, names in (("masks", "ab"), ("val_masks", "v")):
            for name in names:
                save_segment_ids(root / folder / f"{name}.png", self.ids)
        self.yaml = {
            "images": "images",
            "points": "points.json",
            "masks": {"json": "masks.json", "folder": "masks"},
            "validation": {
                "images": "val",
                "masks": {"json": "val_masks.json", "folder": "val_masks"},
            },
        }

    @staticmethod
    def image(name):
        segments = [
            (4, 1, [[10.5, 10.5]]),
            (5, 3, [[45.5, 30.5]]),
            (9, 2, [[30.5, 5.5], [2.5, 38.5]]),
        ]
        return {
            "id": name,
            "file_name": f"{name}.png",
            "height": HEIGHT,
            "width": WIDTH,
            "segments": [{"id": i, "category_id": c, "points": p} for i, c, p in segments],
        }

    def panoptic(self, *names):
        segments = [(4, 1), (5, 3), (9, 2)]
        return {
            "images": [
                {"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in names
            ],
            "annotations": [
                {
                    "image_id": n,
                    "file_name": f"{n}.png",
                    "segments_info": [
                        {
                            "id": i,
                            "category_id": c,
                            "iscrowd": 0,
                            "bbox": [0, 0, 1, 1],
                            "area": int((self.ids == i).sum()),
                        }
                        for i, c in segments
                    ],
                }
                for n in names
            ],
            "categories": [dict(c) for c in CATEGORIES],
        }

    def write(self):
        for name in ("points", "masks", "val_masks"):
            (self.root / f"{name}.json").write_text(json.dumps(getattr(self, name)), "utf-8")
        (self.root / "data.yaml").write_text(json.dumps(self.yaml), "utf-8")
        return self.root / "data.yaml"

    def segment(self, n, image=0):
        return self.points["images"][image]["segments"][n]

    def check(self, **options):
        return check_data(CheckTarget.find(self.write()), CheckOptions(**options))

    def found(self, **options):
        """Codes of what is found, each once, without notes."""
        return sorted({f.rule for f in self.check(**options).findings if f.severity != "note"})

    def only(self, rule, **options):
        """The findings, which must all be of one rule."""
        findings = self.check(**options).findings
        assert {f.rule for f in findings} == {rule}, [(f.rule, f.message) for f in findings]
        return findings

"""Tiny panoptic sets on disk, and predictions for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from panopticapi.utils import rgb2id
from PIL import Image

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": True},
    {"id": 3, "name": "dog", "isthing": True},
    {"id": 9, "name": "sky", "isthing": False},
    {"id": 1, "name": "grass", "isthing": False},
]


class PanopticSet:
    """Writes images one by one; ``segments`` are (id, contiguous class[, crowd])."""

    def __init__(self, folder: Path, categories=CATEGORIES) -> None:
        self.root = folder / "masks"
        self.root.mkdir(parents=True)
        self.json = folder / "masks.json"
        self.categories = categories
        self.annotations: list[dict] = []
        self.images: list[dict] = []

    def png(self, file_name: str, id_map) -> None:
        ids = np.asarray(id_map, dtype=np.int64)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(rgb).save(self.root / file_name)

    def add(self, image_id, id_map, segments, **extra) -> dict:
        infos = [
            {"id": s[0], "category_id": self.categories[s[1]]["id"]}
            | ({"iscrowd": 1} if len(s) > 2 and s[2] else {})
            for s in segments
        ]
        file_name = f"{image_id}.png"
        self.png(file_name, id_map)
        height, width = np.shape(id_map)
        size = {"height": height, "width": width}
        self.images.append({"id": image_id, "file_name": "x.jpg", **size})
        self.annotations.append(
            {"image_id": image_id, "file_name": file_name, "segments_info": infos, **extra}
        )
        return self.annotations[-1]

    def save(self) -> dict:
        """Writes the JSON; returns the evaluator's arguments."""
        content = {
            "images": self.images,
            "annotations": self.annotations,
            # The file lists its categories in an order of its own.
            "categories": [
                {**c, "isthing": int(c["isthing"])}
                for c in sorted(self.categories, key=lambda c: c["id"])
            ],
        }
        self.json.write_text(json.dumps(content))
        return {
            "panoptic_json": str(self.json),
            "panoptic_root": str(self.root),
            "categories": self.categories,
        }


def predict(evaluator, image_id, id_map, segments, **extra):
    """``segments`` are (id, contiguous class)."""
    infos = [{"id": i, "category_id": c, **extra} for i, c in segments]
    evaluator.process(
        [{"image_id": image_id}], [{"panoptic_seg": (torch.as_tensor(np.asarray(id_map)), infos)}]
    )


def blocks(rng, size, ids):
    """Random label map of patches, with ragged edges, on ``ids``."""
    coarse = rng.choice(ids, size=(size[0] // 4, size[1] // 4))
    fine = np.kron(coarse, np.ones((4, 4), dtype=np.int64))
    noise = rng.random(size) < 0.05
    return np.where(noise, rng.choice(ids, size=size), fine)


def random_truth(rng, panoptic_set, count, size=(24, 32)):
    """Images with void and crowd, some classes absent, ids up to the last byte."""
    for n in range(count):
        ids = rng.choice(np.arange(1, 256**3), size=7, replace=False)
        id_map = blocks(rng, size, np.append(ids, 0))
        # Two crowds of one class: only the last listed forgives, in panopticapi as here.
        segments = [(int(i), int(c)) for i, c in zip(ids, rng.integers(0, 4, 7), strict=True)]
        segments = [(*s, j in (0, 3)) for j, s in enumerate(segments)]
        segments[3] = (segments[3][0], segments[0][1], True)
        present = set(np.unique(id_map).tolist())
        panoptic_set.add(n, id_map, [s for s in segments if s[0] in present])


def random_prediction(rng, true_map, true_segments):
    """A disturbed copy of the truth, so that some segments match, and some void."""
    id_map = np.zeros(true_map.shape, dtype=np.int64)
    segments = []
    for new_id, (old_id, label, *_) in enumerate(true_segments, start=1):
        id_map[(true_map == old_id) & (rng.random(true_map.shape) < 0.9)] = new_id
        segments.append((new_id, label if rng.random() < 0.7 else int(rng.integers(0, 4))))
    id_map[: true_map.shape[0] // 4] = 50  # over everything: matches nothing, partly forgiven
    segments.append((50, int(rng.integers(0, 4))))
    present = set(np.unique(id_map).tolist())
    return id_map, [s for s in segments if s[0] in present]


def segments_of(annotation):
    """(id, contiguous class) of an annotation."""
    order = [c["id"] for c in CATEGORIES]
    return [(s["id"], order.index(s["category_id"])) for s in annotation["segments_info"]]


def read_png(path):
    return rgb2id(np.array(Image.open(path), dtype=np.uint32)).astype(np.int64)

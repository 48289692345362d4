"""Tiny panoptic sets on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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
        self.annotations.append(
            {"image_id": image_id, "file_name": file_name, "segments_info": infos, **extra}
        )
        return self.annotations[-1]

    def save(self) -> dict:
        """Writes the JSON; returns the evaluator's arguments."""
        images = [{"id": a["image_id"], "file_name": "x.jpg"} for a in self.annotations]
        content = {
            "images": images,
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

"""A predictor without a model: the left half of an image is a thing, the top right stuff."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from fdd.inference.predictor import Predictor
from fdd.visualization import as_palette

CATEGORIES = [
    {"id": 11, "name": "кот", "isthing": True, "color": [200, 30, 30]},
    {"id": 5, "name": "grass", "isthing": False, "color": [30, 200, 30]},
]


class HalfPredictor(Predictor):
    """Remembers the images it has seen."""

    def __init__(self) -> None:
        self.trained = SimpleNamespace(checkpoint=Path("model_final.pth"))
        self.categories = CATEGORIES
        self._palette = as_palette(CATEGORIES)
        self.seen: list[np.ndarray] = []

    def __call__(self, image):
        self.seen.append(image)
        height, width = image.shape[:2]
        ids = np.zeros((height, width), np.int64)
        ids[:, : width // 2] = 1
        ids[: height // 2, width // 2 :] = 300
        return ids, [
            {"id": 1, "category_id": 0, "isthing": True, "score": 0.9, "area": 0},
            {"id": 300, "category_id": 1, "isthing": False, "score": 0.5, "area": 0},
        ]


def save(path: Path, height: int = 20, width: int = 30, mode: str = "RGB", **options) -> Path:
    """A picture whose columns get brighter to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.linspace(0, 255, width).astype(np.uint8)
    grey = Image.fromarray(np.repeat(row[None], height, 0))
    grey.convert(mode).save(path, **options)
    return path

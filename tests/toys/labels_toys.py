"""A tiny model with random weights, as a training leaves it, and a few images with points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from PIL import Image

import fdd.modeling  # noqa: F401  registers the model
from fdd.config import add_fdd_config
from fdd.inference.label_export import ExportOptions, export_labels
from fdd.points import Category, PointDataset, PointImage, PointSegment, write_points
from fdd.points.coco_panoptic import load_segment_ids

CATEGORIES = [
    Category(4, "sky", False),
    Category(11, "cell", True),
    Category(6, "dog", True),
    Category(9, "sea", False),
]
#: Image id -> file name, (height, width).
IMAGES: dict[str | int, tuple[str, tuple[int, int]]] = {
    "first": ("first.png", (40, 56)),
    "2": ("in/second.jpg", (64, 48)),
    2: ("in/third.png", (33, 61)),
    "none": ("none.png", (32, 32)),
}
_TINY: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "FDD",
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_small_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.RESNETS.NORM": "",
    "MODEL.SMALL_RESNET.WIDTHS": (8, 12, 16, 20),
    "MODEL.SMALL_RESNET.DEPTHS": (1, 1, 1, 1),
    "MODEL.FDD.NUM_THINGS": 2,
    "MODEL.FDD.NUM_STUFF": 2,
    "MODEL.FDD.HIDDEN_DIM": 16,
    "MODEL.FDD.NUM_HEADS": 2,
    "MODEL.FDD.ENCODER.NUM_LAYERS": 1,
    "MODEL.FDD.ENCODER.FFN_DIM": 32,
    "MODEL.FDD.PSEUDO.NUM_LAYERS": 2,
    "MODEL.FDD.PSEUDO.FFN_DIM": 32,
    "MODEL.FDD.PAN.NUM_QUERIES": 12,
    "MODEL.FDD.PAN.LOCATION_LAYERS": 1,
    "MODEL.FDD.PAN.THING_LAYERS": 1,
    "MODEL.FDD.PAN.STUFF_LAYERS": 1,
    "MODEL.FDD.PAN.FFN_DIM": 32,
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TEST": 48,
    "INPUT.MAX_SIZE_TEST": 96,
    "DATALOADER.NUM_WORKERS": 0,
}


def _segments(image_id: str | int, size: tuple[int, int]) -> list[PointSegment]:
    if image_id == "none":
        return []
    rng = np.random.default_rng(len(IMAGES[image_id][0]))
    # Two pieces of sky, and ids that are in no order.
    owners = [(70, 4), (3, 11), (512, 6), (9, 11), (8, 4), (66000, 9)]
    places = rng.permutation(size[0] * size[1])[: 2 * len(owners)]
    points = [(float(p % size[1]) + 0.5, float(p // size[1]) + 0.5) for p in places]
    return [
        PointSegment(n, category, points[2 * i : 2 * i + 2])
        for i, (n, category) in enumerate(owners)
    ]


def write_images(root: Path, mirrored: bool = False) -> None:
    """Pictures, ``points.json`` and ``toy.yaml``; or the same mirrored left to right."""
    rng, images = np.random.default_rng(0), []
    for image_id, (name, (height, width)) in IMAGES.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (9, 9, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        pixels = blocks[:height, :width][:, :: -1 if mirrored else 1]
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
        segments = _segments(image_id, (height, width))
        if mirrored:
            for s in segments:
                s.points = [(width - x, y) for x, y in s.points]
        images.append(PointImage(image_id, name, height, width, segments))
    write_points(root / "points.json", PointDataset(CATEGORIES, images, {}))
    (root / "toy.yaml").write_text("images: images\npoints: points.json\n")


def write_run(folder: Path, dataset: Path, changes: dict[str, Any] | None = None) -> None:
    """``config.yaml`` and ``model_final.pth``, with weights that depend on nothing."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    values = _TINY | {"DATASETS.TRAIN": (str(dataset),), "DATASETS.TEST": ()} | (changes or {})
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())


def export(toy: Path, output: Path, dataset: str = "toy.yaml", **options: Any) -> Any:
    """Export the toy's labels with its run."""
    chosen = ExportOptions(**options)
    return export_labels(toy / "run", str(toy / dataset), output, chosen)


def read_export(folder: Path) -> tuple[dict[str, Any], dict[Any, np.ndarray]]:
    """``panoptic.json``, and the ids of each image's PNG."""
    document = json.loads((folder / "panoptic.json").read_text())
    maps = {}
    for image, annotation in zip(document["images"], document["annotations"], strict=True):
        assert image["id"] == annotation["image_id"]
        path = folder / "panoptic" / annotation["file_name"]
        maps[image["id"]] = load_segment_ids(path, image["height"], image["width"])
    return document, maps

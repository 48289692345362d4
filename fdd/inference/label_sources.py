"""What is exported: the images of a point set, checked against the model; and what decides it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from fdd.engine.checks import DatasetError
from fdd.export_formats import Instance, png_names
from fdd.inference.label_options import ExportOptions
from fdd.inference.trained_model import TrainedModel, check_model_dataset
from fdd.points import read_points

__all__ = ["ImageSource", "label_settings", "list_sources"]


@dataclass(frozen=True)
class ImageSource:
    """An image to export: its dataset dict, and what the label file calls it."""

    record: dict[str, Any]
    file_name: str
    png: str
    instances: dict[int, Instance]

    @property
    def image_id(self) -> str | int:
        return self.record["image_id"]


def list_sources(trained: TrainedModel, name: str) -> list[ImageSource]:
    """The set's images, checked against the model's classes."""
    check_model_dataset(trained, name, "--dataset")
    metadata = MetadataCatalog.get(name)
    if not metadata.get("points_json"):
        raise DatasetError(
            f"{name!r} has no point labels to make dense ones from; name a point set"
        )
    categories = metadata.categories
    dicts = DatasetCatalog.get(name)
    if not dicts:
        raise DatasetError(f"{name!r} holds no image; check its label file")
    file_names = [image.file_name for image in read_points(metadata.points_json).images]
    return [
        ImageSource(
            record,
            file_name,
            png,
            {
                s["instance_id"]: Instance(
                    s["instance_id"], categories[s["category_id"]]["id"], bool(s["isthing"])
                )
                for s in record["points"]
            },
        )
        for record, file_name, png in zip(dicts, file_names, png_names(file_names), strict=True)
    ]


def label_settings(
    trained: TrainedModel, name: str, maker: str, options: ExportOptions
) -> dict[str, Any]:
    """What decides the labels. Another value of any makes another data set."""
    metadata, cfg = MetadataCatalog.get(name), trained.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    cfg.MODEL.FDD.PSEUDO.LABEL_MIN_PROB = 0.0  # is named below
    config = cfg.MODEL.dump() + cfg.INPUT.dump()
    return {
        "checkpoint": _checksum(trained.checkpoint),
        "config": hashlib.sha256(config.encode()).hexdigest(),
        "points file": _checksum(metadata.points_json),
        "image folder": os.path.abspath(metadata.image_root),
        "maker": maker,
        "min_confidence": float(trained.cfg.MODEL.FDD.PSEUDO.LABEL_MIN_PROB),
        "scales": [float(s) for s in options.scales],
        "flip": options.flip,
        "confidence_maps": options.confidence_maps,
    }


def _checksum(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""The training path of an audit: run on a data set, and on copies of it with other masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from fdd.data import resolve_dataset_files
from fdd.data.catalog import forget
from fdd.engine.configs import new_cfg
from fdd.engine.loader import build_train_loader
from fdd.points.coco_panoptic import (
    PanopticWriter,
    is_inside,
    read_panoptic_json,
    save_segment_ids,
)
from fdd.points.files import write_json
from fdd.points.rules import CheckTarget

__all__ = [
    "LoadDicts",
    "MakeMapper",
    "Run",
    "TrainingPath",
    "differences",
    "no_masks",
    "scrambled_masks",
    "write_dataset_file",
]

LoadDicts = Callable[[CfgNode], list[dict[str, Any]]]
MakeMapper = Callable[[CfgNode], Callable[[dict[str, Any]], dict[str, Any]]]


@dataclass
class Run:
    """The dataset dicts, what the mapper was given, and what it gave."""

    dicts: list[dict[str, Any]]
    given: list[dict[str, Any]]
    examples: list[dict[str, Any]]


@dataclass
class TrainingPath:
    """Loads and maps the first images of a training, in this process and always in one order."""

    num_images: int
    cfg: CfgNode | None
    load_dicts: LoadDicts
    make_mapper: MakeMapper

    def run(self, dataset_file: Path, keep: bool = False) -> Run:
        """Train on ``dataset_file`` as far as the model; ``keep`` leaves it registered."""
        cfg = new_cfg() if self.cfg is None else self.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (str(dataset_file),), ()
        cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 1, 0
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
        cfg.SEED, cfg.MODEL.DEVICE = max(0, cfg.SEED), "cpu"
        cfg.MODEL.FDD.PAN.NUM_QUERIES = 2**31  # too many things are another rule's matter
        resolve_dataset_files(cfg)
        try:
            dicts = self.load_dicts(cfg)
            mapper = self.make_mapper(cfg)
            given: list[dict[str, Any]] = []

            def recording(record: dict[str, Any]) -> dict[str, Any]:
                given.append(record)
                return mapper(record)

            count = min(self.num_images, len(dicts))
            loader = build_train_loader(cfg, dicts=dicts, mapper=recording)
            examples = [example for (example,) in islice(loader, count)]
        finally:
            if not keep:
                forget(cfg.DATASETS.TRAIN[0])
        return Run(dicts, given, examples)


def write_dataset_file(target: CheckTarget, path: Path, masks: tuple[Path, Path] | None) -> Path:
    """Describe the labels and images of ``target`` with these masks in ``path``."""
    entry: dict[str, Any] = {
        "images": str(Path(str(target.images)).absolute()),
        "points": str(target.points.absolute()),
    }
    if masks:
        entry["masks"] = {"json": str(masks[0].absolute()), "folder": str(masks[1].absolute())}
    path.write_text(json.dumps(entry), encoding="utf-8")  # JSON is YAML
    return path


def scrambled_masks(target: CheckTarget, run: Run, folder: Path) -> tuple[Path, Path]:
    """A copy of the masks with noise for pixels, boxes, areas, ids and classes.

    Only the PNGs of the images that went through the mapper are written.

    Raises:
        PointLabelError: the JSON is no COCO panoptic JSON.
    """
    assert target.masks is not None
    read_panoptic_json(target.masks.json)  # for its checks
    rng = np.random.default_rng(0)
    document = json.loads(target.masks.json.read_bytes().decode("utf-8-sig"))
    sizes = {d["image_id"]: (d["height"], d["width"]) for d in run.examples}
    for annotation in document.get("annotations", ()):
        segments = annotation.get("segments_info", ())
        ids = rng.permutation(2**16)[: len(segments)] + 1
        classes = rng.permutation([s["category_id"] for s in segments]).tolist()
        for segment, number, category_id in zip(segments, ids.tolist(), classes, strict=True):
            segment.update(id=number, category_id=category_id, area=int(rng.integers(1, 1000)))
            segment["bbox"] = rng.integers(0, 100, 4).tolist()
        if annotation["image_id"] in sizes and is_inside(annotation["file_name"]):
            noise = rng.integers(0, 2**24, sizes[annotation["image_id"]])
            if len(ids):
                noise = ids[noise % len(ids)]
            save_segment_ids(folder / "masks" / annotation["file_name"], noise)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    write_json(folder / "masks.json", document, allow_nan=True)
    return folder / "masks.json", folder / "masks"


def no_masks(target: CheckTarget, folder: Path) -> tuple[Path, Path]:
    """A JSON of masks with the categories and nothing else, and an empty folder."""
    assert target.masks is not None
    document = json.loads(target.masks.json.read_bytes().decode("utf-8-sig"))
    (folder / "masks").mkdir(parents=True)
    PanopticWriter(document["categories"]).write(folder / "masks.json")
    return folder / "masks.json", folder / "masks"


def differences(first: Run, second: Run) -> Iterator[tuple[Any, str]]:
    """Image id and key of what is not the same in two runs."""
    if len(first.dicts) != len(second.dicts) or len(first.examples) != len(second.examples):
        yield None, "the number of images"
        return
    for a, b in zip(first.examples, second.examples, strict=True):
        for key in {**a, **b}:
            if key not in a or key not in b or not _same(a[key], b[key]):
                yield a.get("image_id"), key


def _same(a: Any, b: Any) -> bool:
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return type(a) is type(b) and bool(a == b)

"""The real model, tiny, on a few drawn shapes: configs, trainers and sets for whole runs."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.hooks import CallbackHook

import fdd.modeling  # noqa: F401  registers the model
from fdd.config import add_fdd_config
from fdd.config_files import get_config_file
from fdd.data import register_panoptic, register_points
from fdd.engine import Trainer
from fdd.engine.step import unwrap

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN, TRAIN_MASKS, VAL = "run_toy_p10", "run_toy_train_masks", "run_toy_val_masks"
SIZE, NUM_TRAIN, NUM_VAL = 64, 6, 3

# Nothing here depends on the other images of a batch, and nothing is drawn but by the trainer.
TINY: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.SMALL_RESNET.WIDTHS": (8, 16, 24, 32),
    "MODEL.SMALL_RESNET.DEPTHS": (1, 1, 1, 1),
    "MODEL.FDD.HIDDEN_DIM": 32,
    "MODEL.FDD.NUM_HEADS": 2,
    "MODEL.FDD.ENCODER.NUM_LAYERS": 1,
    "MODEL.FDD.ENCODER.FFN_DIM": 64,
    "MODEL.FDD.PSEUDO.NUM_LAYERS": 2,
    "MODEL.FDD.PSEUDO.FFN_DIM": 64,
    "MODEL.FDD.PAN.NUM_QUERIES": 12,
    "MODEL.FDD.PAN.LOCATION_LAYERS": 2,
    "MODEL.FDD.PAN.THING_LAYERS": 2,
    "MODEL.FDD.PAN.STUFF_LAYERS": 1,
    "MODEL.FDD.PAN.FFN_DIM": 64,
    "INPUT.MIN_SIZE_TRAIN": (SIZE,),
    "INPUT.MIN_SIZE_TEST": SIZE,
    "DATALOADER.NUM_WORKERS": 0,
}
_HERE: dict[str, Any] = {
    "MODEL.FDD.WARMUP_ITERS": 0,
    "DATASETS.TRAIN": (TRAIN,),
    "DATASETS.TEST": (),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "SEED": 7,
}


def options(values: dict[str, Any]) -> list[Any]:
    """KEY VALUE KEY VALUE ..."""
    return [item for pair in values.items() for item in pair]


def run_cfg(output_dir: Path, changes: dict[str, Any] | None = None) -> CfgNode:
    """The demo's config with a tiny network."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(get_config_file("shapes/fdd_small_P10"))
    cfg.merge_from_list(options(TINY | _HERE | (changes or {})))
    cfg.OUTPUT_DIR = str(output_dir)
    return cfg


@contextmanager
def registered(shapes: Path):
    """The shapes in the folder ``shapes`` under the names above."""
    masks = {s: (shapes / f"panoptic_{s}.json", shapes / f"panoptic_{s}") for s in ("train", "val")}
    register_points(TRAIN, shapes / "train", shapes / "points_train_p10.json", *masks["train"])
    register_panoptic(TRAIN_MASKS, shapes / "train", *masks["train"])
    register_panoptic(VAL, shapes / "val", *masks["val"])
    try:
        yield
    finally:
        for name in (TRAIN, TRAIN_MASKS, VAL):
            forget(name)


def forget(name: str) -> None:
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


class Cut(Exception):
    """What ends a run in the middle."""


def make_trainer(cfg, trainer_class=Trainer, *, after_step=None, cut_at=None, resume=False):
    """A trainer with fixed initial weights; ``cut_at`` ends it after so many finished steps."""
    torch.manual_seed(3)
    trainer = trainer_class(cfg)

    def hook(running):
        if after_step is not None:
            after_step(running)
        if running.iter + 1 == cut_at:
            raise Cut

    trainer.register_hooks([CallbackHook(after_step=hook)])
    trainer.resume_or_load(resume=resume)
    return trainer


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in unwrap(trainer.model).state_dict().items()}


class LossRecorder:
    """An ``after_step`` that keeps the losses of every step: ``rows[iteration][name]``."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def __call__(self, trainer) -> None:
        latest = trainer.storage.latest()
        self.rows.append({k: v for k, (v, at) in latest.items() if at == trainer.iter})

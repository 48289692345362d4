"""Every shipped config: its values, its model, its data sets."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

import fdd.data
import fdd.modeling  # noqa: F401
from fdd.config import add_fdd_config, check_fdd_config
from fdd.config_files import get_config_file, list_config_files
from fdd.engine.checks import check_training
from fdd.engine.optimizer import resolve_schedule
from run_toys import registered, run_cfg

NUM_CLASSES = {"voc": (20, 1), "coco": (80, 53), "shapes": (5, 3)}


def load(name: str) -> CfgNode:
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    return cfg


def family_of(cfg: CfgNode) -> str | None:
    """voc, coco or shapes, from the name of the training set."""
    return cfg.DATASETS.TRAIN[0].split("_")[1] if cfg.DATASETS.TRAIN else None


def architectures() -> dict[str, str]:
    """Each distinct network, and the first config that has it."""
    found: dict[str, str] = {}
    for name in list_config_files():
        model = load(name).MODEL
        found.setdefault(json.dumps(model, sort_keys=True, default=str), name)
    return {name: key for key, name in found.items()}


@pytest.mark.parametrize("name", list_config_files())
def test_values_fit(name):
    cfg = load(name)
    check_fdd_config(cfg)
    assert cfg.MODEL.META_ARCHITECTURE == "FDD"
    resolved = resolve_schedule(cfg, num_images=10582)
    assert resolved.SOLVER.MAX_ITER > 0 and resolved.MODEL.FDD.WARMUP_ITERS >= 0
    assert all(0 < step < resolved.SOLVER.MAX_ITER for step in resolved.SOLVER.STEPS)
    if name.split("/")[-1].startswith("Base"):
        return
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST and set(names) <= set(DatasetCatalog.list())
    family = family_of(cfg)
    assert NUM_CLASSES[family] == (cfg.MODEL.FDD.NUM_THINGS, cfg.MODEL.FDD.NUM_STUFF)
    kind = cfg.DATASETS.TRAIN[0].split("_")[-1]
    assert (kind == "panoptic") == (cfg.MODEL.FDD.PAN_SUPERVISION == "full")
    # P1 and P10 in a file's name say which points it trains from.
    for number in ("P1", "P10"):
        if number in name.removesuffix(".yaml").split("/")[-1].split("_"):
            assert kind == number.lower()


@pytest.mark.parametrize("name", architectures())
def test_models_build(name):
    cfg = load(name)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    full = cfg.MODEL.FDD.PAN_SUPERVISION == "full"
    assert (model.label_branch is None) == (model.query_generator is None) == full
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    resnet50 = cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone"
    low, high = ((45, 52) if full else (52, 60)) if resnet50 else (1, 4)
    if resnet50 and cfg.MODEL.FDD.HIDDEN_DIM < 256:  # narrower heads
        low, high = 26, 34
    assert low < millions < high
    frozen = [n for n, p in model.backbone.named_parameters() if not p.requires_grad]
    frozen_stages = cfg.MODEL.BACKBONE.FREEZE_AT
    assert bool(frozen) == (frozen_stages > 0), "FREEZE_AT holds the stem of a trained network"
    stages = ("stem.", "res2.", "res3.", "res4.", "res5.")[:frozen_stages]
    assert all(n.startswith(stages) for n in frozen)


def test_shapes_configs_fit_the_shapes(shapes_root):
    """The class counts of the configs are those that the generator writes."""
    with registered(shapes_root / "shapes"):
        for name in list_config_files():
            cfg = load(name)
            if family_of(cfg) == "shapes":
                ours = run_cfg(shapes_root)
                cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ours.DATASETS.TRAIN, ours.DATASETS.TEST
                check_training(cfg, world_size=1)

"""A tiny data set, a tiny model and configs, for tests that are about the engine."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from PIL import Image
from torch import nn

from fdd.config import add_fdd_config
from fdd.data import register_panoptic, register_points
from fdd.engine import Trainer
from fdd.points import Category, PointDataset, PointImage, PointSegment, write_points

NUM_IMAGES = 7
POINTS, MASKS = "engine_toy_points", "engine_toy_masks"
CATEGORIES = [Category(5, "disc", True), Category(9, "ground", False)]


def write_toy_files(root):
    """Seven images of many shapes; the left third is one thing, the rest stuff."""
    generator = np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "panoptic").mkdir()
    images, annotations, pointed = [], [], []
    for n in range(NUM_IMAGES):
        width, height = [(48, 36), (36, 48), (40, 40)][n % 3]
        name = f"img_{n}"
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        ids = np.full((height, width), 2, np.uint8)
        ids[:, : width // 3] = 1
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1)).save(
            root / "panoptic" / f"{name}.png"
        )
        images.append({"id": name, "file_name": f"{name}.png", "height": height, "width": width})
        segments = [{"id": 1, "category_id": 5}, {"id": 2, "category_id": 9}]
        segments = [{**s, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]} for s in segments]
        annotations.append(
            {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}
        )
        points = [PointSegment(1, 5, [(4.5, 9.5 + n)]), PointSegment(2, 9, [(30.5, 20.5)])]
        pointed.append(PointImage(name, f"{name}.png", height, width, points))
    categories = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(content))
    write_points(root / "points.json", PointDataset(CATEGORIES, pointed, {}))


@contextmanager
def registered(root):
    masks = (root / "panoptic.json", root / "panoptic")
    register_points(POINTS, root / "images", root / "points.json", *masks)
    register_panoptic(MASKS, root / "images", *masks)
    try:
        yield
    finally:
        for name in (POINTS, MASKS):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@META_ARCH_REGISTRY.register()
class EngineToy(nn.Module):
    """Learns the number of points and the brightness of images, through a dropout."""

    dropout = 0.3

    def __init__(self, cfg):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.sampling_offsets = nn.Linear(4, 4)
        self.head = nn.Linear(4, cfg.MODEL.FDD.NUM_THINGS + cfg.MODEL.FDD.NUM_STUFF)
        self.to(cfg.MODEL.DEVICE)

    def count_normalizers(self, inputs):
        points = sum(len(x["point_coords"]) for x in inputs)
        return torch.tensor([len(inputs), points], dtype=torch.float32)

    def forward(self, inputs, normalizers=None):
        if not self.training:
            return [self._predict(x) for x in inputs]
        if normalizers is None:
            raise AssertionError("the trainer gave no global counts")
        images, points = normalizers / comm.get_world_size()
        loss_a = loss_b = 0.0
        for x in inputs:
            out = self._features(x)
            loss_a = loss_a + len(x["point_coords"]) * (out**2).sum() / points
            loss_b = loss_b + (out[0] - x["image"].float().mean() / 255).abs() / images
        return {"loss_a": loss_a, "loss_b": loss_b}

    def _features(self, x):
        image = x["image"].float().to(self.head.weight.device) / 255
        pooled = self.norm(self.backbone(image[None])).relu().flatten(2).mean(2)
        pooled = pooled + self.sampling_offsets(pooled)
        return self.head(nn.functional.dropout(pooled, self.dropout, self.training))[0]

    def _predict(self, x):
        segments = torch.ones(x["height"], x["width"], dtype=torch.int32)
        info = [{"id": 1, "category_id": 1, "isthing": False, "score": 1.0, "area": 1}]
        return {"panoptic_seg": (segments, info)}

    def estimate_labels(self, inputs):
        assert not self.training
        result = []
        for x in inputs:
            label = torch.zeros(x["height"], x["width"], dtype=torch.int32)
            result.append(
                {
                    "pseudo_labels": {"learned": label},
                    "classes": x["classes"],
                    "instance_ids": x["instance_ids"],
                }
            )
        return result


@META_ARCH_REGISTRY.register()
class EngineToyNoDropout(EngineToy):
    dropout = 0.0


@META_ARCH_REGISTRY.register()
class EngineToyWider(EngineToy):
    """Has a weight more."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.other = nn.Linear(1, 1)


def toy_cfg(output_dir, *options):
    cfg = get_cfg()
    add_fdd_config(cfg)
    values = {
        "MODEL.META_ARCHITECTURE": "EngineToy",
        "MODEL.DEVICE": "cpu",
        "MODEL.FDD.NUM_THINGS": 1,
        "MODEL.FDD.NUM_STUFF": 1,
        "DATASETS.TRAIN": (POINTS,),
        "DATASETS.TEST": (),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (32, 36, 40),
        "INPUT.MIN_SIZE_TEST": 32,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 6,
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.STEPS": (),
        "SOLVER.WARMUP_ITERS": 0,
        "SEED": 7,
        "OUTPUT_DIR": str(output_dir),
    }
    cfg.merge_from_list([x for pair in values.items() for x in pair])
    cfg.merge_from_list(list(options))
    return cfg


class ScoredTrainer(Trainer):
    """Evaluates to a PQ that is given by iteration, or else follows from the weights."""

    scores = None

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        from detectron2.utils.events import get_event_storage

        if cls.scores is not None:
            return {"panoptic_seg": {"PQ": cls.scores[get_event_storage().iter]}}
        return {"panoptic_seg": {"PQ": float(model.head.weight.detach().abs().sum())}}


class Cut(Exception):
    """What ends a run in the middle."""


def make_trainer(cfg, trainer_class=Trainer, *, cut_at=None, resume=False):
    """A trainer with fixed initial weights that may be cut after ``cut_at`` finished steps."""
    from detectron2.engine.hooks import CallbackHook

    torch.manual_seed(3)
    trainer = trainer_class(cfg)

    def cut(running):
        if running.iter + 1 == cut_at:
            raise Cut

    trainer.register_hooks([CallbackHook(after_step=cut)])
    trainer.resume_or_load(resume=resume)
    return trainer


def forget_record(checkpoint):
    """Make a checkpoint one of before, which held neither config nor classes."""
    from fdd.engine.training_record import RECORD_KEY

    content = torch.load(checkpoint)
    del content[RECORD_KEY]
    torch.save(content, checkpoint)


def weights_of(trainer):
    from fdd.engine.step import unwrap

    return {k: v.detach().clone() for k, v in unwrap(trainer.model).state_dict().items()}


def assert_same_weights(a, b, tolerance=1e-6):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=name)

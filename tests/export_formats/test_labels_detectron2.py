"""Detectron2 as it is reads an export, and its Panoptic FPN trains on it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import detection_utils as utils
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from panopticapi.utils import rgb2id

from labels_toys import export, write_images, write_run

NAME = "labels_for_detectron2"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "labels.md"


def register_labels(root, name=NAME):
    """Run what the document shows."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), flags=re.M | re.S)
    code = next(block for block in blocks if "register_coco_panoptic_separated" in block)
    call = 'register_labels("my_labels", "labels/detectron2")'
    assert code.count(call) == 1
    exec(code.replace(call, f"register_labels({name!r}, {str(root)!r})"), {})


@pytest.fixture(scope="module")
def exported(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export(toy, folder, formats=("detectron2",))
    root = folder / "detectron2"
    content = json.loads((root / "panoptic.json").read_text())
    register_labels(root)
    yield content
    for name in (NAME, f"{NAME}_separated", f"{NAME}_stuffonly"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_register_coco_panoptic(exported):
    dicts = DatasetCatalog.get(NAME)
    assert [d["image_id"] for d in dicts] == [1, 2, 3, 4]
    for d, image, annotation in zip(
        dicts, exported["images"], exported["annotations"], strict=True
    ):
        picture = utils.read_image(d["file_name"], "RGB")
        assert picture.shape[:2] == (image["height"], image["width"])
        ids = rgb2id(utils.read_image(d["pan_seg_file_name"], "RGB"))
        assert {*np.unique(ids)} - {0} == {s["id"] for s in d["segments_info"]}
        isthing = {s["id"]: s["category_id"] in (11, 6) for s in annotation["segments_info"]}
        assert {s["id"]: s["isthing"] for s in d["segments_info"]} == isthing


def test_register_coco_panoptic_separated(exported):
    dicts = DatasetCatalog.get(f"{NAME}_separated")
    assert len(dicts) == 4
    for d, annotation in zip(dicts, exported["annotations"], strict=True):
        things = [s for s in annotation["segments_info"] if s["category_id"] in (11, 6)]
        # Detectron2 numbers the things by their ids.
        classes = [{6: 0, 11: 1}[s["category_id"]] for s in things]
        assert [a["category_id"] for a in d["annotations"]] == classes
        assert [a["bbox"] for a in d["annotations"]] == [s["bbox"] for s in things]
        semantic = utils.read_image(d["sem_seg_file_name"], "L").squeeze(2)
        assert (semantic == 0).sum() == sum(s["area"] for s in things)
        stuff = {1: 4, 2: 9}
        for value, category in stuff.items():
            areas = [s["area"] for s in annotation["segments_info"] if s["category_id"] == category]
            assert (semantic == value).sum() == sum(areas)


def test_a_set_of_stuff_alone(tmp_path):
    """Detectron2 reads no instances without a category of things: there are none to read."""
    write_images(tmp_path)
    points = json.loads((tmp_path / "points.json").read_text())
    for category in points["categories"]:
        category["isthing"] = False
    (tmp_path / "points.json").write_text(json.dumps(points))
    counts = {"MODEL.FDD.NUM_THINGS": 0, "MODEL.FDD.NUM_STUFF": 4}
    write_run(tmp_path / "run", tmp_path / "toy.yaml", counts)
    out = tmp_path / "labels"
    with pytest.raises(ValueError, match="'yolo' holds things only"):
        export(tmp_path, out, formats=("detectron2", "yolo"))
    assert not out.exists(), "a command that is refused writes nothing"
    summary = export(tmp_path, out, formats=("detectron2",))
    assert any("no class is a thing" in line for line in summary.written)
    name = "stuff_for_detectron2"
    register_labels(out / "detectron2", name)
    try:
        assert len(DatasetCatalog.get(name)) == 4
        dicts = DatasetCatalog.get(f"{name}_stuffonly")
        assert len(dicts) == 4 and f"{name}_separated" not in DatasetCatalog
        for d in dicts:
            semantic = utils.read_image(d["sem_seg_file_name"], "L").squeeze(2)
            assert semantic.shape == utils.read_image(d["file_name"], "RGB").shape[:2]
            assert {*np.unique(semantic)} <= {1, 2, 3, 4, 255}
        classes = MetadataCatalog.get(f"{name}_stuffonly").stuff_classes
        assert classes == ["things", "sky", "cell", "dog", "sea"]
    finally:
        for each in (name, f"{name}_stuffonly"):
            DatasetCatalog.remove(each)
            MetadataCatalog.remove(each)


def _fpn_cfg():
    cfg = get_cfg()
    values = {
        "MODEL.META_ARCHITECTURE": "PanopticFPN",
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_HEADS.NUM_CLASSES": 2,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.MASK_ON": True,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
        "DATASETS.TRAIN": (f"{NAME}_separated",),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MASK_FORMAT": "bitmask",
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "SOLVER.IMS_PER_BATCH": 2,
    }
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def test_a_stock_panoptic_fpn_trains_on_it(exported):
    torch.manual_seed(0)
    cfg = _fpn_cfg()
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.005, momentum=0.9)
    trainer = SimpleTrainer(model, build_detection_train_loader(cfg), optimizer)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = []
    with EventStorage() as trainer.storage:
        for trainer.iter in range(4):
            trainer.run_step()
            trainer.storage.step()
            losses.append(dict(trainer.storage.latest()))
    names = {"loss_sem_seg", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    for values in losses:
        assert names | {"loss_mask"} <= set(values)
        assert all(np.isfinite(v) for v, _ in values.values())
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, start[n])]
    assert any("mask_head" in n for n in moved) and any("sem_seg_head" in n for n in moved)
    assert any("backbone" in n for n in moved)

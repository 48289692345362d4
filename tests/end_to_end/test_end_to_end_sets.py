"""Runs on sets of many kinds: few images, one kind of class, a user's own files, full masks."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fdd.data import register_panoptic, register_points
from fdd.engine import (
    CheckpointError,
    Trainer,
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
)
from fdd.points import Category, PointDataset, PointImage, PointSegment, read_points, write_points
from run_toys import (
    TRAIN,
    TRAIN_MASKS,
    VAL,
    LossRecorder,
    forget,
    make_trainer,
    run_cfg,
    weights_of,
)


@pytest.fixture
def register():
    names = []

    def call(function, name, *args):
        function(name, *args)
        names.append(name)
        return name

    yield call
    for name in names:
        forget(name)


def keep_images(shapes, folder, count):
    """Label files of the first images: (points, panoptic JSON, its PNGs)."""
    points = read_points(shapes / "points_train_p10.json")
    points.images = points.images[:count]
    write_points(folder / "points.json", points)
    keep = {image.image_id for image in points.images}
    content = json.loads((shapes / "panoptic_train.json").read_text())
    content["images"] = [i for i in content["images"] if i["id"] in keep]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in keep]
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "points.json", folder / "panoptic.json", shapes / "panoptic_train"


def test_two_images_are_learned(shapes, register, tmp_path):
    files = keep_images(shapes, tmp_path, 2)
    name = register(register_points, "run_toy_two", shapes / "train", *files)
    changes = {
        "DATASETS.TRAIN": (name,),
        "SOLVER.MAX_ITER": 61,
        "SOLVER.BASE_LR": 0.003,
        "INPUT.RANDOM_FLIP": "none",
        "MODEL.FDD.PAN.TEST.SCORE_THRESH": 0.1,
    }
    losses = LossRecorder()
    cfg = run_cfg(tmp_path / "out", changes)
    make_trainer(cfg, after_step=losses).train()
    first, last = losses.rows[0], losses.rows[-1]
    # About a tenth, and a fifth of the total; the bounds leave room for other machines.
    assert last["loss_pse_point"] < first["loss_pse_point"] / 4
    assert last["loss_sem_point"] < first["loss_sem_point"] / 4
    assert last["loss_thing_class"] < first["loss_thing_class"] / 2
    assert last["total_loss"] < first["total_loss"] / 2.5
    # The estimated labels agree with the points they were made of (before these are forced). Masks
    # of two images of eight cells a side say nothing about the rest: the demo measures that.
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    right = [r["labels/points_right"] for r in records if "labels/points_right" in r]
    assert right[-1] > 0.85 > right[0]
    labels = evaluate_pseudo_labels(cfg, [name], resume=True)["pseudo_labels"]
    assert labels["learned/empty"] == 0 and 0 < labels["learned/PQ"] < 100


# ----------------------------------------------------------------------- one kind of class


def filtered(shapes, folder, split, isthing):
    """The labels of one split without the classes of the other kind; their pixels become void."""
    points = read_points(shapes / f"points_{split}_p10.json")
    points.categories = [c for c in points.categories if c.isthing == isthing]
    keep = {c.id for c in points.categories}
    points.images = [
        replace(image, segments=[s for s in image.segments if s.category_id in keep])
        for image in points.images
    ]
    write_points(folder / f"points_{split}.json", points)
    masks = folder / split
    masks.mkdir()
    content = json.loads((shapes / f"panoptic_{split}.json").read_text())
    content["categories"] = [c for c in content["categories"] if c["id"] in keep]
    for annotation in content["annotations"]:
        infos = [s for s in annotation["segments_info"] if s["category_id"] in keep]
        annotation["segments_info"] = infos
        rgb = np.array(Image.open(shapes / f"panoptic_{split}" / annotation["file_name"]))
        ids = rgb.astype(np.int64) @ [1, 256, 65536]
        rgb[~np.isin(ids, [s["id"] for s in infos])] = 0
        Image.fromarray(rgb).save(masks / annotation["file_name"])
    (folder / f"panoptic_{split}.json").write_text(json.dumps(content))
    return folder / f"points_{split}.json", folder / f"panoptic_{split}.json", masks


@pytest.mark.parametrize("isthing", [True, False])
def test_sets_of_one_kind(shapes, register, tmp_path, isthing):
    files = filtered(shapes, tmp_path, "train", isthing)
    train = register(register_points, "run_toy_kind_points", shapes / "train", *files)
    _, *masks = filtered(shapes, tmp_path, "val", isthing)
    val = register(register_panoptic, "run_toy_kind_masks", shapes / "val", *masks)
    changes = {
        "DATASETS.TRAIN": (train,),
        "DATASETS.TEST": (val,),
        "MODEL.FDD.NUM_THINGS": 5 if isthing else 0,
        "MODEL.FDD.NUM_STUFF": 0 if isthing else 3,
        "SOLVER.MAX_ITER": 3,
    }
    losses = LossRecorder()
    cfg = run_cfg(tmp_path / "out", changes)
    trainer = make_trainer(cfg, after_step=losses)
    before = weights_of(trainer)
    results = trainer.train()["panoptic_seg"]
    kind, other = ("th", "st") if isthing else ("st", "th")
    assert results["PQ"] == results[f"PQ_{kind}"] and math.isnan(results[f"PQ_{other}"])
    after = weights_of(trainer)
    assert all(value.isfinite().all() for value in after.values())
    assert losses.rows[-1]["loss_pse_point"] > 0
    absent = "loss_stuff_dice" if isthing else "loss_thing_dice"
    present = "loss_thing_dice" if isthing else "loss_stuff_dice"
    assert losses.rows[-1].get(absent, 0) == 0 and losses.rows[-1][present] > 0
    for part in ("backbone.", "encoder.", "query_generator.", "label_branch.", "panoptic_branch."):
        moved = [not torch.equal(before[n], after[n]) for n in after if n.startswith(part)]
        assert any(moved), part
    labels = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    assert math.isnan(labels[f"learned/PQ_{other}"]) and labels["nearest/PQ"] >= 0


# ----------------------------------------------------------------------- a user's own files


def test_own_images_with_points_only(register, tmp_path):
    """Odd names, formats, sizes and class numbers, and no mask anywhere."""
    root = tmp_path / "mes données ü" / "日本 語"
    (root / "sous dossier").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = []
    named = [("a b.png", "a b", (50, 70)), ("sous dossier/é.jpg", 7, (90, 66)), ("c%.bmp", "c", 64)]
    for file_name, image_id, size in named:
        height, width = size if isinstance(size, tuple) else (size, size)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / file_name)
        segments = [
            PointSegment(900, 4000, [(10.0, 12.5), (20.25, 12.5)]),
            PointSegment(3, 4000, [(width - 1.0, height - 1.0)]),
            PointSegment(12, 17, [(40.5, 30.5), (0.5, 0.5), (33.5, 48.5)]),
        ]
        images.append(PointImage(image_id, file_name, height, width, segments[: len(images) + 1]))
    categories = [Category(17, "mer", False), Category(4000, "bateau à voile", True)]
    points = tmp_path / "mes points é.json"
    write_points(points, PointDataset(categories, images))
    name = register(register_points, "run_toy_own set", root, points)
    classes = {"MODEL.FDD.NUM_THINGS": 1, "MODEL.FDD.NUM_STUFF": 1}
    changes = classes | {"DATASETS.TRAIN": (name,), "INPUT.MIN_SIZE_TRAIN": (48, 64)}
    changes |= {"SOLVER.IMS_PER_BATCH": 3, "VIS_PERIOD": 1}
    losses = LossRecorder()
    cfg = run_cfg(tmp_path / "sortie é", changes)
    trainer = make_trainer(cfg, after_step=losses)
    assert trainer.train() is None, "nothing to evaluate on"
    assert (tmp_path / "sortie é" / "model_final.pth").is_file()
    assert len(losses.rows) == 2 and all(math.isfinite(r["total_loss"]) for r in losses.rows)
    with pytest.raises(ValueError, match=r"run_toy_own set.*(masks|panoptic)"):
        evaluate_pseudo_labels(cfg, resume=True)


def test_points_alone_are_read_for_training(shapes, register, tmp_path):
    """The masks of the set are only named in its metadata: a run without them ends the same."""
    ends = []
    for with_masks in (True, False):
        files = keep_images(shapes, tmp_path, 3)
        name = register(
            register_points,
            f"run_toy_masks_{with_masks}",
            shapes / "train",
            *(files if with_masks else files[:1]),
        )
        changes = {"DATASETS.TRAIN": (name,)}
        trainer = make_trainer(run_cfg(tmp_path / str(with_masks), changes))
        trainer.train()
        ends.append(weights_of(trainer))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


# -------------------------------------------------------------------- other supervision


def test_full_masks(shapes, tmp_path):
    changes = {
        "MODEL.FDD.PAN_SUPERVISION": "full",
        "MODEL.FDD.PAN.ATTN_TAIL": True,
        "MODEL.FDD.PAN.QUERY_FILTER_MAX_POS": 3,
        "DATASETS.TRAIN": (TRAIN_MASKS,),
        "DATASETS.TEST": (VAL,),
        "SOLVER.MAX_ITER": 3,
    }
    losses = LossRecorder()
    cfg = run_cfg(tmp_path, changes)
    trainer = make_trainer(cfg, after_step=losses)
    results = trainer.train()
    names = {name for name in losses.rows[-1] if name.startswith("loss_")}
    assert names == {
        "loss_thing_class", "loss_box_l1", "loss_box_giou", "loss_thing_dice", "loss_stuff_dice",
        "loss_stuff_class",
    }  # fmt: skip
    assert all(losses.rows[-1][name] > 0 for name in names)
    assert not any(
        key.startswith(("label_branch", "query_generator")) for key in weights_of(trainer)
    )
    again = run_cfg(tmp_path, changes | {"MODEL.WEIGHTS": str(tmp_path / "model_final.pth")})
    evaluated = evaluate_predictions(Trainer, again)["panoptic_seg"]
    np.testing.assert_allclose(
        list(evaluated.values()), list(results["panoptic_seg"].values()), atol=1e-6
    )


@pytest.mark.parametrize("maker", ["nearest", "polygon", "extent", "point"])
def test_labels_by_rule(shapes, tmp_path, maker):
    losses = LossRecorder()
    changes = {"MODEL.FDD.LABEL_MAKER": maker, "DATASETS.TEST": (VAL,)}
    cfg = run_cfg(tmp_path, changes)
    trainer = make_trainer(cfg, after_step=losses)
    results = trainer.train()
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100
    row = losses.rows[-1]
    assert "loss_pse_point" not in row and row["loss_thing_dice"] > 0 and row["loss_stuff_dice"] > 0
    labels = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    assert labels["nearest/PQ_st"] > 0 and not any(key.startswith("learned") for key in labels)


def test_labels_by_distance(shapes, tmp_path):
    """It trains, resumes, and is scored beside everything that can stand beside it."""
    losses = LossRecorder()
    cfg = run_cfg(tmp_path, {"MODEL.FDD.LABEL_MAKER": "distance", "SOLVER.ACCUMULATE_STEPS": 2})
    make_trainer(cfg, after_step=losses).train()
    row = losses.rows[-1]
    assert not any(name.startswith("loss_pse") for name in row)
    assert all(row[n] > 0 for n in ("loss_sem_point", "loss_embedding", "loss_thing_dice"))
    cfg.TEST.PSEUDO_LABELS.BASELINES = ("point", "full")
    labels = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    makers = {key.split("/")[0] for key in labels}
    assert makers == {"distance", "distance_free", "point", "full", "semantic"}
    assert labels["full/PQ"] > 80 and labels["full/empty"] == 0
    assert all(labels[f"{m}/PQ"] < labels["full/PQ"] for m in makers - {"full", "semantic"})


def test_distance_as_a_baseline(shapes, tmp_path):
    """Beside a learned run with an embedding of its own, or without one; left out, it is not
    missed."""
    beside = {"TEST.PSEUDO_LABELS.BASELINES": ("distance",)}
    cfg = run_cfg(tmp_path, beside)
    make_trainer(cfg).train()
    labels = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    makers = {key.split("/")[0] for key in labels} - {"semantic"}
    assert makers == {"learned", "learned_free", "distance", "distance_free"}
    cfg.MODEL.FDD.DISTANCE.EMBEDDING = False
    other = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    assert other.keys() == labels.keys()
    assert other["learned/PQ"] == labels["learned/PQ"]
    cfg.TEST.PSEUDO_LABELS.BASELINES = ()
    assert "learned/PQ" in evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]


@pytest.mark.parametrize("maker", ["semantic_nearest", "dnn"])
def test_labels_by_baselines_on_the_network(shapes, tmp_path, maker):
    """They train and are scored; 'dnn' on the backbone alone."""
    losses = LossRecorder()
    cfg = run_cfg(tmp_path, {"MODEL.FDD.LABEL_MAKER": maker})
    make_trainer(cfg, after_step=losses).train()
    row = losses.rows[-1]
    assert ("loss_sem_point" in row) == (maker == "semantic_nearest")
    assert "loss_pse_point" not in row and row["loss_thing_dice"] > 0 and row["loss_stuff_dice"] > 0
    cfg.TEST.PSEUDO_LABELS.BASELINES = ("nearest", "dnn")
    labels = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    makers = {key.split("/")[0] for key in labels} - {"semantic"}
    assert makers == {maker, f"{maker}_free", "dnn", "dnn_free", "nearest"}


def test_baselines_as_baselines(shapes, tmp_path):
    """Beside a learned run that was trained without them: they have no weights of their own."""
    cfg = run_cfg(tmp_path)
    make_trainer(cfg).train()
    alone = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    cfg.TEST.PSEUDO_LABELS.BASELINES = ("semantic_nearest", "dnn")
    labels = evaluate_pseudo_labels(cfg, resume=True)["pseudo_labels"]
    makers = {key.split("/")[0] for key in labels} - {"semantic"}
    assert makers == {
        "learned", "learned_free", "semantic_nearest", "semantic_nearest_free", "dnn", "dnn_free"
    }  # fmt: skip
    assert labels["learned/PQ"] == alone["learned/PQ"]
    quality = evaluate_label_quality(cfg, resume=True)["label_quality"]
    assert {key.split("/")[0] for key in quality} >= {"learned", "semantic_nearest", "dnn"}


def test_a_checkpoint_for_prediction_alone(shapes, tmp_path):
    """It needs no training-only weights and no training data, and says so for pseudo labels."""
    trainer = make_trainer(run_cfg(tmp_path / "a", {"DATASETS.TEST": (VAL,)}))
    results = trainer.train()["panoptic_seg"]
    whole = torch.load(tmp_path / "a" / "model_final.pth")["model"]
    prefixes = ("label_branch.", "query_generator.")
    small = {key: value for key, value in whole.items() if not key.startswith(prefixes)}
    assert len(small) < len(whole)
    torch.save({"model": small}, tmp_path / "small.pth")
    changes = {"DATASETS.TRAIN": ("no_such_set",), "DATASETS.TEST": (VAL,)}
    changes |= {"MODEL.WEIGHTS": os.fspath(tmp_path / "small.pth")}
    cfg = run_cfg(tmp_path / "b", changes)
    again = evaluate_predictions(Trainer, cfg)["panoptic_seg"]
    np.testing.assert_allclose(list(again.values()), list(results.values()), atol=1e-6)
    with pytest.raises(CheckpointError, match=r"query_generator.* is in the model only"):
        evaluate_pseudo_labels(cfg, [TRAIN])

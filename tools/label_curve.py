#!/usr/bin/env python3
"""How the pseudo labels of a run got better: score each checkpoint, draw curve and pictures.

Writes ``label_curve.json`` and ``label_curve.png`` (PQ of the learned labels over the iterations,
beside the rules on the same points), and ``labels_before_after.png`` (first and last checkpoint).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import fdd  # before Detectron2, about whose import PyTorch warns

# isort: split
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.data import FDDDatasetMapper, get_metadata
from fdd.engine import evaluate_pseudo_labels, load_for_inference, resolve_device
from fdd.engine.configs import merge_cfg
from fdd.engine.logs import set_up_logs
from fdd.visualization import contact_sheet, draw_instance_labels, draw_panoptic, draw_points
from fdd.visualization.files import read_ground_truth, read_rgb, write_rgb
from fdd.visualization.sheet import flatten_points


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="of the run")
    parser.add_argument("--run", required=True, type=Path, help="folder with model_*.pth")
    parser.add_argument("--masks", help="data set with masks of the same images, for the pictures")
    parser.add_argument("--output", type=Path, help="folder of the results (default: the run's)")
    parser.add_argument("--flat", action="store_true", help="draw labels without the photographs")
    parser.add_argument("--images", type=int, default=4, help="rows of the pictures")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs for the config")
    return parser.parse_args(argv)


def setup(args: argparse.Namespace) -> CfgNode:
    cfg = merge_cfg(args.config_file, [*args.opts, "OUTPUT_DIR", str(args.run)])
    resolve_device(cfg)
    return cfg


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(iterations, file) of the periodic checkpoints, oldest first."""
    found = {}
    for path in run.glob("model_*.pth"):
        if match := re.fullmatch(r"model_(\d+)\.pth", path.name):
            found[int(match.group(1)) + 1] = path
    if not found:
        raise SystemExit(f"{run} holds no model_<iteration>.pth; set SOLVER.CHECKPOINT_PERIOD")
    return sorted(found.items())


def score(cfg: CfgNode, weights: Path) -> dict[str, float]:
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    return evaluate_pseudo_labels(cfg)["pseudo_labels"]


def draw_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6))
    iterations = [row["iteration"] for row in rows]
    axes.plot(iterations, [row["learned/PQ"] for row in rows], "o-", label="learned (FDD)")
    free = [row["learned_free/PQ"] for row in rows]
    axes.plot(iterations, free, "o--", label="learned, before it obeys its points")
    for name, style in (("nearest", ":"), ("polygon", "-.")):
        axes.axhline(rows[-1][f"{name}/PQ"], color="gray", linestyle=style, label=f"rule: {name}")
    axes.set(xlabel="iteration", ylabel="pseudo label PQ", ylim=(0, 100))
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def draw_pictures(
    path: Path, cfg: CfgNode, weights: list[tuple[str, Path]], args: argparse.Namespace
) -> None:
    """Points, the labels of each checkpoint and, where there are masks, the truth."""
    name, masks = cfg.DATASETS.TRAIN[0], args.masks
    metadata, mapper = get_metadata(name), FDDDatasetMapper(cfg, is_train=False)
    dicts = DatasetCatalog.get(name)[: args.images]
    truths = {d["image_id"]: d for d in DatasetCatalog.get(masks)} if masks else {}
    canvases = [read_rgb(d["file_name"]) for d in dicts]
    if args.flat:
        canvases = [np.full_like(image, 255) for image in canvases]
    rows: list[dict[str, Any]] = []
    for d, image in zip(dicts, canvases, strict=True):
        coords, index, classes = flatten_points(d["points"])
        rows.append({"Points": draw_points(image, coords, index, classes, metadata)})
    model = build_model(cfg).eval()
    for title, file in weights:  # their classes were compared when they were scored
        load_for_inference(model, str(file), full=True)
        for d, image, row in zip(dicts, canvases, rows, strict=True):
            with torch.no_grad():
                labels = model.estimate_labels([mapper(dict(d))])[0]
            learned = labels["pseudo_labels"]["learned"].numpy()
            row[title] = draw_instance_labels(image, learned, labels["classes"].numpy(), metadata)
    for d, image, row in zip(dicts, canvases, rows, strict=True):
        if d["image_id"] in truths:
            ids, segments = read_ground_truth(truths[d["image_id"]])
            row["Ground truth"] = draw_panoptic(image, ids, segments, metadata, labels=False)
    write_rgb(path, contact_sheet(rows, metadata=metadata))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    set_up_logs(names=["fdd"])
    cfg, output = setup(args), args.output or args.run
    output.mkdir(parents=True, exist_ok=True)
    found = checkpoints(args.run)
    rows = [{"iteration": iteration, **score(cfg, path)} for iteration, path in found]
    (output / "label_curve.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw_curve(output / "label_curve.png", rows)
    ends = [(f"After {i} iterations", path) for i, path in (found[0], found[-1])]
    draw_pictures(output / "labels_before_after.png", cfg, ends, args)
    for row in rows:
        print(
            f"iteration {row['iteration']:>6d}  learned {row['learned/PQ']:5.1f}  "
            f"nearest {row['nearest/PQ']:5.1f}  polygon {row['polygon/PQ']:5.1f}"
        )


if __name__ == "__main__":
    main()

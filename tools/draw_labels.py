#!/usr/bin/env python3
"""Figures 4 and 5 of the paper for chosen images: whose labels are better, and where.

    python tools/draw_labels.py figure4 --with-aux RUN --no-aux RUN --output figure4.png
    python tools/draw_labels.py figure5 --run FDD=RUN --run PSPS=RUN --rules nearest polygon

A RUN is the folder of a training (config.yaml and checkpoints). A row is an image: its points, the
semantic map and the dense label of each run, the labels of rules, the ground truth; below it the PQ
that each label has on this image.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fdd  # noqa: F401  before Detectron2, about whose import PyTorch warns

# isort: split
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from fdd.data import FDDDatasetMapper, get_metadata
from fdd.evaluation import PseudoLabelEvaluator
from fdd.inference.trained_model import TrainedModel, check_model_dataset, load_trained
from fdd.modeling.label_makers import get_label_maker, label_maker_names
from fdd.visualization import contact_sheet, draw_instance_labels, draw_panoptic, draw_semantic
from fdd.visualization.draw import draw_points
from fdd.visualization.files import read_ground_truth, read_rgb, write_rgb
from fdd.visualization.sheet import flatten_points


@dataclass(frozen=True)
class Trained:
    """A run that was loaded: its name on the sheet, its model, and how it sees images."""

    name: str
    trained: TrainedModel
    mapper: FDDDatasetMapper

    @property
    def cfg(self) -> CfgNode:
        return self.trained.cfg

    @property
    def model(self) -> Any:
        return self.trained.model

    @property
    def maker(self) -> str:
        """Who makes its labels."""
        return self.model.label_settings.maker


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    figures = parser.add_subparsers(dest="figure", required=True)
    four = figures.add_parser("figure4", help="labels with and without the auxiliary branch")
    four.add_argument("--with-aux", required=True, type=Path, metavar="RUN")
    four.add_argument("--no-aux", required=True, type=Path, metavar="RUN", help="LAMBDA_SEM 0")
    five = figures.add_parser("figure5", help="labels of several makers")
    five.add_argument("--run", required=True, action="append", metavar="NAME=RUN", dest="runs")
    five.add_argument("--rules", nargs="*", default=[], help="such as nearest, polygon, point")
    for figure in (four, five):
        figure.add_argument("--output", type=Path, default=Path(f"{figure.prog.split()[-1]}.png"))
        figure.add_argument("--dataset", help="point set (default: the first run's training set)")
        figure.add_argument("--masks", help="set with the masks (default: ..._panoptic beside it)")
        figure.add_argument("--images", nargs="+", help="image ids (default: the first ones)")
        figure.add_argument("--count", type=int, default=6, help="images without --images")
        figure.add_argument("--flat", action="store_true", help="without the photographs")
        figure.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(argv)
    for rule in getattr(args, "rules", ()):
        if rule not in label_maker_names() or get_label_maker(rule).needs:
            allowed = [n for n in label_maker_names() if not get_label_maker(n).needs]
            parser.error(
                f"--rules {rule}: expected {', '.join(allowed)}; what needs a network or masks is "
                "drawn as a --run, the ground truth always"
            )
    if args.figure == "figure4":
        args.runs, args.rules = [("with aux", args.with_aux), ("no aux", args.no_aux)], []
    else:
        wrong = [text for text in args.runs if "=" not in text]
        if wrong:
            parser.error(f"--run {wrong[0]}: expected NAME=FOLDER")
        args.runs = [(n, Path(p)) for n, p in (text.split("=", 1) for text in args.runs)]
    return args


def load_run(name: str, folder: Path, rules: Sequence[str], opts: Sequence[str]) -> Trained:
    """Load the last checkpoint of a run, all parts of it."""
    keys = ["TEST.PSEUDO_LABELS.BASELINES", str(tuple(rules)), *opts]
    trained = load_trained(folder, opts=keys, full=True)
    return Trained(name, trained, FDDDatasetMapper(trained.cfg, is_train=False))


def choose(dataset: str, images: Sequence[str] | None, count: int) -> list[dict[str, Any]]:
    """The dataset dicts to draw, in the order asked for."""
    dicts = DatasetCatalog.get(dataset)
    if images is None:
        return dicts[:count]
    by_id = {str(d["image_id"]): d for d in dicts}
    missing = [name for name in images if name not in by_id]
    if missing:
        raise ValueError(
            f"{dataset} has no image {', '.join(missing)}; its ids are such as "
            f"{', '.join(list(by_id)[:3])}"
        )
    return [by_id[name] for name in images]


def draw_row(
    d: dict[str, Any],
    truth: dict[str, Any],
    runs: Sequence[Trained],
    rules: Sequence[str],
    evaluator: PseudoLabelEvaluator,
    flat: bool,
) -> tuple[dict[str, np.ndarray], str]:
    """Panels of one image by column title, and the line below them."""
    image = read_rgb(d["file_name"])
    image = np.full_like(image, 255) if flat else image
    metadata = get_metadata(runs[0].cfg.DATASETS.TRAIN[0])
    panels = {"Points": draw_points(image, *flatten_points(d["points"]), metadata)}
    caption = [Path(d["file_name"]).name]
    for number, run in enumerate(runs):
        labels = run.model.estimate_labels([run.mapper(dict(d))])[0]
        quality = evaluator.image_quality(d["image_id"], labels)
        classes = labels["classes"].numpy()
        # A rule needs no network, so it is the same in every run.
        others = [rule for rule in rules if rule != run.maker] if number == len(runs) - 1 else []
        for maker in [run.maker, *others]:
            name = run.name if maker == run.maker else maker
            if "semantic" in labels and maker == run.maker:
                semantic = labels["semantic"].numpy()
                panels[f"{name}: semantics"] = draw_semantic(image, semantic, metadata)
            drawn = labels["pseudo_labels"][maker].numpy()
            panels[f"{name}: label"] = draw_instance_labels(image, drawn, classes, metadata)
            caption.append(f"{name} PQ {quality[maker]['PQ']:.1f}")
    ids, segments = read_ground_truth(truth)
    panels["Ground truth"] = draw_panoptic(image, ids, segments, metadata, labels=False)
    return panels, "   ".join(caption)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    runs = [load_run(name, folder, args.rules, args.opts) for name, folder in args.runs]
    dataset = args.dataset or runs[0].cfg.DATASETS.TRAIN[0]
    for run in runs:
        check_model_dataset(run.trained, dataset, "--dataset")
    masks = args.masks or re.sub(r"_p\d+(_[a-z]+)?$", "_panoptic", dataset)
    truths = {d["image_id"]: d for d in DatasetCatalog.get(masks)}
    evaluator = PseudoLabelEvaluator(masks, num_workers=0)
    dicts = choose(dataset, args.images, args.count)
    rows, captions = [], []
    for d in dicts:
        panels, caption = draw_row(d, truths[d["image_id"]], runs, args.rules, evaluator, args.flat)
        rows.append(panels)
        captions.append(caption)
        print(caption)
    shown = {s["category_id"] for d in dicts for s in d["points"]}
    sheet = contact_sheet(
        rows, captions=captions, metadata=get_metadata(dataset), legend_classes=sorted(shown)
    )
    print(write_rgb(args.output, sheet))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, AssertionError) as error:  # yacs asserts keys
        sys.exit(f"error: {error}")

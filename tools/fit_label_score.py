#!/usr/bin/env python3
"""Calibrate the label score, and measure how honest it is: each set judged by the others.

    tools/fit_label_score.py collect --model RUN --dataset cells.yaml --set cells --output r.json
    tools/fit_label_score.py fit RECORDS.json ...

``collect`` writes, of images with masks, what the score is made of and the PQ of their labels.
``fit`` prints, for every file of records, rank correlation and means of a score that was fitted to
the records of all *other* sets, and then the constants from all sets, which belong into
``fdd/modeling/pseudo_labels/expected_quality.py``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fdd  # noqa: F401  before Detectron2, about whose import PyTorch warns

# isort: split
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from scipy.optimize import least_squares
from scipy.stats import spearmanr
from tabulate import tabulate

from fdd.data import FDDDatasetMapper
from fdd.data.dataset_files import resolve_name
from fdd.engine.evaluate import mapper_with_masks
from fdd.evaluation import PseudoLabelEvaluator
from fdd.evaluation.panoptic_quality import class_pq
from fdd.inference.trained_model import load_trained
from fdd.modeling.pseudo_labels.estimation import estimate_image
from fdd.modeling.pseudo_labels.expected_quality import (
    CALIBRATION,
    LabelEvidence,
    expected_quality,
    gather_evidence,
)
from fdd.modeling.structures import PointBatch, batch_points

# How strongly a constant is held at 0, against the squared error in [0, 1]^2: few sets say little.
_RIDGE = 0.02


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    collect = commands.add_parser("collect", help="records of a model and a set with masks")
    collect.add_argument("--model", required=True, help="folder of a training, or a checkpoint")
    collect.add_argument("--config-file", default="", help="of a checkpoint without one beside it")
    collect.add_argument("--dataset", required=True, help="with points and masks")
    collect.add_argument("--set", required=True, help="records of one set are left out together")
    collect.add_argument("--images", type=int, help="random ones, at most so many")
    collect.add_argument("--output", required=True, type=Path)
    fit = commands.add_parser("fit", help="judge every set by the others; print the constants")
    fit.add_argument("records", nargs="+", type=Path)
    return parser.parse_args(argv)


@torch.no_grad()
def collect_records(args: argparse.Namespace) -> dict[str, Any]:
    trained = load_trained(args.model, args.config_file, full=True)
    model: Any = trained.model
    name = resolve_name(args.dataset, "points")
    evaluator = PseudoLabelEvaluator(name)
    mapper = mapper_with_masks(trained.cfg, evaluator) or FDDDatasetMapper(
        trained.cfg, is_train=False
    )
    records = [record for record in DatasetCatalog.get(name) if record["points"]]
    random.Random(0).shuffle(records)
    images = []
    for record in records[: args.images]:
        x = mapper(dict(record))
        label, evidence = examine(model, x)
        matches = {"pseudo_labels": {"label": label}, "classes": x["classes"].numpy()}
        found = class_pq(evaluator.image_matches(record["image_id"], matches)["label"])
        if found:
            images.append(
                {
                    "image_id": record["image_id"],
                    "class_pq": {str(k): pq for k, pq in found.items()},
                    "classes": x["classes"].tolist(),
                    "evidence": {k: v.tolist() for k, v in asdict(evidence).items()},
                }
            )
    return {"set": args.set, "run": str(trained.checkpoint), "images": images}


def examine(model: Any, x: dict[str, Any]) -> tuple[torch.Tensor, LabelEvidence]:
    """Label of an image, and what its score is made of."""
    images = model.preprocess([x])
    size, padded = tuple(images.image_sizes[0]), tuple(images.tensor.shape[-2:])
    memory, settings = model.encode(images), model.label_settings

    def obeying(points: PointBatch) -> Any:
        rows = len(points.counts)
        return model.estimate_obeying(memory.repeat(0, rows), points, [size] * rows)

    output = obeying(batch_points([x], padded, model.device))
    label = estimate_image(x, 0, output, size, settings)["pseudo_labels"][settings.maker]
    return label, gather_evidence(x, size, padded, output, obeying, settings, model.device)


class Known:
    """Images of some records: evidence of all segments in one table, PQ of all classes in another.

    Attributes:
        pq: (K,) percent, of each class in each image. image: (K,) int64, whose it is.
        weight: (K,), so that images, and then records, count alike.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        images = [image for record in records for image in record["images"]]
        columns = {
            name: np.concatenate([np.asarray(i["evidence"][name], float) for i in images])
            for name in LabelEvidence.__dataclass_fields__
        }
        self.evidence = LabelEvidence(**columns)
        pq, owner, segment_class, segments = [], [], [], []
        for n, image in enumerate(images):
            classes = sorted(map(int, image["class_pq"]))
            segment_class.append(len(pq) + np.searchsorted(classes, image["classes"]))
            pq += [image["class_pq"][str(k)] for k in classes]
            owner += [n] * len(classes)
            segments.append(len(image["classes"]))
        self.pq, self.image = np.array(pq), np.array(owner)
        self._class = np.concatenate(segment_class)
        of_record = np.repeat(
            [1 / len(record["images"]) for record in records],
            [len(record["images"]) for record in records],
        )
        self.weight = of_record[self.image] / np.bincount(self.image)[self.image]

    def class_scores(self, calibration: Sequence[float]) -> np.ndarray:
        """(K,) percent; a class without points gets 0, as in its PQ."""
        shares = expected_quality(self.evidence, calibration)
        count = np.bincount(self._class, minlength=len(self.pq))
        return 100 * np.bincount(self._class, shares, len(self.pq)) / np.maximum(count, 1)

    def of_images(self, values: np.ndarray) -> np.ndarray:
        """Mean over the classes of each image."""
        return np.bincount(self.image, values) / np.bincount(self.image)


def fit(records: Sequence[dict[str, Any]]) -> np.ndarray:
    """The constants with the smallest squared error of classes in images."""
    known = Known(records)

    def residuals(calibration: np.ndarray) -> np.ndarray:
        errors = np.sqrt(known.weight) * (known.class_scores(calibration) - known.pq) / 100
        return np.concatenate([errors, _RIDGE * calibration[1:]])

    return least_squares(residuals, CALIBRATION).x


def judge(records: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """A row for each record, judged by the other sets."""
    rows = []
    for name in dict.fromkeys(record["set"] for record in records):
        constants = fit([record for record in records if record["set"] != name])
        for record in records:
            if record["set"] == name:
                one = Known([record])
                pq, score = one.of_images(one.pq), one.of_images(one.class_scores(constants))
                rank = spearmanr(score, pq).statistic
                rows.append([record["run"], len(score), pq.mean(), score.mean(), rank])
    return rows


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command == "collect":
        args.output.write_text(json.dumps(collect_records(args)))
        return
    records = [json.loads(path.read_text()) for path in args.records]
    head = ["run", "images", "label PQ", "score", "Spearman"]
    print(
        tabulate(
            judge(records), headers=head, tablefmt="pipe", floatfmt=("", "", ".1f", ".1f", ".2f")
        )
    )
    print("CALIBRATION =", tuple(round(float(value), 2) for value in fit(records)))


if __name__ == "__main__":
    main()

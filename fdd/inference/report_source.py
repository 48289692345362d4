"""What a report shows of each image: its points, label and prediction drawn, and their figures."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from fdd.data import FDDDatasetMapper, get_metadata
from fdd.data.dataset_files import resolve_name
from fdd.data.images import ImageFileError
from fdd.engine.checks import DatasetError
from fdd.engine.evaluate import mapper_with_masks
from fdd.evaluation import PanopticEvaluator, PseudoLabelEvaluator
from fdd.evaluation.label_figures import InstanceFigures, LabelFigureTotals
from fdd.evaluation.panoptic_quality import ImageQuality, class_pq
from fdd.inference.trained_model import TrainedModel, check_model_dataset
from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.pseudo_labels.estimation import estimate_image
from fdd.modeling.pseudo_labels.expected_quality import expected_quality, gather_evidence
from fdd.modeling.pseudo_labels.leave_one_out import leave_one_out
from fdd.modeling.pseudo_labels.quality import instance_quality, point_pixels
from fdd.modeling.structures import PointBatch, batch_points
from fdd.points.dataset_file import read_dataset_file
from fdd.points.wording import counted
from fdd.visualization import make_panels
from fdd.visualization.files import read_rgb
from fdd.visualization.sheet import IMAGE, fit_with_points

__all__ = ["ReportSource", "describe_image", "describe_prediction", "examine_image", "figure"]

#: The rule whose labels stand beside the model's: what there is without learning.
_RULE = "extent"
# Points of an instance that are left out in turn. Each costs a run of the label branch; over all
# instances of a page, two say as much as all.
_LEFT_OUT_ROUNDS = 2


class ReportSource:
    """Where the samples of a report come from: a model, a data set, and its masks if it has any.

    Attributes:
        trained, dataset: as given.
        name: of the registered data set. title: as readers know it.
        records: its dataset dicts.
        categories: in contiguous order.
        pointed: there are points, and so labels to look at; otherwise predictions alone.
        totals: figures of the samples so far.
        unreadable: what is wrong with the images that could not be read so far.

    Raises:
        FileNotFoundError, ValueError: as :func:`write_label_report`.
    """

    def __init__(self, trained: TrainedModel, dataset: str) -> None:
        self.trained, self.dataset = trained, dataset
        self.name = resolve_name(dataset, "points")
        check_model_dataset(trained, self.name, "the report's data set")
        metadata = get_metadata(self.name)
        self.categories = list(metadata.categories)
        file, _, part = self.name.partition("#")
        self.title = self.name
        if os.path.isfile(file):
            self.title = read_dataset_file(file).name + (f", {part}" if part else "")
        self.records: list[dict[str, Any]] = DatasetCatalog.get(self.name)
        self.pointed = any(record.get("points") for record in self.records)
        masked = bool(MetadataCatalog.get(self.name).get("panoptic_json"))
        if not (self.pointed or masked):
            raise DatasetError(
                f"{dataset}: no image has a point, so there are no labels to report on, nor masks, "
                "to compare predictions with. Name the data set that the points are in"
            )
        self.totals = LabelFigureTotals(self.categories)
        self.unreadable: list[str] = []
        self._root = Path(metadata.image_root).absolute()
        self._predictions = PanopticEvaluator(self.name) if masked else None
        self._labels = PseudoLabelEvaluator(self.name) if masked and self.pointed else None
        self._mapper = mapper_with_masks(trained.cfg, self._labels) or FDDDatasetMapper(
            trained.cfg, is_train=False
        )

    @property
    def masked(self) -> bool:
        """Whether PQ is measured."""
        return self._predictions is not None

    @property
    def compared(self) -> bool:
        """Whether a rule's labels stand beside the model's."""
        model: Any = self.trained.model
        return self.pointed and model.label_settings.maker != _RULE

    @property
    def order_by(self) -> str:
        """Name of the figure that says which images are the worst."""
        if not self.pointed:
            return "prediction PQ"
        return "label PQ" if self.masked else "label score"

    def samples(
        self, records: Iterable[dict[str, Any]], side: int = 320, *, layers: bool = True
    ) -> Iterator[dict[str, Any]]:
        """The images that can be read, for :func:`fdd.visualization.write_report`.

        Args:
            records: some of :attr:`records`.
            side: longer side of the pictures, in pixels.
            layers: see :func:`fdd.visualization.make_panels`.
        """
        for record in records:
            try:
                x = self._mapper(dict(record))
            except (ImageFileError, OSError) as error:
                self.unreadable.append(str(error))
                continue
            if self.pointed:
                shown = examine_image(self.trained.model, x)
                figures = shown["figures"]
            else:
                with torch.no_grad():
                    shown, figures = self.trained.model([x])[0], _NO_FIGURES
            matches = self._match(record["image_id"], shown)
            self.totals.add(figures, **matches)
            if self.pointed:
                sample = describe_image(figures, self.categories, self.masked, **matches)
            else:
                sample = describe_prediction(matches.get("prediction"))
            path = os.path.relpath(record["file_name"], self._root)
            sample["file_name"] = path.replace(os.sep, "/")
            yield sample | self._draw(record, shown, side, layers)

    def _match(self, image_id: Any, shown: Mapping[str, Any]) -> dict[str, ImageQuality]:
        """What agrees with the masks of an image, of the prediction and of its labels; empty where
        it has no masks."""
        if self._predictions is None or image_id not in self._predictions.ground_truth:
            return {}
        matches = {"prediction": self._predictions.image_matches(image_id, shown)}
        if self._labels is None:
            return matches
        made = {k: shown[k] for k in ("label", "rule") if shown[k] is not None}
        labels = {"pseudo_labels": made, "classes": shown["figures"].classes}
        return matches | self._labels.image_matches(image_id, labels)

    def _draw(
        self, record: dict[str, Any], shown: Mapping[str, Any], side: int, layers: bool
    ) -> dict[str, Any]:
        points = record.get("points", ())
        image, points = fit_with_points(read_rgb(record["file_name"]), points, side)
        panels = make_panels(
            image,
            self.categories,
            points=points if self.pointed else None,
            pseudo_label=shown.get("label"),
            rule=shown.get("rule"),
            classes=shown["figures"].classes if self.pointed else None,
            confidence=shown.get("confidence"),
            semantic=shown.get("semantic"),
            prediction=shown["panoptic_seg"],
            ground_truth=self._truth(record["image_id"]),
            upscale_to=side,
            layers=layers,
        )
        nothing = np.zeros((*image.shape[:2], 4), np.uint8)  # over the image that is there anyway
        return {"image": image, "panels": {IMAGE: nothing} | panels | {IMAGE: nothing}}

    def _truth(self, image_id: Any) -> tuple[np.ndarray, list[dict[str, int]]] | None:
        if self._predictions is None or image_id not in self._predictions.ground_truth:
            return None
        truth = self._predictions.ground_truth
        table = truth[image_id]
        kept = zip(table.ids[~table.crowd], table.classes[~table.crowd], strict=True)
        return truth.load(image_id), [{"id": int(i), "category_id": int(k)} for i, k in kept]


@torch.no_grad()
def examine_image(
    model: Any, x: dict[str, Any], between: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Label, prediction and figures of one image with points; backbone and encoder run once.

    Args:
        model: the meta-architecture, in evaluation mode.
        x: mapper output.
        between: called between the stages, which take about half a second each on a CPU; may wait,
            or raise, which ends the work.

    Returns:
        ``label`` int32 (H, W) instance index, as it is exported; ``rule``, that of the rule
        ``extent``, or None where the label is just that; ``confidence`` float32 (H, W)
        and ``semantic`` int32 (H, W), or None; ``panoptic_seg``, the prediction; and ``figures``,
        an :class:`InstanceFigures`: the expected quality of ``label``, and the rest of the label
        before it obeys its points.

    Raises:
        ValueError: the model's labels are full masks, and there are none.
    """
    images = model.preprocess([x])
    size, padded = tuple(images.image_sizes[0]), tuple(images.tensor.shape[-2:])
    memory = model.encode(images)
    between()
    prediction = model.predict([x], images, memory)[0]["panoptic_seg"]
    between()
    points = batch_points([x], padded, model.device)
    output = model.estimate_obeying(memory, points, images.image_sizes)
    settings = replace(model.label_settings, baselines=(_RULE,))
    result = estimate_image(x, 0, output, size, settings)
    made, maker = result["pseudo_labels"], settings.maker
    if maker not in made:
        raise ValueError(
            f"the model learned from labels made by {maker!r}, which needs masks, and the data set "
            "names none. Add masks to it, or name a model that learned from points"
        )

    def from_points(fewer: PointBatch) -> BranchOutput | None:
        return model.estimate_final(memory.repeat(0, len(fewer.counts)), fewer)

    def obeying(fewer: PointBatch) -> BranchOutput | None:
        rows = len(fewer.counts)
        return model.estimate_obeying(memory.repeat(0, rows), fewer, [size] * rows)

    between()
    evidence = gather_evidence(x, size, padded, output, obeying, settings, model.device)
    between()
    left_out = leave_one_out(
        x, size, padded, from_points, settings.makers, settings, model.device, _LEFT_OUT_ROUNDS
    )
    free = made.get(f"{maker}_free", made[maker])
    confidence = result.get("confidence") if maker == "learned" else None
    return {
        "label": made[maker],
        "rule": made[_RULE] if maker != _RULE else None,
        "confidence": confidence,
        "semantic": result.get("semantic"),
        "panoptic_seg": prediction,
        "figures": replace(
            _instance_figures(x, free, confidence, size, model.num_things, left_out),
            expected=expected_quality(evidence),
        ),
    }


def _instance_figures(
    x: dict[str, Any],
    label: torch.Tensor,
    confidence: torch.Tensor | None,
    image_size: tuple[int, int],
    num_things: int,
    left_out: tuple[torch.Tensor, Mapping[str, torch.Tensor]],
) -> InstanceFigures:
    """Judge a label whose points were not forced; the expected quality is left at 0.

    Args:
        x: mapper output.
        label: (H, W) instance index at the original size, -1 none.
        confidence: (H, W) its probability.
        image_size: (H, W) of the mapper's image.
        left_out: of :func:`fdd.modeling.pseudo_labels.leave_one_out.leave_one_out`, for the label's
            maker first.
    """
    classes, (count, right) = x["classes"], left_out
    pixels = point_pixels(x, image_size, tuple(label.shape))
    quality = instance_quality(
        label[None],
        classes[None],
        pixels,
        num_things=num_things,
        prob=None if confidence is None else confidence[None],
    )
    found = label[pixels.row, pixels.column].long()
    # Index -1 reaches the -1 appended: a pixel without a label has no class.
    same = torch.cat([classes, classes.new_tensor([-1])])[found] == classes[pixels.label]
    classed = torch.zeros(len(classes), dtype=torch.long).scatter_add(0, pixels.label, same.long())
    return InstanceFigures(
        classes=classes.numpy(),
        points=quality.points[0].numpy(),
        held=quality.points_held[0].numpy(),
        classed=classed.numpy(),
        confidence=quality.confidence[0].numpy().astype(np.float64),
        empty=quality.empty[0].numpy(),
        swallowing=quality.swallowing[0].numpy(),
        left_out=count.numpy(),
        found=next(iter(right.values())).numpy(),
        rule_found=right[_RULE].numpy(),
        expected=np.zeros(len(classes)),
    )


#: Of an image without points.
_NO_FIGURES = InstanceFigures(*11 * [np.zeros(0, np.int64)])


def describe_image(
    figures: InstanceFigures,
    categories: Sequence[Mapping[str, Any]],
    masked: bool,
    *,
    label: ImageQuality | None = None,
    prediction: ImageQuality | None = None,
    rule: ImageQuality | None = None,
) -> dict[str, Any]:
    """Figures, warnings and what to sort by of one image, for
    :func:`fdd.visualization.write_report`.

    Args:
        figures: of its label.
        categories: the classes, in contiguous order.
        masked: the data set has masks: then images are sorted by PQ, and one without
            masks gets no score, which is on another scale.
        label, prediction, rule: their matches with the image's masks; see
            :meth:`fdd.evaluation.label_figures.LabelFigureTotals.add`.
    """
    found: dict[str, Any] = {"warnings": _warnings(figures, [c["name"] for c in categories])}
    shown: dict[str, str] = {}
    certain = figures.confidence[np.isfinite(figures.confidence)]
    confidence, count = 100 * _mean(certain), len(figures.classes)
    values = {"confidence": confidence, "instances": float(count)}
    classes: dict[int, float | None] = dict.fromkeys(np.unique(figures.classes).tolist())
    if label is not None and prediction is not None:
        classes |= class_pq(label)
        found["pq"] = _mean(class_pq(label).values())
        values["prediction"] = _mean(class_pq(prediction).values())
        shown["Label PQ"] = figure(found["pq"])
        if rule is not None:
            shown["Rule PQ"] = figure(_mean(class_pq(rule).values()))
        shown["Prediction PQ"] = figure(values["prediction"])
    elif not masked:
        classes |= figures.class_scores()
        found["score"] = figures.score()
    shown["Label score"] = figure(figures.score())
    shown["Confidence"] = figure(confidence, " %")
    shown["Points held"] = f"{int(figures.held.sum())} of {int(figures.points.sum())}"
    if left_out := int(figures.left_out.sum()):
        shown["Left-out points found"] = f"{int(figures.found.sum())} of {left_out}"
        shown["by the rule"] = f"{int(figures.rule_found.sum())}"
    shown["Segments"] = f"{count}"
    return found | {"figures": shown, "values": values, "classes": classes}


def describe_prediction(prediction: ImageQuality | None) -> dict[str, Any]:
    """The same of an image of a data set without points.

    Args:
        prediction: its matches with the image's masks; None where it has none.
    """
    classes = {} if prediction is None else class_pq(prediction)
    pq = _mean(classes.values())
    warnings = ["no masks"] if prediction is None else []
    shown = {"Prediction PQ": figure(pq)}
    return {"pq": pq, "figures": shown, "classes": classes, "warnings": warnings}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else math.nan


def figure(value: float, unit: str = "") -> str:
    """A figure with one digit, or a dash where there is none."""
    return f"{value:.1f}{unit}" if math.isfinite(value) else "–"


def _warnings(figures: InstanceFigures, names: Sequence[str]) -> list[str]:
    if not len(figures.classes):
        return ["no points"]
    found = []
    for mask, text in ((figures.empty, "no pixel for"), (figures.swallowing, "dominated by")):
        counts = Counter(names[k] for k in figures.classes[mask].tolist())
        parts = [name if n == 1 else f"{n} x {name}" for name, n in counts.most_common(4)]
        if counts:
            more = len(counts) - len(parts)
            rest = f" and {counted(more, 'class', 'classes')} more" if more else ""
            found.append(f"{text} {', '.join(parts)}{rest}")
    return found

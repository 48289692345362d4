"""A page of every image's points, label, prediction and figures, worst first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from fdd.inference.report_text import describe_image, describe_prediction, report_text
from fdd.inference.trained_model import TrainedModel, check_model_dataset
from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.pseudo_labels.estimation import estimate_image
from fdd.modeling.pseudo_labels.leave_one_out import leave_one_out
from fdd.modeling.pseudo_labels.quality import instance_quality, point_pixels
from fdd.modeling.structures import PointBatch, batch_points
from fdd.points.dataset_file import read_dataset_file
from fdd.visualization import make_panels
from fdd.visualization.files import read_rgb
from fdd.visualization.page.rows import Row, reduce
from fdd.visualization.report import sort_rows, spread, write_page
from fdd.visualization.sheet import IMAGE

__all__ = ["LabelReport", "write_label_report"]

Progress = Callable[[Sequence[Any]], Iterable[Any]]

#: What stands beside the model's labels: without a rule's, nobody knows what is learned.
_NEAREST = "nearest"
# Points of an instance that are left out in turn. Each costs a run of the label branch; over all
# instances of a page, two say as much as all.
_LEFT_OUT_ROUNDS = 2


@dataclass(frozen=True)
class LabelReport:
    """What was written.

    Attributes:
        path: of the page.
        figures: of all images, see :meth:`fdd.evaluation.label_figures.LabelFigureTotals.overall`.
        worst: name and figure of each image, worst first.
        order_by: name of that figure.
        compared: the labels are not just the nearest point's, which then stands beside them.
        unreadable: what is wrong with the images that could not be read, and are not on the page.
    """

    path: Path
    figures: Mapping[str, float]
    worst: Sequence[tuple[str, float | None]]
    order_by: str
    compared: bool
    unreadable: Sequence[str] = ()


def write_label_report(
    path: str | os.PathLike[str],
    trained: TrainedModel,
    dataset: str,
    *,
    title: str = "",
    max_images: int | None = None,
    thumbnail: int = 320,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    progress: Progress = iter,
) -> LabelReport:
    """Run a model on the images of a point set and write one self-contained HTML page about them.

    Args:
        path: the ``.html`` file.
        trained: loaded with its training-only parts (``load_trained(..., full=True)``).
        dataset: a data set file (``path#validation`` for its validation part), or a registered set
            of points, of masks, or of both. Where it names masks, PQ is measured against them.
            Without points there are no labels, and the page is about predictions.
        title: of the page.
        max_images: at most so many, evenly spread over the label file.
        thumbnail: longer side of the pictures, in pixels.
        curves: of the training, see :func:`fdd.visualization.read_curves`.
        progress: wraps the list of images, for a progress bar.

    Raises:
        FileNotFoundError, ValueError: the data set is missing, unsound, does not fit the model, or
            has neither points nor masks; not one image can be read; the path is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target}: a folder; name the file of the report, such as report.html")
    for name, value, least in (("max_images", max_images, 1), ("thumbnail", thumbnail, 16)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    source = _Source(trained, dataset)
    dicts, total = spread(source.dicts, max_images), len(source.dicts)
    totals = LabelFigureTotals(source.categories)
    problems: list[str] = []
    readable = source.read(progress(dicts), problems)
    rows = sort_rows(
        Row(source.sample(record, x, totals, thumbnail), thumbnail) for record, x in readable
    )
    if not rows:
        raise ImageFileError(f"not one image can be read. {problems[0]}")
    by = ("label PQ" if source.masked else "label score") if source.pointed else "prediction PQ"
    compared = source.pointed and source.maker != _NEAREST
    text = report_text(
        trained,
        dataset,
        totals,
        total=total,
        pictures=f"{thumbnail} px, {sum(row.size for row in rows) / 2**20:.1f} MiB in all",
        order_by=by,
        masked=source.masked,
        pointed=source.pointed,
        trained_on=source.name in trained.cfg.DATASETS.TRAIN,
        compared=compared,
    )
    what = "Labels from points" if source.pointed else "Predictions"
    title = title or f"{what}: {source.title}"
    write_page(target, title, {}, rows, source.categories, curves, text=text)
    worst = [(row.name, row.score) for row in rows]
    return LabelReport(target, totals.overall(), worst, by, compared, problems)


class _Source:
    """Where samples come from: model, point set, and masks if there are any."""

    def __init__(self, trained: TrainedModel, dataset: str) -> None:
        self.trained = trained
        model: Any = trained.model
        self.maker: str = model.label_settings.maker
        self.name = name = resolve_name(dataset, "points")
        check_model_dataset(trained, name, "the report's data set")
        metadata = get_metadata(name)
        self.categories = list(metadata.categories)
        file, _, part = name.partition("#")
        self.title = name
        if os.path.isfile(file):
            self.title = read_dataset_file(file).name + (f", {part}" if part else "")
        self.dicts = DatasetCatalog.get(name)
        #: Whether there are labels to look at, or predictions alone.
        self.pointed = any(d.get("points") for d in self.dicts)
        masked = bool(MetadataCatalog.get(name).get("panoptic_json"))
        if not (self.pointed or masked):
            raise DatasetError(
                f"{dataset}: no image has a point, so there are no labels to report on, nor masks, "
                "to compare predictions with. Name the data set that the points are in"
            )
        self.root = os.path.abspath(metadata.image_root)
        self.labels: PseudoLabelEvaluator | None = None
        self.predictions: PanopticEvaluator | None = None
        if masked:
            self.predictions = PanopticEvaluator(name)
            self.labels = PseudoLabelEvaluator(name) if self.pointed else None
        self.mapper = mapper_with_masks(trained.cfg, self.labels) or FDDDatasetMapper(
            trained.cfg, is_train=False
        )

    @property
    def masked(self) -> bool:
        """Whether PQ is measured."""
        return self.predictions is not None

    def read(
        self, records: Iterable[dict[str, Any]], problems: list[str]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Records and mapped images; what cannot be read is told in ``problems``."""
        for record in records:
            try:
                x = self.mapper(dict(record))
            except (ImageFileError, OSError) as error:
                problems.append(str(error))
                continue
            yield record, x

    def sample(
        self, record: dict[str, Any], x: dict[str, Any], totals: LabelFigureTotals, side: int
    ) -> dict[str, Any]:
        """One image for :func:`fdd.visualization.write_report`, also added to the totals."""
        if not self.pointed:
            return self._prediction(record, x, totals, side)
        shown = examine_image(self.trained.model, x)
        figures: InstanceFigures = shown["figures"]
        label = prediction = nearest = None
        image_id = record["image_id"]
        if self.labels and self.predictions and image_id in self.labels.ground_truth:
            made = {k: shown[k] for k in ("label", "nearest") if shown[k] is not None}
            matches = self.labels.image_matches(
                image_id, {"pseudo_labels": made, "classes": figures.classes}
            )
            label, nearest = matches["label"], matches.get("nearest")
            prediction = self.predictions.image_matches(image_id, shown)
        totals.add(figures, label, prediction, nearest)
        names = [c["name"] for c in self.categories]
        sample = describe_image(figures, label, prediction, nearest, names, masked=self.masked)
        return self._shown(sample, record, shown, side)

    @torch.no_grad()
    def _prediction(
        self, record: dict[str, Any], x: dict[str, Any], totals: LabelFigureTotals, side: int
    ) -> dict[str, Any]:
        """The same of an image without points: the prediction beside the masks."""
        model: Any = self.trained.model
        images = model.preprocess([x])
        seen = model.predict([x], images, model.encode(images))[0]
        matches = None
        if self.predictions and record["image_id"] in self.predictions.ground_truth:
            matches = self.predictions.image_matches(record["image_id"], seen)
        totals.add(instance_figures_of_none(), None, matches)
        return self._shown(describe_prediction(matches), record, seen, side)

    def _shown(
        self, sample: dict[str, Any], record: dict[str, Any], shown: dict[str, Any], side: int
    ) -> dict[str, Any]:
        sample["file_name"] = os.path.relpath(record["file_name"], self.root).replace(os.sep, "/")
        return sample | self._pictures(record, shown, side)

    def _pictures(self, record: dict[str, Any], shown: dict[str, Any], side: int) -> dict[str, Any]:
        full = read_rgb(record["file_name"])
        # Drawn at the size in which it is shown: markers and outlines keep their width.
        image = reduce(full, side)
        scale = np.array(image.shape[1::-1]) / full.shape[1::-1]
        points = [
            {**p, "coords": np.asarray(p["coords"]) * scale} for p in record.get("points", ())
        ]
        panels = make_panels(
            image,
            self.categories,
            points=points if self.pointed else None,
            pseudo_label=shown.get("label"),
            nearest=shown.get("nearest"),
            classes=shown["figures"].classes if self.pointed else None,
            confidence=shown.get("confidence"),
            semantic=shown.get("semantic"),
            prediction=shown["panoptic_seg"],
            ground_truth=self._truth(record["image_id"]),
            upscale_to=side,
            layers=True,
        )
        nothing = np.zeros((*image.shape[:2], 4), np.uint8)  # over the image that is there anyway
        return {"image": image, "panels": {IMAGE: nothing} | panels | {IMAGE: nothing}}

    def _truth(self, image_id: Any) -> tuple[np.ndarray, list[dict[str, int]]] | None:
        if self.predictions is None or image_id not in self.predictions.ground_truth:
            return None
        truth = self.predictions.ground_truth
        table = truth[image_id]
        kept = zip(table.ids[~table.crowd], table.classes[~table.crowd], strict=True)
        return truth.load(image_id), [{"id": int(i), "category_id": int(k)} for i, k in kept]


@torch.no_grad()
def examine_image(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    """Label, prediction and figures of one image with points; backbone and encoder run once.

    Args:
        model: the meta-architecture, in evaluation mode.
        x: mapper output.

    Returns:
        ``label`` int32 (H, W) instance index, as training would use it; ``nearest``, that of each
        pixel's nearest point, or None where the label is just that; ``confidence`` float32 (H, W)
        and ``semantic`` int32 (H, W), or None; ``panoptic_seg``, the prediction; and ``figures``,
        an :class:`InstanceFigures`, of the label before it obeys its points.

    Raises:
        ValueError: the model's labels are full masks, and there are none.
    """
    images = model.preprocess([x])
    size, padded = tuple(images.image_sizes[0]), tuple(images.tensor.shape[-2:])
    memory = model.encode(images)
    prediction = model.predict([x], images, memory)[0]["panoptic_seg"]
    points = batch_points([x], padded, model.device)
    output = model.estimate_obeying(memory, points, images.image_sizes)
    settings = replace(model.label_settings, baselines=(_NEAREST,))
    result = estimate_image(x, 0, output, size, settings)
    made, maker = result["pseudo_labels"], settings.maker
    if maker not in made:
        raise ValueError(
            f"the model learned from labels made by {maker!r}, which needs masks, and the data set "
            "names none. Add masks to it, or name a model that learned from points"
        )
    free = made.get(f"{maker}_free", made[maker])
    confidence = result.get("confidence") if maker == "learned" else None

    def from_points(fewer: PointBatch) -> BranchOutput | None:
        return model.estimate(memory.repeat(0, len(fewer.counts)), fewer, last_only=True)

    left_out = leave_one_out(
        x, size, padded, from_points, settings.makers, settings, model.device, _LEFT_OUT_ROUNDS
    )
    return {
        "label": made[maker],
        "nearest": made[_NEAREST] if maker != _NEAREST else None,
        "confidence": confidence,
        "semantic": result.get("semantic"),
        "panoptic_seg": prediction,
        "figures": instance_figures(x, free, confidence, size, model.num_things, left_out),
    }


def instance_figures_of_none() -> InstanceFigures:
    """The figures of an image without points."""
    none, no = np.zeros(0, np.int64), np.zeros(0, bool)
    return InstanceFigures(none, none, none, none, np.zeros(0), no, no, none, none, none)


def instance_figures(
    x: dict[str, Any],
    label: torch.Tensor,
    confidence: torch.Tensor | None,
    image_size: tuple[int, ...],
    num_things: int,
    left_out: tuple[torch.Tensor, Mapping[str, torch.Tensor]],
) -> InstanceFigures:
    """Judge a label whose points were not forced.

    Args:
        x: mapper output. label: (H, W) instance index at the original size, -1 none.
        confidence: (H, W) its probability.
        image_size: (H, W) of the mapper's image.
        left_out: of :func:`fdd.modeling.pseudo_labels.leave_one_out.leave_one_out`, for the label's
            maker first.
    """
    classes, (count, right) = x["classes"], left_out
    pixels = point_pixels(x, (image_size[0], image_size[1]), tuple(label.shape))
    quality = instance_quality(
        label[None],
        classes[None],
        pixels,
        num_things=num_things,
        prob=None if confidence is None else confidence[None],
    )
    found = label[pixels.row, pixels.column].long()
    # Index -1 reaches the -1 appended: no label is no class.
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
        nearest_found=right[_NEAREST].numpy(),
    )

"""How good the pseudo labels are, before any panoptic branch learns from them."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from fdd.evaluation.ground_truth import ImageId, PanopticGroundTruth
from fdd.evaluation.label_quality import percent
from fdd.evaluation.mask_evaluator import MaskEvaluator
from fdd.evaluation.panoptic_quality import (
    ImageQuality,
    QualityTotals,
    check_size,
    score_map,
    to_classes,
    to_id_map,
)
from fdd.evaluation.trimap import WIDTHS, boundary_band, trimap_counts
from fdd.points.pixel_counts import count_overlaps, count_values
from fdd.points.wording import PQ_IN_WORDS, counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ImageScores:
    """One image: per maker its quality, the instances it left without a pixel, and the pixels near
    boundaries that are right, and all of them."""

    quality: dict[str, ImageQuality]
    empty: dict[str, int]
    trimap: dict[str, np.ndarray]
    instances: int
    confusion: np.ndarray | None


class _MakerTotals:
    """Sums over images; can be pickled and merged."""

    def __init__(self, categories: Sequence[Mapping[str, Any]]) -> None:
        self.categories = list(categories)
        self.quality: dict[str, QualityTotals] = {}
        self.empty: dict[str, int] = {}
        self.trimap: dict[str, np.ndarray] = {}
        self.instances = 0
        self.confusion: np.ndarray | None = None

    def add(self, image: _ImageScores) -> None:
        for maker, quality in image.quality.items():
            self._of(maker).add(quality)
            self.empty[maker] += image.empty[maker]
            self.trimap[maker] += image.trimap[maker]
        self.instances += image.instances
        self._add_confusion(image.confusion)

    def merge(self, other: _MakerTotals) -> None:
        for maker, quality in other.quality.items():
            self._of(maker).merge(quality)
            self.empty[maker] += other.empty[maker]
            self.trimap[maker] += other.trimap[maker]
        self.instances += other.instances
        self._add_confusion(other.confusion)

    def _of(self, maker: str) -> QualityTotals:
        if maker not in self.quality:
            self.quality[maker], self.empty[maker] = QualityTotals(self.categories), 0
            self.trimap[maker] = np.zeros((len(WIDTHS), 2), dtype=np.int64)
        return self.quality[maker]

    def _add_confusion(self, confusion: np.ndarray | None) -> None:
        if confusion is not None:
            self.confusion = confusion if self.confusion is None else self.confusion + confusion


class PseudoLabelEvaluator(MaskEvaluator):
    """Scores instance-index maps of label makers against the masks of a point data set.

    The predicted segments are the instances of the points with their own classes; stuff instances
    of one class are one segment. PQ is what :class:`PanopticEvaluator` computes: a segment of the
    ground truth that was given no point (a tiny one, say) counts as missed, because training misses
    it too; crowd and void are ignored. The masks are read here and nowhere in training.

    It processes dicts with ``pseudo_labels`` (maker -> integer map (H, W) of instance indices,
    -1 = none, at original size), ``classes`` (N,) contiguous, and for every image or for none
    ``semantic``, an integer map (H, W) of classes, -1 = none. The makers are the same for every
    image. Only the images processed count, so a part of the training set can be measured.

    Args:
        dataset_name: a registered set whose metadata names masks beside the points. Or leave it out
            and give ``panoptic_json``, ``panoptic_root`` and, if wanted, ``categories`` as for
            :class:`PanopticEvaluator`.
        num_workers: threads for large sets; 0 for none.

    Raises:
        ValueError: the set has no masks.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        panoptic_json: str | None = None,
        panoptic_root: str | None = None,
        categories: Sequence[Mapping[str, Any]] | None = None,
        num_workers: int = 2,
    ) -> None:
        truth = PanopticGroundTruth.find(dataset_name, panoptic_json, panoptic_root, categories)
        self._isthing = np.array([c["isthing"] for c in truth.categories], dtype=bool)
        super().__init__(truth, num_workers)

    def reset(self) -> None:
        """Forgets everything processed so far."""
        super().reset()
        self._totals = _MakerTotals(self._truth.categories)
        self._layout: tuple[tuple[str, ...], bool] | None = None

    def image_quality(
        self, image_id: ImageId, output: Mapping[str, Any]
    ) -> dict[str, OrderedDict[str, float]]:
        """PQ, SQ and RQ of each maker on one image alone (not added to the sums), in percent.

        Args:
            image_id: as in the ground truth.
            output: as for the class.
        """
        results = {}
        for maker, quality in self.image_matches(image_id, output).items():
            totals = QualityTotals(self._truth.categories)
            totals.add(quality)
            results[maker] = totals.results(per_class=False)
        return results

    def image_matches(
        self, image_id: ImageId, output: Mapping[str, Any]
    ) -> dict[str, ImageQuality]:
        """The matches of each maker that :meth:`image_quality` averages."""
        where = f"pseudo labels of image {image_id!r}"
        maps = {m: to_id_map(v, f"{where} by {m!r}") for m, v in output["pseudo_labels"].items()}
        classes = to_classes(output["classes"], len(self._isthing), where)
        return self._score(image_id, maps, classes, None).quality

    def evaluate(self) -> OrderedDict[str, OrderedDict[str, float]] | None:
        """Puts the processes' sums together. To be called by every process.

        Returns:
            On the main process ``{"pseudo_labels": {"<maker>/PQ", "<maker>/SQ", "<maker>/RQ", the
            same with _th and _st, "<maker>/empty", "<maker>/trimap2", "<maker>/trimap4",
            "semantic/mIoU"}}``, None elsewhere. All in percent. ``empty`` is the share of the
            instances left without a pixel (before stuff is merged); ``trimap2`` is the share of the
            pixels at most 2 px from another true segment or void, void and crowd excluded, whose
            class and instance are right (:mod:`fdd.evaluation.trimap`); ``semantic/mIoU`` is there
            if semantic maps were, and averages over classes in the ground truth or the prediction.
            A figure with nothing to average is nan.

        Raises:
            ValueError: no image was processed.
        """
        try:
            parts = self._gather((self._totals, self._seen))
        finally:
            self._clean_up()
        if parts is None:
            return None
        totals = _MakerTotals(self._truth.categories)
        seen: set[ImageId] = set()
        for part, image_ids in parts:
            totals.merge(part)
            seen |= image_ids
        if not seen:
            raise ValueError("No pseudo labels were processed: nothing to evaluate")
        results = _results(totals)
        rows = [[m] + [results[f"{m}/{k}"] for k in _COLUMNS] for m in totals.quality]
        logger.info(
            "Pseudo labels of %d of %s (%s), semantic mIoU %s, %s\n%s",
            len(seen),
            counted(len(self._truth), "image"),
            counted(totals.instances, "segment"),
            f"{results['semantic/mIoU']:.3f}" if "semantic/mIoU" in results else "not measured",
            PQ_IN_WORDS,
            tabulate(rows, headers=["", *_COLUMNS], tablefmt="pipe", floatfmt=".3f"),
        )
        return OrderedDict(pseudo_labels=results)

    def _process_one(self, image_id: ImageId, output: Mapping[str, Any]) -> None:
        where = f"pseudo labels of image {image_id!r}"
        self._refuse_unknown(image_id, where)
        maps = {m: to_id_map(v, f"{where} by {m!r}") for m, v in output["pseudo_labels"].items()}
        semantic = output.get("semantic")
        layout = (tuple(sorted(maps)), semantic is not None)
        if not maps or layout != (self._layout or layout):
            raise ValueError(
                f"{where}: makers and presence of a semantic map are {layout}; expected at least "
                f"one maker, and the same in every image (so far {self._layout})"
            )
        classes = to_classes(output["classes"], len(self._isthing), where)
        for maker, index_map in maps.items():
            _check_range(index_map, len(classes), f"{where} by {maker!r}", "instances")
        if semantic is not None:
            semantic = to_id_map(semantic, f"semantic {where}")
            _check_range(semantic, len(self._isthing), f"semantic {where}", "classes")
        self._layout = layout
        self._seen.add(image_id)
        self._workers.submit(self._score, image_id, maps, classes, semantic)

    def _score(
        self,
        image_id: ImageId,
        maps: Mapping[str, np.ndarray],
        classes: np.ndarray,
        semantic: np.ndarray | None,
    ) -> _ImageScores:
        true_map = self._truth.load(image_id)
        segment_of = self._merge_stuff(classes)
        bands = [boundary_band(true_map, width) for width in WIDTHS]
        quality, empty, trimap = {}, {}, {}
        for maker, index_map in maps.items():
            instances = count_values(index_map + 1)[0] - 1
            instances = instances[instances >= 0]
            empty[maker] = len(classes) - len(instances)
            ids = np.unique(segment_of[instances])
            # Index -1 reaches the 0 appended at the end: no label becomes void.
            id_map = np.append(segment_of, 0).astype(np.int32)[index_map]
            quality[maker] = score_map(
                self._truth, image_id, true_map, id_map, ids, classes[ids - 1]
            )
            trimap[maker] = trimap_counts(
                true_map, bands, self._truth[image_id], id_map, ids, classes[ids - 1]
            )
        confusion = None
        if semantic is not None:
            confusion = self._confusion(image_id, true_map, semantic)
        return _ImageScores(quality, empty, trimap, len(classes), confusion)

    def _merge_stuff(self, classes: np.ndarray) -> np.ndarray:
        """Segment id per instance: 1 + its index; for stuff, 1 + the first index of its class."""
        segment_of = np.arange(1, len(classes) + 1, dtype=np.int64)
        for label in np.unique(classes):
            if not self._isthing[label]:
                mine = classes == label
                segment_of[mine] = segment_of[mine][0]
        return segment_of

    def _confusion(
        self, image_id: ImageId, true_map: np.ndarray, semantic: np.ndarray
    ) -> np.ndarray:
        """int64 (C, C + 1): true class by predicted class, the last column for no label."""
        table = self._truth[image_id]
        where = f"semantic pseudo labels of image {image_id!r}"
        check_size(semantic, true_map, where, table.file_name)
        num_classes = len(self._isthing)
        labels = np.arange(1, num_classes + 1)
        overlaps = count_overlaps(true_map, semantic + 1)
        counts = np.roll(overlaps.table(table.ids, labels), -1, axis=1)[1:]
        confusion = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
        np.add.at(confusion, table.classes[~table.crowd], counts[~table.crowd])
        return confusion

    def _consume(self, image: _ImageScores) -> None:
        self._totals.add(image)


_COLUMNS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st", *(f"trimap{w}" for w in WIDTHS), "empty")


def _results(totals: _MakerTotals) -> OrderedDict[str, float]:
    out: OrderedDict[str, float] = OrderedDict()
    for maker, quality in totals.quality.items():
        for key, value in quality.results(per_class=False).items():
            out[f"{maker}/{key}"] = value
        share = totals.empty[maker] / totals.instances if totals.instances else math.nan
        out[f"{maker}/empty"] = 100 * share
        for width, (right, pixels) in zip(WIDTHS, totals.trimap[maker].tolist(), strict=True):
            out[f"{maker}/trimap{width}"] = percent(right, pixels)
    if totals.confusion is not None:
        out["semantic/mIoU"] = mean_iou(totals.confusion)
    return out


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU in percent over the classes with a non-empty union.

    Args:
        confusion: int64 (C, C + 1), true class by predicted class; the last column is "no label",
            which counts as wrong.
    """
    hits = np.diag(confusion[:, :-1])
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - hits
    return 100 * float((hits[union > 0] / union[union > 0]).mean()) if union.any() else math.nan


def _check_range(values: np.ndarray, count: int, where: str, what: str) -> None:
    if values.size and not (values.min() >= -1 and values.max() < count):
        raise ValueError(
            f"{where}: values from {values.min()} to {values.max()} with {count} {what}; expected "
            f"-1 (none) to {count - 1}"
        )

"""Panoptic quality from id maps in memory: what comes in is checked, then scored.

The protocol is panopticapi's, which stays the arbiter: its ``PQStat`` adds up and averages, and the
tests hold the counts below to its ``pq_compute_single_core``. What differs is the way in: that
function wants both label maps as PNG files, which costs an evaluation in the loop of inference most
of its time; here the prediction stays an array.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from fdd.evaluation.ground_truth import ImageId, PanopticGroundTruth, SegmentTable
from fdd.points.pixel_counts import count_overlaps

# A pair matches above this IoU, which makes the matching unique; a prediction without a partner is
# forgiven when more than this share of it lies on void or on crowd of its class.
_MATCH_IOU = 0.5
_FORGIVEN_SHARE = 0.5

GROUPS: tuple[tuple[str, bool | None], ...] = (("", None), ("_th", True), ("_st", False))


@dataclass(frozen=True)
class ImageQuality:
    """Matches of one image: ``tp`` classes with their ``ious``, classes of misses and of extras."""

    tp: np.ndarray
    ious: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


def segment_ious(table: np.ndarray) -> np.ndarray:
    """IoU of each true with each predicted segment, without the pixels that are void in truth.

    Args:
        table: of :meth:`fdd.points.pixel_counts.Overlaps.table`, rows the ground truth, columns the
            prediction.

    Returns:
        float64 (S, P).
    """
    shared = table[1:, 1:]
    true_area, predicted_area = table[1:].sum(1), table[:, 1:].sum(0)
    union = true_area[:, None] + predicted_area[None] - shared - table[0, 1:][None]
    # No union is 0 where something is shared: it contains the ground truth segment.
    return shared / np.maximum(union, 1)


def match_segments(
    table: np.ndarray, truth: SegmentTable, predicted_classes: np.ndarray
) -> ImageQuality:
    """Matches the predicted segments of one image with its ground truth.

    Args:
        table: of :meth:`fdd.points.pixel_counts.Overlaps.table`, rows the ground truth, columns the
            prediction.
        truth: the segments of the rows.
        predicted_classes: int64 (P,), contiguous classes of the columns.
    """
    iou = segment_ious(table)
    comparable = (truth.classes[:, None] == predicted_classes[None]) & ~truth.crowd[:, None]
    matched = comparable & (iou > _MATCH_IOU)
    true_index, predicted_index = np.nonzero(matched)

    shared, predicted_area = table[1:, 1:], table[:, 1:].sum(0)
    forgiven = table[0, 1:].copy()
    # As in panopticapi, the last crowd segment listed stands for all crowd of its class.
    for label, row in {int(truth.classes[r]): r for r in np.flatnonzero(truth.crowd)}.items():
        mine = predicted_classes == label
        forgiven[mine] += shared[row, mine]
    extra = ~matched.any(0) & (forgiven <= _FORGIVEN_SHARE * predicted_area)
    return ImageQuality(
        tp=truth.classes[true_index],
        ious=iou[true_index, predicted_index],
        fp=predicted_classes[extra],
        fn=truth.classes[~matched.any(1) & ~truth.crowd],
    )


def class_pq(quality: ImageQuality) -> dict[int, float]:
    """PQ in percent of every class that occurs in one image, in its masks or what is compared."""
    found: dict[int, float] = {}
    for label in np.unique(np.concatenate([quality.tp, quality.fp, quality.fn])).tolist():
        mine = quality.tp == label
        wrong = int((quality.fp == label).sum()) + int((quality.fn == label).sum())
        found[int(label)] = 100 * float(quality.ious[mine].sum()) / (int(mine.sum()) + wrong / 2)
    return found


class QualityTotals:
    """Sums of :class:`ImageQuality` over a data set, in panopticapi's own statistics.

    Args:
        categories: dicts with ``name`` and ``isthing``, in contiguous order.

    The object can be pickled, to be gathered from several processes.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]) -> None:
        self.categories = list(categories)
        self.stat = _panopticapi_stat()

    def add(self, image: ImageQuality) -> None:
        for label, iou in zip(image.tp.tolist(), image.ious.tolist(), strict=True):
            self.stat[label].tp += 1
            self.stat[label].iou += iou
        for label in image.fp.tolist():
            self.stat[label].fp += 1
        for label in image.fn.tolist():
            self.stat[label].fn += 1

    def merge(self, other: QualityTotals) -> None:
        """Adds the sums of another process."""
        self.stat += other.stat

    def _occurs(self, label: int) -> bool:
        sums = self.stat[label]
        return sums.tp + sums.fp + sums.fn > 0

    def group(self, isthing: bool | None) -> dict[str, float]:
        """Averages over the classes that occur.

        Args:
            isthing: True for things, False for stuff, None for all.

        Returns:
            ``PQ``, ``SQ``, ``RQ`` in percent (nan when no class of the group occurs) and ``n``, the
            number of classes averaged.
        """
        # panopticapi divides by the number of classes found, so an empty group never gets there.
        labels = {
            label: {"isthing": int(c["isthing"])}
            for label, c in enumerate(self.categories)
            if isthing in (None, c["isthing"]) and self._occurs(label)
        }
        if not labels:
            return {"PQ": math.nan, "SQ": math.nan, "RQ": math.nan, "n": 0}
        mean, _ = self.stat.pq_average(labels, isthing=isthing)
        return {**{k.upper(): 100 * float(mean[k]) for k in ("pq", "sq", "rq")}, "n": mean["n"]}

    def per_class(self, label: int) -> dict[str, float]:
        """``PQ``, ``SQ``, ``RQ`` in percent (nan for a class that never occurs), ``TP, FP, FN``."""
        sums = self.stat[label]
        values = {"PQ": math.nan, "SQ": math.nan, "RQ": math.nan}
        if self._occurs(label):
            _, single = self.stat.pq_average({label: {"isthing": 1}}, isthing=None)
            values = {k.upper(): 100 * float(single[label][k]) for k in ("pq", "sq", "rq")}
        return {**values, "TP": sums.tp, "FP": sums.fp, "FN": sums.fn}

    def results(self, per_class: bool = True) -> OrderedDict[str, float]:
        """``PQ, SQ, RQ, PQ_th, ..., RQ_st`` and, if asked for, ``PQ_<class name>``."""
        out: OrderedDict[str, float] = OrderedDict()
        for suffix, isthing in GROUPS:
            values = self.group(isthing)
            for key in ("PQ", "SQ", "RQ"):
                out[key + suffix] = values[key]
        for label, category in enumerate(self.categories if per_class else []):
            key = f"PQ_{category['name']}"
            # A class may be called "th", or two may share a name: never lose a figure for that.
            out[key if key not in out else f"{key}#{label}"] = self.per_class(label)["PQ"]
        return out

    def table(self) -> str:
        """The results as text: groups first, then every class."""
        groups = []
        for name, (_, isthing) in zip(("All", "Things", "Stuff"), GROUPS, strict=True):
            values = self.group(isthing)
            groups.append([name, values["PQ"], values["SQ"], values["RQ"], values["n"]])
        classes = []
        for label, category in enumerate(self.categories):
            kind = "thing" if category["isthing"] else "stuff"
            classes.append([category["name"], kind, *self.per_class(label).values()])
        style = {"tablefmt": "pipe", "floatfmt": ".3f", "stralign": "center", "numalign": "center"}
        head = tabulate(groups, headers=["", "PQ", "SQ", "RQ", "#categories"], **style)
        columns = ["class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN"]
        return f"{head}\n\n{tabulate(classes, headers=columns, **style)}"


def _panopticapi_stat() -> Any:
    try:
        from panopticapi.evaluation import PQStat
    except ImportError as error:
        raise ImportError(
            "Panoptic evaluation needs panopticapi: "
            "pip install git+https://github.com/cocodataset/panopticapi.git"
        ) from error
    return PQStat()


def score_map(
    truth: PanopticGroundTruth,
    image_id: ImageId,
    true_map: np.ndarray,
    id_map: np.ndarray,
    ids: np.ndarray,
    classes: np.ndarray,
) -> ImageQuality:
    """Checks two maps of an image against their segments, and scores one by the other.

    One pass over both counts all that the checks and the score need.

    Args:
        truth: the ground truth ``true_map`` was loaded from, for ``image_id``.
        true_map: int32 (H, W), of :meth:`PanopticGroundTruth.load`.
        id_map: int32 (H, W), any values.
        ids: int64 (P,), what ``id_map`` must hold besides 0 = void.
        classes: int64 (P,), contiguous.

    Raises:
        ValueError: the sizes differ, or the ids of a map and of its segments.
    """
    where, table = f"prediction for image {image_id!r}", truth[image_id]
    check_size(id_map, true_map, where, table.file_name)
    overlaps = count_overlaps(true_map, id_map)
    check_ids(overlaps.column_counts()[0], ids, where)
    truth.check(image_id, true_map, *overlaps.row_counts())
    return match_segments(overlaps.table(table.ids, ids), table, classes)


def to_id_map(values: Any, where: str) -> np.ndarray:
    """Copies an integer tensor or array (H, W) to int32 on the CPU."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: a map of shape {tuple(array.shape)} and type {array.dtype}; expected "
            "integers of shape (height, width)"
        )
    if array.dtype.itemsize > 4 and array.size:
        low, high = int(array.min()), int(array.max())
        if not (low >= -(2**31) and high < 2**31):
            raise ValueError(f"{where}: values from {low} to {high}; expected 32 bits")
    return array.astype(np.int32)  # a copy, which the caller may not change behind our back


def check_size(predicted: np.ndarray, true: np.ndarray, where: str, file_name: str) -> None:
    """Raises ValueError when two maps differ in size."""
    if predicted.shape != true.shape:
        raise ValueError(
            f"{where} is {predicted.shape[0]} x {predicted.shape[1]} (height x width), the ground "
            f"truth {file_name} {true.shape[0]} x {true.shape[1]}. Expected the original size."
        )


def check_ids(values: np.ndarray, ids: np.ndarray, where: str) -> None:
    """Raises ValueError unless a map's distinct ``values`` are ``ids``, with or without 0."""
    found, listed = {*values.tolist()} - {0}, {*ids.tolist()}
    unlisted, without = sorted(found - listed), sorted(listed - found)
    if unlisted:
        raise ValueError(
            f"{where}: the map has ids {unlisted[:5]} that segments_info does not list (0 is void)"
        )
    if without:
        raise ValueError(
            f"{where}: segments_info lists ids {without[:5]} that have no pixel in the map"
        )


def to_classes(values: Any, num_classes: int, where: str) -> np.ndarray:
    """Contiguous classes of N instances, a tensor or array (N,), as int64 on the CPU.

    Raises:
        ValueError: another shape, other values than integers, or one out of range.
    """
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"{where}: classes of shape {array.shape}, {array.dtype}; expected integers of shape "
            "(N,)"
        )
    classes = array.astype(np.int64)
    if len(classes) and not (classes.min() >= 0 and classes.max() < num_classes):
        raise ValueError(
            f"{where}: classes from {classes.min()} to {classes.max()}; expected contiguous ids "
            f"from 0 to {num_classes - 1}"
        )
    return classes

"""Quality of pseudo labels without masks to compare them with."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from tabulate import tabulate

from fdd.data.catalog import get_metadata
from fdd.evaluation.ground_truth import ImageId
from fdd.evaluation.mask_evaluator import gather_parts
from fdd.evaluation.panoptic_quality import to_classes
from fdd.points.wording import counted

logger = logging.getLogger(__name__)

# A table of more classes is too long to read; the JSON has them all.
_CLASSES_SHOWN = 30
#: What is summed of instances by class, for each maker.
FIELDS = (
    *("instances", "empty", "swallowing", "confidence", "confident"),
    *("points", "points_held", "left_out", "left_out_right"),
)
#: Figures in percent: name -> (numerator, denominator).
SHARES = {
    "agreement": ("left_out_right", "left_out"),
    "points_held": ("points_held", "points"),
    "confidence": ("confidence", "confident"),
    "empty": ("empty", "instances"),
}


class InstanceSums:
    """Sums of instances' figures by class; can be pickled.

    Args:
        num_classes: contiguous classes.
        fields: names of the figures.

    Attributes:
        values: float64 (C, fields).
    """

    def __init__(self, num_classes: int, fields: Sequence[str] = FIELDS) -> None:
        self.fields = tuple(fields)
        self.values = np.zeros((num_classes, len(self.fields)))

    def add(self, classes: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Add N instances: their classes, int64 (N,), and (N,) values of each field."""
        np.add.at(self.values, classes, np.stack([columns[k] for k in self.fields], 1))

    def total(self, classes: Any = slice(None)) -> dict[str, float]:
        """Sums over some classes, an index or a mask (C,), by the names of the fields."""
        rows = np.atleast_2d(self.values[classes])
        return dict(zip(self.fields, rows.sum(0).tolist(), strict=True))


def instance_columns(
    confidence: Any,
    *,
    empty: Any,
    swallowing: Any,
    points: Any,
    points_held: Any,
    left_out: Any,
    left_out_right: Any,
) -> dict[str, np.ndarray]:
    """The values of ``FIELDS`` of N instances, float64 (N,); ``confidence`` may be nan."""
    sure = np.asarray(confidence, dtype=np.float64)
    columns = {
        "instances": np.ones(len(sure)),
        "empty": empty,
        "swallowing": swallowing,
        "confidence": np.where(np.isfinite(sure), sure, 0),
        "confident": np.isfinite(sure),
        "points": points,
        "points_held": points_held,
        "left_out": left_out,
        "left_out_right": left_out_right,
    }
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


def percent(part: float, whole: float) -> float:
    """Nan of nothing."""
    return 100 * part / whole if whole else math.nan


class LabelQualityEvaluator(DatasetEvaluator):
    """Averages what a model's ``label_quality`` returns for images with points. Reads no mask.

    Args:
        dataset_name: a registered set, of whose metadata the classes are taken. Or give
        class_names: of all contiguous classes, things first, and
        num_things: classes below it are things.
        max_worst: images to list.

    Raises:
        ValueError: neither a set nor classes.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        class_names: Sequence[str] | None = None,
        num_things: int | None = None,
        max_worst: int = 10,
    ) -> None:
        if dataset_name is not None:
            metadata = get_metadata(dataset_name)
            class_names, num_things = metadata.thing_classes, metadata.num_things
        if class_names is None or num_things is None:
            raise ValueError(
                "LabelQualityEvaluator wants dataset_name, or class_names and num_things; got "
                f"{class_names!r} and {num_things!r}"
            )
        self._names = list(class_names)
        self._isthing = np.arange(len(self._names)) < num_things
        self._max_worst = max_worst
        self.reset()

    def reset(self) -> None:
        """Forgets everything processed so far."""
        self._totals = LabelTotals(len(self._names), self._max_worst)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        """Adds a batch.

        Args:
            inputs: dicts with ``image_id`` and ``file_name``.
            outputs: what ``label_quality`` of the model gives for them: ``classes`` (N,)
                contiguous, ``points`` and ``left_out`` (N,) counts, and ``makers``: name ->
                ``confidence`` (N,) in [0, 1] or nan, ``empty`` and ``swallowing`` (N,) bool,
                ``points_held`` and ``left_out_right`` (N,) counts.

        Raises:
            ValueError: an image seen before, a class that is not there, lengths or counts that do
                not fit, or makers that differ between images.
        """
        for x, output in zip(inputs, outputs, strict=True):
            self._process_one(x, output)

    def _process_one(self, x: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        totals, image_id = self._totals, x["image_id"]
        where = f"label quality of image {image_id!r} ({x.get('file_name')})"
        if image_id in totals.seen:
            raise ValueError(f"{where}: a second time, expected once (forgot reset()?)")
        makers = output["makers"]
        if not makers or (totals.sums and set(makers) != set(totals.sums)):
            raise ValueError(
                f"{where}: makers {sorted(makers)}; expected at least one, and the same for every "
                f"image (so far {sorted(totals.sums)})"
            )
        classes = to_classes(output["classes"], len(self._names), where)
        columns = {
            name: _checked_columns(output, values, f"{where} by {name!r}")
            for name, values in makers.items()
        }
        totals.add(x, classes, columns)

    def evaluate(self) -> OrderedDict[str, Any] | None:
        """Puts the processes' sums together. To be called by every process.

        Returns:
            On the main process, None elsewhere:

            * ``label_quality``, in percent, nan with nothing to average: ``<maker>/agreement`` (of
              the left-out points, those whose cell still carries their instance),
              ``<maker>/points_held`` (of all points, not forced), ``<maker>/confidence`` (mean over
              instances that have a pixel of their mean probability), ``<maker>/empty`` (of the
              instances), each also with ``_th`` and ``_st``; ``<maker>/swallowing`` (of the
              labelled images);
            * ``label_quality_by_class``: the first four as ``<maker>/<figure>/<class>``;
            * ``label_counts``: ``images``, ``instances``, ``points``, ``left_out``, and
              ``<maker>/empty``, ``<maker>/swallowing`` instances;
            * ``worst_images``: those with the lowest agreement of the first maker.

        Raises:
            ValueError: no image was processed.
        """
        parts = gather_parts(self._totals, None)
        if parts is None:
            return None
        totals = LabelTotals(len(self._names), self._max_worst)
        for part in parts:
            totals.merge(part)
        if not totals.seen:
            raise ValueError("No labels were processed: nothing to evaluate")
        totals.trim()
        averages, counts = totals.averages(self._isthing), totals.counts()
        self._show(totals, averages, counts)
        return OrderedDict(
            label_quality=averages,
            label_quality_by_class=totals.by_class(self._names),
            label_counts=counts,
            worst_images=list(totals.worst),
        )

    def _show(
        self, totals: LabelTotals, results: Mapping[str, float], counts: Mapping[str, int]
    ) -> None:
        """Tables for the log."""
        columns = ("agreement", "agreement_th", "agreement_st", "points_held", "confidence")
        rows = []
        for maker in totals.sums:
            row = [maker, *(results[f"{maker}/{c}"] for c in columns)]
            row += [f"{counts[f'{maker}/{c}']}" for c in ("empty", "swallowing")]
            rows.append(row)
        head = ["", *columns, "empty segments", "dominating segments"]
        logger.info(
            "Labels of %s (%s, %s; %d points left out in turn):\n%s%s",
            counted(counts["images"], "image"),
            counted(counts["instances"], "segment"),
            counted(counts["points"], "point"),
            counts["left_out"],
            _table(rows, head),
            "" if counts["left_out"] else "\n" + _NO_AGREEMENT,
        )
        first = next(iter(totals.sums))
        if len(self._names) <= _CLASSES_SHOWN:
            logger.info("By class, %s:\n%s", first, self._class_table(totals.sums[first]))
        if totals.worst:
            rows = [list(row.values()) for row in totals.worst]
            logger.info(
                "The images with the lowest agreement, %s:\n%s",
                first,
                _table(rows, list(totals.worst[0])),
            )

    def _class_table(self, sums: InstanceSums) -> str:
        rows = []
        for label, class_name in enumerate(self._names):
            total = sums.total(label)
            if total["instances"] == 0:
                continue
            figures = [percent(total[part], total[whole]) for part, whole in SHARES.values()]
            kind = "thing" if self._isthing[label] else "stuff"
            numbers = [int(total[k]) for k in ("instances", "left_out", "swallowing")]
            rows.append([class_name, kind, *numbers, *figures])
        head = ["class", "kind", "segments", "left out", "dominating", *SHARES]
        return _table(rows, head)


_NO_AGREEMENT = (
    "No agreement: no segment has two points, and one that is left out must leave another. "
    "points_held, confidence and the counts remain."
)


def _table(rows: list[list[Any]], head: Sequence[str]) -> str:
    return tabulate(rows, headers=head, tablefmt="pipe", floatfmt=".2f")


def _checked_columns(
    output: Mapping[str, Any], values: Mapping[str, Any], where: str
) -> dict[str, np.ndarray]:
    """What one image adds to the sums of a maker."""
    own = {k: values[k] for k in ("empty", "swallowing", "points_held", "left_out_right")}
    shared = {k: output[k] for k in ("points", "left_out")}
    columns = instance_columns(values["confidence"], **own, **shared)
    shapes = {name: column.shape for name, column in columns.items()}
    if set(shapes.values()) != {(len(output["classes"]),)}:
        raise ValueError(f"{where}: shapes {shapes}; expected ({len(output['classes'])},) for all")
    for part, whole in (("points_held", "points"), ("left_out_right", "left_out")):
        if (columns[part] > columns[whole]).any() or (columns[part] < 0).any():
            raise ValueError(
                f"{where}: {part} is {columns[part].tolist()} of {columns[whole].tolist()} "
                f"{whole}; expected no more than there are"
            )
    return columns


class LabelTotals:
    """Sums over images; can be pickled and merged.

    Args:
        num_classes: contiguous classes.
        max_worst: images to keep.

    Attributes:
        sums: by maker, in the order in which the makers came.
        swallowed: maker -> images that one instance swallows.
        seen: ids of the images. labelled: how many have an instance.
        worst: rows of the images with the lowest agreement of the first maker.
    """

    def __init__(self, num_classes: int, max_worst: int) -> None:
        self.num_classes, self.max_worst = num_classes, max_worst
        self.sums: dict[str, InstanceSums] = {}
        self.swallowed: dict[str, int] = {}
        self.seen: set[ImageId] = set()
        self.labelled = 0
        self.worst: list[dict[str, Any]] = []

    def _sums_of(self, maker: str) -> InstanceSums:
        if maker not in self.sums:
            self.sums[maker] = InstanceSums(self.num_classes)
            self.swallowed[maker] = 0
        return self.sums[maker]

    def merge(self, other: LabelTotals) -> None:
        """Add what another process has summed."""
        for maker, sums in other.sums.items():
            self._sums_of(maker).values += sums.values
            self.swallowed[maker] += other.swallowed[maker]
        self.seen |= other.seen
        self.labelled += other.labelled
        self.worst += other.worst
        self.trim()

    def add(
        self,
        x: Mapping[str, Any],
        classes: np.ndarray,
        columns: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Add an image.

        Args:
            x: with ``image_id`` and ``file_name``.
            classes: int64 (N,).
            columns: by maker, see :func:`instance_columns`.
        """
        self.seen.add(x["image_id"])
        self.labelled += bool(len(classes))
        for maker, of_maker in columns.items():
            self._sums_of(maker).add(classes, of_maker)
            self.swallowed[maker] += bool(of_maker["swallowing"].any())
        total = {name: column.sum() for name, column in next(iter(columns.values())).items()}
        if total["left_out"] == 0:
            return
        self.worst.append(
            {
                "image_id": x["image_id"],
                "file_name": x.get("file_name"),
                "agreement": percent(total["left_out_right"], total["left_out"]),
                **{k: int(total[k]) for k in ("left_out", "instances", "empty", "swallowing")},
            }
        )
        if len(self.worst) > 4 * self.max_worst:
            self.trim()

    def averages(self, isthing: np.ndarray) -> OrderedDict[str, float]:
        """``<maker>/<share>`` in percent for each of ``SHARES``, also with ``_th`` and ``_st``, and
        ``<maker>/swallowing``; nan with nothing to average.

        Args:
            isthing: bool (C,).
        """
        out: OrderedDict[str, float] = OrderedDict()
        for maker, sums in self.sums.items():
            for suffix, group in (("", isthing | True), ("_th", isthing), ("_st", ~isthing)):
                total = sums.total(group)
                for name, (part, whole) in SHARES.items():
                    out[f"{maker}/{name}{suffix}"] = percent(total[part], total[whole])
            out[f"{maker}/swallowing"] = percent(self.swallowed[maker], self.labelled)
        return out

    def by_class(self, names: Sequence[str]) -> OrderedDict[str, float]:
        """``<maker>/<share>/<class>`` in percent, nan for a class that does not occur."""
        out: OrderedDict[str, float] = OrderedDict()
        for maker, sums in self.sums.items():
            for label, class_name in enumerate(names):
                total = sums.total(label)
                for name, (part, whole) in SHARES.items():
                    key = f"{maker}/{name}/{class_name}"
                    # Two classes may share a name: never lose a figure for that.
                    key = key if key not in out else f"{key}#{label}"
                    out[key] = percent(total[part], total[whole])
        return out

    def counts(self) -> OrderedDict[str, int]:
        """``images``, ``instances``, ``points``, ``left_out``, and by maker the empty and the
        swallowing instances."""
        out: OrderedDict[str, int] = OrderedDict(images=len(self.seen))
        for maker, sums in self.sums.items():
            total = sums.total()
            for name in ("instances", "points", "left_out"):
                out.setdefault(name, int(total[name]))
            for name in ("empty", "swallowing"):
                out[f"{maker}/{name}"] = int(total[name])
        return out

    def trim(self) -> None:
        """Keep the worst images only, in order."""
        self.worst.sort(key=lambda r: (r["agreement"], -r["left_out"], str(r["image_id"])))
        del self.worst[self.max_worst :]

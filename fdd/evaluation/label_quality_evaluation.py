"""What pseudo labels tell of their own quality where there are no masks to compare them with."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from tabulate import tabulate

from fdd.evaluation.label_quality_totals import SHARES, LabelTotals, image_rows, named, percent
from fdd.evaluation.workers import gather_parts
from fdd.points.wording import counted

logger = logging.getLogger(__name__)

# More classes than these make no table that anybody reads; the JSON has them.
_CLASSES_SHOWN = 30


class LabelQualityEvaluator(DatasetEvaluator):
    """Averages what ``label_quality`` of a model says of images with points. Reads no mask.

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
            # Imported late, as for the ground truth: only this path needs it.
            from fdd.data.catalog import get_metadata

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
            raise ValueError(f"A second time the {where}: expected one (forgot reset()?)")
        makers = output["makers"]
        if not makers or (totals.sums and set(makers) != set(totals.sums)):
            raise ValueError(
                f"{where}: makers {sorted(makers)}; expected at least one, and the same for every "
                f"image (so far {sorted(totals.sums)})"
            )
        classes = np.asarray(output["classes"]).astype(np.int64)
        if len(classes) and not (classes.min() >= 0 and classes.max() < len(self._names)):
            raise ValueError(
                f"{where}: classes from {classes.min()} to {classes.max()}; expected contiguous "
                f"ids from 0 to {len(self._names) - 1}"
            )
        rows = {
            name: image_rows(output, values, f"{where} by {name!r}")
            for name, values in makers.items()
        }
        totals.add(x, classes, rows)

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

    def _class_table(self, sums: np.ndarray) -> str:
        rows = []
        for label, class_name in enumerate(self._names):
            total = named(sums[label : label + 1])
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

"""How good the labels of an image look, in one figure an image: with masks, and without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdd.evaluation.label_quality import FIELDS, InstanceSums, instance_columns, percent
from fdd.evaluation.panoptic_quality import ImageQuality, QualityTotals, class_pq


@dataclass(frozen=True)
class InstanceFigures:
    """Figures of the N instances in the label of one image, points not forced; arrays (N,).

    Attributes:
        classes: int64, contiguous.
        points: int64, its points, at least one each.
        held: int64, these on its own label. classed: int64, these on a label of its class.
        confidence: float, mean probability over its pixels; nan without pixels or probabilities.
        empty: bool, no pixel. swallowing: bool, takes (nearly) the whole image from others.
        left_out: int64, points that were left out in turn. found: int64, these on the instance's
            label from the others. nearest_found: int64, these whose nearest other point is of the
            instance.
    """

    classes: np.ndarray
    points: np.ndarray
    held: np.ndarray
    classed: np.ndarray
    confidence: np.ndarray
    empty: np.ndarray
    swallowing: np.ndarray
    left_out: np.ndarray
    found: np.ndarray
    nearest_found: np.ndarray

    def scores(self) -> np.ndarray:
        """Of each instance, float64 (N,) in [0, 1]: mean probability of its pixels (1 where the
        maker has none), times the share of its points that it holds, one more counted as held;
        0 for an instance that is empty or swallows the image.

        One more, because a single point that is missed says less than ten that are.
        """
        share = (self.held + 1) / (self.points + 1)
        sure = np.where(np.isfinite(self.confidence), self.confidence, 1.0)
        return np.where(self.empty | self.swallowing, 0.0, sure * share)

    def score(self) -> float:
        """Mean of :meth:`scores`, in percent; nan without instances."""
        return 100 * float(self.scores().mean()) if len(self.classes) else math.nan

    def class_scores(self) -> dict[int, float]:
        """The same of each class that has instances."""
        scores = self.scores()
        return {
            k: 100 * float(scores[self.classes == k].mean())
            for k in np.unique(self.classes).tolist()
        }


_FIELDS = (*FIELDS, "images", "classed", "nearest_found")
#: What the matches with masks are kept of.
_SCORED = ("label", "prediction", "nearest")


class LabelFigureTotals:
    """Sums of the figures over images.

    Args:
        categories: dicts with ``name`` and ``isthing``, in contiguous order.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]) -> None:
        self.images = self.swallowed = 0
        self.categories = list(categories)
        self.sums = InstanceSums(len(self.categories), _FIELDS)
        self.scores: list[float] = []
        self.quality = {name: QualityTotals(categories) for name in _SCORED}
        self.scored = 0

    def add(
        self,
        figures: InstanceFigures,
        label: ImageQuality | None = None,
        prediction: ImageQuality | None = None,
        nearest: ImageQuality | None = None,
    ) -> None:
        """Add an image; the matches with its masks where it has any: of the label, of the
        prediction, and of the label that the nearest point gives."""
        columns = instance_columns(
            figures.confidence,
            empty=figures.empty,
            swallowing=figures.swallowing,
            points=figures.points,
            points_held=figures.held,
            left_out=figures.left_out,
            left_out_right=figures.found,
        )
        columns |= {
            "images": np.zeros(len(figures.classes)),
            "classed": figures.classed,
            "nearest_found": figures.nearest_found,
        }
        self.sums.add(figures.classes, columns)
        present = set(figures.classes.tolist())
        for name, quality in zip(_SCORED, (label, prediction, nearest), strict=True):
            if quality is not None:
                self.quality[name].add(quality)
        matched = prediction if label is None else label
        if matched is not None:
            self.scored += 1
            present |= set(class_pq(matched))
        self.sums.values[sorted(present), _FIELDS.index("images")] += 1
        self.images += 1
        self.swallowed += bool(figures.swallowing.any())
        if len(figures.classes):
            self.scores.append(figures.score())

    def overall(self) -> dict[str, float]:
        """``images``, ``instances``, ``points``, ``left_out`` (points), ``empty``, ``swallowed``
        (images); in percent, nan of nothing: ``score`` (mean over images), ``point_recall``,
        ``class_recall``, ``found`` and ``nearest_found`` (of the points left out), ``confidence``
        (mean over instances that have pixels), and ``label_pq``, ``nearest_pq`` and
        ``prediction_pq`` over the ``scored`` images that have masks."""
        found = _figures(self.sums.total())
        found |= {"images": self.images, "swallowed": self.swallowed, "scored": self.scored}
        found["score"] = float(np.mean(self.scores)) if self.scores else math.nan
        return found | {f"{k}_pq": q.group(None)["PQ"] for k, q in self.quality.items()}

    def by_class(self) -> list[dict[str, float] | None]:
        """The same figures of each class, ``images`` being those with the class; None for a class
        that does not occur."""
        found: list[dict[str, float] | None] = []
        for label in range(len(self.categories)):
            total = self.sums.total(label)
            if not any(total.values()):
                found.append(None)
                continue
            scored = {f"{k}_pq": q.per_class(label)["PQ"] for k, q in self.quality.items()}
            found.append(_figures(total) | scored)
        return found


def _figures(total: Mapping[str, float]) -> dict[str, float]:
    counts: dict[str, float] = {
        k: int(total[k])
        for k in ("images", "instances", "points", "left_out", "empty", "swallowing")
    }
    return counts | {
        "point_recall": percent(total["points_held"], total["points"]),
        "class_recall": percent(total["classed"], total["points"]),
        "confidence": percent(total["confidence"], total["confident"]),
        "found": percent(total["left_out_right"], total["left_out"]),
        "nearest_found": percent(total["nearest_found"], total["left_out"]),
    }

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
    """Figures of the N instances in the label of one image; arrays (N,). All but ``expected`` are
    of the label before it obeys its points.

    Attributes:
        classes: int64, contiguous.
        points: int64, its points, at least one each.
        held: int64, these on its own label. classed: int64, these on a label of its class.
        confidence: float, mean probability over its pixels; nan without pixels or probabilities.
        empty: bool, no pixel. swallowing: bool, takes (nearly) the whole image from others.
        left_out: int64, points that were left out in turn. found: int64, these on the instance's
            label from the others. rule_found: int64, these on the instance's label by a rule.
        expected: float in [0, 1], the expected share in panoptic quality of its label as users get
            it: of its IoU, which counts as 0 up to 0.5.
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
    rule_found: np.ndarray
    expected: np.ndarray

    def score(self) -> float:
        """The label score: PQ that can be expected of the image, in percent; nan without instances.

        As in PQ, the mean over the instances of a class, and then over the classes. One that
        swallows the image counts as 0, however steady it is.
        """
        scores = self.class_scores()
        return float(np.mean(list(scores.values()))) if scores else math.nan

    def class_scores(self) -> dict[int, float]:
        """The same of each class that has instances."""
        expected = np.where(self.swallowing, 0.0, self.expected)
        return {
            k: 100 * float(expected[self.classes == k].mean())
            for k in np.unique(self.classes).tolist()
        }


_FIELDS = (*FIELDS, "images", "classed", "rule_found", "lone")
#: What the matches with masks are kept of.
_SCORED = ("label", "prediction", "rule")


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
        rule: ImageQuality | None = None,
    ) -> None:
        """Add an image; the matches with its masks where it has any: of the label, of the
        prediction, and of the label that a rule makes of the same points."""
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
            "rule_found": figures.rule_found,
            "lone": figures.points == 1,
        }
        self.sums.add(figures.classes, columns)
        present = set(figures.classes.tolist())
        for name, quality in zip(_SCORED, (label, prediction, rule), strict=True):
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
        """``images``, ``instances``, ``lone`` (those with one point), ``points``, ``left_out``
        (points), ``empty``, ``swallowed`` (images); in percent, nan of nothing: ``score`` (mean
        over images), ``point_recall``, ``class_recall``, ``found`` and ``rule_found`` (of the
        points left out), ``confidence`` (mean over instances that have pixels), and ``label_pq``,
        ``rule_pq`` and ``prediction_pq`` over the ``scored`` images that have masks."""
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
        for k in ("images", "instances", "points", "left_out", "empty", "swallowing", "lone")
    }
    return counts | {
        "point_recall": percent(total["points_held"], total["points"]),
        "class_recall": percent(total["classed"], total["points"]),
        "confidence": percent(total["confidence"], total["confident"]),
        "found": percent(total["left_out_right"], total["left_out"]),
        "rule_found": percent(total["rule_found"], total["left_out"]),
    }

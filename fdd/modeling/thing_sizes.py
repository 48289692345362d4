"""Sizes of things by class: what others of its class say of one with few points. Ours, not the
paper's.

One point tells nothing of a thing's size, and three tell it badly. But windows of a house are
alike, and so are nuclei of a tissue. Where some things of a class have three or more points, the
others are expected to be as large, as far as their class varies, and their own points correct this
as far as they can (an empirical Bayes estimate, normal in the logarithm of the size). The class is
known from the other things of the image, and from the training set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["ThingSizes", "expected_sizes", "log_range_bias", "log_range_variance"]

# Of the logarithm of sizes, within a class: where no training set tells it, and at least.
_USUAL_VARIANCE = 0.4
_LEAST_VARIANCE = 0.05


@dataclass(frozen=True)
class ThingSizes:
    """How large the things of C classes are.

    Attributes:
        mean: (C, 2) float64, of the logarithm of half a side along (x, y), as a share of the
            image's diagonal.
        variance: (C, 2) float64 of it.
        count: (C,) number of things that were measured; what is said of classes without any is
            void.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray

    @classmethod
    def unknown(cls, num_things: int) -> ThingSizes:
        return cls(np.zeros((num_things, 2)), np.ones((num_things, 2)), np.zeros(num_things))

    @classmethod
    def of(
        cls, measured: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], num_things: int
    ) -> ThingSizes:
        """
        Args:
            measured: of each image, of its K things with three or more points, (K,) class, (K,)
                number of points, and (K, 2) logarithm of half a side, as a share of the diagonal.
            num_things: C.
        """
        rows = [(c, k, size) for c, k, size in measured if len(c)]
        if not rows:
            return cls.unknown(num_things)
        classes, points, sizes = (np.concatenate(column) for column in zip(*rows, strict=True))
        result = cls.unknown(num_things)
        for c in np.unique(classes):
            mine = sizes[classes == c]
            noise = log_range_variance(points[classes == c]).mean()
            # Not the mean: a stray click makes a thing of any size.
            result.mean[c] = np.median(mine, 0)
            # What the measuring adds is not the class's. One thing has no variance.
            own = mine.var(0) - noise if len(mine) > 1 else np.full(2, _USUAL_VARIANCE)
            result.variance[c] = np.maximum(own, _LEAST_VARIANCE)
            result.count[c] = len(mine)
        return result

    def as_table(self) -> np.ndarray:
        """(C, 5) float32: mean, variance, count."""
        return np.column_stack([self.mean, self.variance, self.count]).astype(np.float32)

    @classmethod
    def from_table(cls, table: np.ndarray) -> ThingSizes:
        table = np.asarray(table, np.float64)
        return cls(table[:, :2], table[:, 2:4], table[:, 4])


def log_range_bias(k: np.ndarray) -> np.ndarray:
    """How much smaller than the logarithm of an interval that of the range of ``k`` >= 2 points is,
    which are drawn uniformly from it: the range is Beta(k - 1, 2) distributed."""
    return 1 / (k - 1) + 1 / k


def log_range_variance(k: np.ndarray) -> np.ndarray:
    """Variance of that logarithm."""
    return 1 / (k - 1) ** 2 + 1 / k**2


def expected_sizes(
    measured: np.ndarray,
    number: np.ndarray,
    known: np.ndarray,
    classes: np.ndarray,
    sizes: ThingSizes,
    diagonal: float,
) -> tuple[np.ndarray, np.ndarray]:
    """What is to be expected of each thing of an image before its own points are looked at.

    Args:
        measured: (N, 2) float, logarithm of half a side by a thing's own points, in input pixels.
        number: (N,) of its points.
        known: (N,) bool, where ``measured`` says something.
        classes: (N,) integer contiguous class; those at or above C are not things.
        sizes: of the C classes.
        diagonal: of the whole image, in input pixels.

    Returns:
        (N, 2) mean of that logarithm, and (N, 2) variance; infinite where nothing is known, as for
        stuff.
    """
    mean, variance = np.zeros(measured.shape), np.full(measured.shape, np.inf)
    for c in np.unique(classes[(classes >= 0) & (classes < len(sizes.count))]):
        mine, taught = classes == c, sizes.count[c] > 0
        varies = sizes.variance[c] if taught else np.full(2, _USUAL_VARIANCE)
        noise = log_range_variance(np.maximum(number[mine], 2))
        weight = known[mine, None] / (varies + noise[:, None])
        start = 1 / varies if taught else np.zeros(2)
        first = start * (sizes.mean[c] + np.log(diagonal))
        # Each is compared with the others, not with itself.
        others = start + weight.sum(0) - weight
        value = first + (weight * measured[mine]).sum(0) - weight * measured[mine]
        found = others > 0
        safe = np.where(found, others, 1.0)
        mean[mine] = np.where(found, value / safe, 0.0)
        variance[mine] = np.where(found, varies + 1 / safe, np.inf)
    return mean, variance

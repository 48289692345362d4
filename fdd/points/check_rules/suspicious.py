"""Rules that guess: coordinates of another picture, exchanged axes, objects put into one segment.

They look for what chance or a habit of labelling hardly gives, and say so as warnings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fdd.points.check_rules.labels import Labels
from fdd.points.check_rules.rules import Finding
from fdd.points.checks import FlatPoints, is_side

__all__ = ["check_suspicious"]

# So many points of so many segments lie in one quarter by chance once in 65,000 images.
_QUARTER_POINTS = 8
_QUARTER_SEGMENTS = 3
# Over all images the same is said of fewer points each, but of more together.
_ALL_QUARTER_POINTS = 30
_ALL_QUARTER_IMAGES = 3
_GROUPED_IMAGES = 3
_GROUPED_POINTS = 5


def check_suspicious(labels: Labels) -> list[Finding]:
    """Rules W207, W208 and W505."""
    extents = _Extents(labels)
    return _in_one_quarter(labels, extents) + _exchanged(labels, extents) + _ungrouped(labels)


class _Extents:
    """Of every image: number of points and segments, size, and the box that its points span.

    Attributes:
        points, segments: int (I,).
        size: float (I, 2), width and height; NaN where the labels have no sound size.
        low, high: float (I, 2), smallest and largest x and y; NaN without points.
    """

    def __init__(self, labels: Labels) -> None:
        images = labels.dataset.images
        flat = FlatPoints(images)
        finite = np.isfinite(flat.xy).all(axis=1)
        image, xy = flat.image[finite], flat.xy[finite]
        self.points = np.bincount(image, minlength=len(images))
        self.segments = np.array([len(i.segments) for i in images], dtype=np.int64)
        self.low = np.full((len(images), 2), np.inf)
        self.high = np.full((len(images), 2), -np.inf)
        np.minimum.at(self.low, image, xy)
        np.maximum.at(self.high, image, xy)
        self.low[self.points == 0] = self.high[self.points == 0] = np.nan
        self.size = np.array([_size(i) for i in images], dtype=np.float64).reshape(-1, 2)


def _size(image: Any) -> tuple[float, float]:
    sides = (image.width, image.height)
    return sides if all(map(is_side, sides)) else (np.nan, np.nan)


def _in_one_quarter(labels: Labels, extents: _Extents) -> list[Finding]:
    images = labels.dataset.images
    used = extents.points > 0
    fractions = used & (extents.points >= 2) & (extents.low >= 0).all(axis=1)
    fractions &= (extents.high <= 1).all(axis=1) & (extents.size > 4).all(axis=1)
    quarter = used & (extents.high < extents.size / 2).all(axis=1)
    total = int(extents.points[quarter].sum())
    if quarter[used].all() and used.sum() >= _ALL_QUARTER_IMAGES and total >= _ALL_QUARTER_POINTS:
        share = np.nanmax(extents.high / extents.size)
        what = "fractions of 1, not pixels" if fractions[used].all() else "those of a smaller copy"
        message = (
            f"in all {used.sum()} images, all {total} points lie in the upper left quarter, within "
            f"{share:.0%} of width and height. Are the coordinates {what}?"
        )
        return [Finding("W207", message, labels.file)]
    many = (extents.points >= _QUARTER_POINTS) & (extents.segments >= _QUARTER_SEGMENTS)
    findings = []
    for i in np.flatnonzero(fractions | (quarter & many)).tolist():
        (x, y), (width, height) = extents.high[i].tolist(), extents.size[i].tolist()
        what = "fractions of 1, not pixels" if fractions[i] else "those of a smaller copy"
        message = (
            f"image {images[i].image_id!r}: all {extents.points[i]} points lie in x <= {x:g}, "
            f"y <= {y:g} of {width:.0f} x {height:.0f} px. Are the coordinates {what}?"
        )
        findings.append(Finding("W207", message, labels.file, images[i].image_id))
    return findings


def _exchanged(labels: Labels, extents: _Extents) -> list[Finding]:
    outside = (extents.high > extents.size).any(axis=1)
    fits = (extents.low >= 0).all(axis=1) & (extents.high <= extents.size[:, ::-1]).all(axis=1)
    swapped = outside & fits
    findings = []
    for i in np.flatnonzero(swapped).tolist():
        image = labels.dataset.images[i]
        message = (
            f"image {image.image_id!r}: points lie outside its {image.width} x {image.height} px "
            f"(width x height), and all {extents.points[i]} would lie inside with x and y exchanged"
        )
        if swapped.sum() > 1 and swapped.sum() == outside.sum():
            message += f", as in all {outside.sum()} images with points outside"
        findings.append(Finding("W208", message, labels.file, image.image_id))
    return findings


def _ungrouped(labels: Labels) -> list[Finding]:
    """Thing classes with exactly one segment in each of their images, of any number of points."""
    counts: dict[int, list[list[int]]] = {}
    for image in labels.dataset.images:
        here: dict[int, list[int]] = {}
        for segment in image.segments:
            here.setdefault(segment.category_id, []).append(len(segment.points))
        for category_id, numbers in here.items():
            counts.setdefault(category_id, []).append(numbers)
    findings = []
    for category in labels.dataset.categories:
        found = counts.get(category.id, [])
        points = [numbers[0] for numbers in found]
        alone = all(len(numbers) == 1 for numbers in found)
        # Sampled points are of one number; those of one's own that vary so much count objects.
        if (
            category.isthing
            and len(found) >= _GROUPED_IMAGES
            and alone
            and max(points) >= _GROUPED_POINTS
            and max(points) >= 2 * min(points)
        ):
            message = (
                f"class {category.name!r}: one segment in each of its {len(found)} images, with "
                f"{min(points)} to {max(points)} points"
            )
            findings.append(Finding("W505", message, labels.file))
    return findings

"""Rules that guess: coordinates of another picture, exchanged axes, objects put into one segment.

They look for what chance or a habit of labelling hardly gives, and say so as warnings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fdd.points.rules.finding import Finding
from fdd.points.rules.point_file import Labels
from fdd.points.structures import PointDataset
from fdd.points.validation import FlatPoints, is_side

__all__ = ["check_suspicious", "explain_single_points"]

# So many points of so many segments lie in one quarter by chance once in 65,000 images.
_QUARTER_POINTS = 8
_QUARTER_SEGMENTS = 3
# Over all images the same is said of fewer points each, but of more together.
_ALL_QUARTER_POINTS = 30
_ALL_QUARTER_IMAGES = 3
_GROUPED_IMAGES = 3
_GROUPED_POINTS = 5
# From so many points on, all within one pixel's width and height of the corner, they are fractions.
_ALL_FRACTIONS = 3
# Things of one point each beside stuff of several: from so many things on, and so many of them
# among those of their class in an image.
_SINGLES, _SINGLES_SHARE, _SINGLES_AN_IMAGE = 10, 0.95, 2


def check_suspicious(labels: Labels) -> list[Finding]:
    """Rules W207, W208, W505 and W506."""
    extents = _Extents(labels)
    findings = _in_one_quarter(labels, extents) + _exchanged(labels, extents) + _ungrouped(labels)
    single = explain_single_points(labels.dataset)
    return findings + ([Finding("W506", single, labels.file)] if single else [])


def explain_single_points(dataset: PointDataset) -> str:
    """Whether each click may have become a thing of its own; "" where nothing says so.

    Things of one point are nothing odd, but people who click stuff several times mostly do so with
    things, too, and where a tool's points are not grouped each of them is an object.
    """
    things = {c.id for c in dataset.categories if c.isthing}
    clicks: dict[bool, list[int]] = {True: [], False: []}
    groups = 0  # pairs of an image and a class of things that is in it
    for image in dataset.images:
        for segment in image.segments:
            clicks[segment.category_id in things].append(len(segment.points))
        groups += len({s.category_id for s in image.segments if s.category_id in things})
    single, count = clicks[True].count(1), len(clicks[True])
    if not clicks[False] or count < _SINGLES or single < _SINGLES_SHARE * count:
        return ""
    if np.median(clicks[False]) < 2 or count < _SINGLES_AN_IMAGE * groups:
        return ""
    return (
        f"{single:,} of {count:,} things have exactly one point, while regions of stuff have "
        f"{np.mean(clicks[False]):.1f} on average. Did several points of an object become an "
        "object each? Then group them: a group id in LabelMe (Edit > Group), one points shape or "
        "a group in CVAT, a relation or a common parent region in Label Studio, the column "
        "'instance' in a table; and import again. If one click a thing is meant, all is well"
    )


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
    near = used & (extents.low >= 0).all(axis=1) & (extents.high <= 1).all(axis=1)
    near &= (extents.size > 4).all(axis=1)
    if near[used].all() and extents.points[used].sum() >= _ALL_FRACTIONS:
        message = (
            f"all {extents.points[used].sum()} points lie within x <= 1 and y <= 1. Are the "
            "coordinates fractions of 1, not pixels?"
        )
        return [Finding("W207", message, labels.file)]
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

"""Rules that guess: coordinates of another image, exchanged axes, several objects in one segment.

They warn of what neither chance nor a way of labelling is likely to give.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fdd.points.findings import Finding
from fdd.points.structures import PointDataset
from fdd.points.validation import FlatPoints

__all__ = ["check_suspicious", "explain_single_points"]

# So many points of so many segments lie in one quarter by chance once in 65,000 images.
_QUARTER_POINTS = 8
_QUARTER_SEGMENTS = 3
# Over all images together: fewer points each, but more in total.
_ALL_QUARTER_POINTS = 30
_ALL_QUARTER_IMAGES = 3
_GROUPED_IMAGES = 3
_GROUPED_POINTS = 5
# From so many points on, all within one pixel's width and height of the corner, they are fractions.
_ALL_FRACTIONS = 3
# Things of one point each beside stuff of several: from so many things on, and so many of them
# among those of their class in an image.
_SINGLES, _SINGLES_SHARE, _SINGLES_AN_IMAGE = 10, 0.95, 2


def check_suspicious(dataset: PointDataset) -> Iterator[Finding]:
    """Rules W207, W208, W505 and W506."""
    yield from _check_extents(dataset)
    yield from _check_grouping(dataset)
    if single := explain_single_points(dataset):
        yield Finding("W506", single)


def explain_single_points(dataset: PointDataset) -> str:
    """A warning that each click may have become a thing of its own; "" without a sign of it.

    Things of one point are common, but people who click stuff several times mostly do so with
    things, too, and points that a tool did not group become an object each.
    """
    things = dataset.thing_ids
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
        "'instance' in a table; and import again. If one click per thing is meant, ignore this"
    )


def _check_extents(dataset: PointDataset) -> Iterator[Finding]:
    """Rules W207 and W208, on the box that the points of an image span."""
    images, flat = dataset.images, FlatPoints(dataset.images)
    finite = np.isfinite(flat.xy).all(axis=1)
    image, xy = flat.image[finite], flat.xy[finite]
    points = np.bincount(image, minlength=len(images))  # (I,)
    low, high = np.full((len(images), 2), np.inf), np.full((len(images), 2), -np.inf)
    np.minimum.at(low, image, xy)
    np.maximum.at(high, image, xy)
    low[points == 0] = high[points == 0] = np.nan
    # (I, 2), width and height; NaN where the labels have no valid size.
    sizes = [(i.width, i.height) if i.has_size else (np.nan, np.nan) for i in images]
    size = np.array(sizes, dtype=np.float64).reshape(-1, 2)

    used = points > 0
    unit = used & (low >= 0).all(axis=1) & (high <= 1).all(axis=1) & (size > 4).all(axis=1)
    quarter = used & (high < size / 2).all(axis=1)
    total = int(points[used].sum())
    if unit[used].all() and total >= _ALL_FRACTIONS:
        text = (
            f"all {total} points lie within x <= 1 and y <= 1. Are the coordinates fractions of 1, "
            "not pixels?"
        )
        yield Finding("W207", text)
    elif quarter[used].all() and used.sum() >= _ALL_QUARTER_IMAGES and total >= _ALL_QUARTER_POINTS:
        text = (
            f"in all {used.sum()} images, all {total} points lie in the upper left quarter, within "
            f"{np.nanmax(high / size):.0%} of width and height. Are the coordinates those of a "
            "smaller copy?"
        )
        yield Finding("W207", text)
    else:
        segments = np.array([len(i.segments) for i in images], dtype=np.int64)
        many = (points >= _QUARTER_POINTS) & (segments >= _QUARTER_SEGMENTS)
        fractions = unit & (points >= 2)
        for i in np.flatnonzero(fractions | (quarter & many)).tolist():
            what = "fractions of 1, not pixels" if fractions[i] else "those of a smaller copy"
            text = (
                f"all {points[i]} points lie in x <= {high[i, 0]:g}, y <= {high[i, 1]:g} of "
                f"{images[i].width} x {images[i].height} px. Are the coordinates {what}?"
            )
            yield Finding.about("W207", images[i], text)

    outside = (high > size).any(axis=1)
    swapped = outside & (low >= 0).all(axis=1) & (high <= size[:, ::-1]).all(axis=1)
    everywhere = swapped.sum() > 1 and swapped.sum() == outside.sum()
    for i in np.flatnonzero(swapped).tolist():
        text = (
            f"points lie outside its {images[i].width} x {images[i].height} px (width x height), "
            f"and all {points[i]} would lie inside with x and y exchanged"
        )
        if everywhere:
            text += f", as in all {outside.sum()} images with points outside"
        yield Finding.about("W208", images[i], text)


def _check_grouping(dataset: PointDataset) -> Iterator[Finding]:
    """Rule W505: thing classes with one segment per image, of very different numbers of points."""
    counts: dict[int, list[list[int]]] = {}  # of each class, the numbers of points in each image
    for image in dataset.images:
        here: dict[int, list[int]] = {}
        for segment in image.segments:
            here.setdefault(segment.category_id, []).append(len(segment.points))
        for category_id, numbers in here.items():
            counts.setdefault(category_id, []).append(numbers)
    for category in dataset.categories:
        found = counts.get(category.id, [])
        if not category.isthing or len(found) < _GROUPED_IMAGES:
            continue
        least, most = min(n[0] for n in found), max(n[0] for n in found)
        # Sampled points are of one number; numbers that vary so much rather count objects.
        if all(len(n) == 1 for n in found) and most >= max(_GROUPED_POINTS, 2 * least):
            text = (
                f"class {category.name!r}: one segment in each of its {len(found)} images, with "
                f"{least} to {most} points"
            )
            yield Finding("W505", text)

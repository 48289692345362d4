"""The size of the images in a training, from the size of the objects in them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdd.points.extents import ThingWidth, estimate_thing_width

__all__ = ["Sizes", "choose_sizes", "lost_share"]

# Masks are made at stride 8, and a thing of fewer cells than this is hardly more than its points.
_CELLS, _CELL = 4, 8
# But a crop shows a part of an image's things a step: whole images in which things are at least so
# wide, or that are not much smaller, teach more in the same time.
_FEWEST_CELLS = 2
_GAIN = 1.5
_STEP = 32
_LEAST = 96
# Enlarged further, images show no more.
_ENLARGEMENT = 2.0
# Share of the stuff in crops that may be without a point of its own; see lost_share().
_LOST = 0.2
_IMAGES, _CROPS = 100, 32
_WANTED = f"where {_CELLS} would be better (--short-side)"


@dataclass(frozen=True)
class Sizes:
    """Short sides in pixels.

    Attributes:
        train: of what the network is trained on, an image or a crop.
        test: of a whole image, at the same scale.
        crop: share of an image's sides that is cut out for training; None: whole images.
        width: of a typical thing; None: the points do not say.
        why: sentences for the reader of the config.
    """

    train: int
    test: int
    crop: float | None
    width: ThingWidth | None
    why: str


def choose_sizes(
    dicts: Sequence[dict[str, Any]],
    *,
    least_side: int,
    short_side: int,
    room: float = 1.25,
    wanted: int | None = None,
) -> Sizes:
    """Choose the size at which a typical thing covers four stride-8 cells or more, if whole images
    can have it; else the largest that they can, down to two cells; else crops.

    Args:
        dicts: training dicts, with points.
        least_side: short side of the network, if that is enough for the things.
        short_side: largest short side that the network can afford, and of the crops that it is
            trained on where the things need far more.
        room: whole images may exceed ``short_side`` by this factor where small things need it,
            before crops are taken of them.
        wanted: a short side to take in place of all this.
    """
    own = statistics.median(min(d["height"], d["width"]) for d in dicts)
    width = _thing_width(dicts)
    seen = _describe(width)
    if wanted is not None:
        return Sizes(wanted, wanted, None, width, _join(seen, _at(width, wanted)))
    most = max(_LEAST, _STEP * round(_ENLARGEMENT * own / _STEP))
    budget, least = min(short_side, most), min(least_side, most)
    if width is None:
        return Sizes(budget, budget, None, None, seen)
    needed = _STEP * math.ceil(_CELLS * _CELL / width.share / _STEP - 1e-9)
    test = min(needed, most)
    if test <= room * budget:
        side = max(least, test)
        return Sizes(side, side, None, width, _join(seen, _at(width, side)))
    largest = test
    whole = _STEP * int(room * budget / _STEP)
    if width.share * whole >= _FEWEST_CELLS * _CELL:
        return Sizes(whole, whole, None, width, _join(seen, _at(width, whole), _WANTED))
    while test > whole and lost_share(dicts, budget / test) > _LOST:
        test -= _STEP
    why = f" (at {largest}, crops would lose too many points of stuff)" if test < largest else ""
    if test < _GAIN * whole:
        test = min(test, whole)
    why = _join(seen, _at(width, test)) + why
    if test <= whole:
        return Sizes(test, test, None, width, why)
    share = round(budget / test, 4)
    why += (
        f"; trained on crops of {budget}, tested on whole images, "
        f"which cost {(test / budget) ** 2:.1f} times as much"
    )
    return Sizes(budget, test, share, width, why)


def lost_share(dicts: Sequence[dict[str, Any]], crop: float, seed: int = 0) -> float:
    """Share of the stuff in random crops whose class has no point in the crop.

    Such a region gets a wrong label, as each pixel is given to one of the labelled targets. It is
    estimated by leaving points out: how often does a crop with a point of a class hold none of the
    class's others? A class with one point in an image is lost wherever the crop does not hold it.

    Args:
        dicts: training dicts, with points.
        crop: share of an image's sides that is cut out.
        seed: of the crops.
    """
    rng = np.random.default_rng(seed)
    chosen = dicts[:: math.ceil(len(dicts) / _IMAGES)]
    lost = seen = 0
    for record in chosen:
        corners = rng.random((_CROPS, 1, 2)) * (1 - crop)
        size = np.array([record["width"], record["height"]])
        for segment in record["points"]:
            if segment["isthing"] or not segment["coords"]:
                continue
            places = np.asarray(segment["coords"], np.float64) / size
            inside = ((places >= corners) & (places < corners + crop)).all(axis=2).sum(axis=1)
            if len(places) == 1:
                lost, seen = lost + int((inside == 0).sum()), seen + _CROPS
            else:
                lost, seen = lost + int((inside == 1).sum()), seen + int(inside.sum())
    return lost / seen if seen else 0.0


def _thing_width(dicts: Sequence[dict[str, Any]]) -> ThingWidth | None:
    return estimate_thing_width(
        (
            min(d["height"], d["width"]),
            [np.asarray(s["coords"]) for s in d["points"] if s["isthing"] and s["coords"]],
        )
        for d in dicts
    )


def _describe(width: ThingWidth | None) -> str:
    if width is None:
        return "the points say nothing about the size of things"
    if width.from_spacing:
        source = f"distance of neighbours, {width.things:,} things of one point"
        return f"a typical thing is very roughly {width.pixels:.0f} px wide ({source})"
    source = f"spread of the points of {width.things:,} things"
    return f"a typical thing is about {width.pixels:.0f} px wide ({source})"


def _at(width: ThingWidth | None, side: int) -> str:
    if width is None:
        return ""
    cells = f"{width.share * side / _CELL:.1f} of the network's {_CELL} px cells"
    return f"{cells} at a short side of {side}"


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)

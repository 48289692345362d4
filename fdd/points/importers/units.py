"""In which unit an export's coordinates are: pixels, or shares of the image's width and height."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fdd.points.importers.records import RawImage
from fdd.points.structures import PointLabelError

__all__ = ["UNITS", "apply_units", "check_units"]

#: What one of each unit is: of pixels, or of shares.
UNITS = {"pixel": 1.0, "percent": 0.01, "normalized": 1.0}
#: Options of readers that say of coordinates what only pixels have.
_OF_PIXELS = ("pixel_centers", "pixel_size")


def check_units(units: str | None, options: dict[str, Any], title: str, defined: bool) -> None:
    """Refuse a unit that there is not, or that other options contradict.

    Args:
        units: of ``UNITS``; None where nobody says.
        options: of the reader, without those that are None.
        title: of the format.
        defined: the format says itself which unit its coordinates have.
    """
    if units is None:
        return
    if units not in UNITS:
        raise ValueError(f"units {units!r}; allowed: {', '.join(UNITS)}")
    if defined:
        raise ValueError(
            f"--units (units=...) says nothing about {title}, a format that defines its unit"
        )
    if units != "pixel" and (options.get("pixel_centers") or "pixel_size" in options):
        raise ValueError(f"units {units!r} leave no room for pixel centres or a pixel size")


def apply_units(
    source: str | os.PathLike[str],
    images: Sequence[RawImage],
    units: str | None,
    options: dict[str, Any],
    has_pixel_size: bool = False,
) -> None:
    """Make shares of coordinates that are said to be shares; ask where nobody says what they are.

    Args:
        source: the export, for the message.
        images: as read; changed in place where ``units`` are not pixels.
        units: of ``UNITS``; None: pixels, unless all coordinates lie within 0 and 1.
        options: of the reader, without those that are None. One that only pixels have says the
            unit, too.
        has_pixel_size: the reader has such an option, which the message names.

    Raises:
        PointLabelError: all coordinates lie within 0 and 1, and nobody says what they are: shares
            of the image, by all appearance, or all of one pixel.
    """
    points = [(point, image.shift) for image in images for point in image.points]
    if units in ("percent", "normalized"):
        for point, shift in points:
            point.x, point.y = ((v - shift) * UNITS[units] for v in (point.x, point.y))
        for image in images:
            image.normalized, image.shift = True, 0.0
    elif units is None and not any(name in options for name in _OF_PIXELS):
        values = (value - shift for point, shift in points for value in (point.x, point.y))
        if points and all(0 <= value <= 1 for value in values):
            raise PointLabelError(_ask(source, len(points), has_pixel_size))


def _ask(source: str | os.PathLike[str], count: int, has_pixel_size: bool) -> str:
    text = (
        f"{os.fspath(source)}: all coordinates ({count} points) lie within 0 and 1. Shares of the "
        "image's width and height? Then give --units normalized. Pixels, all of them in the upper "
        "left one? Then --units pixel. Percent? --units percent."
    )
    if has_pixel_size:
        text += " Another unit, such as mm? --pixel-size says how many of it a pixel has."
    return text

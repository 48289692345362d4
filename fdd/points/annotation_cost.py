"""What points cost to make beside polygons, under assumptions that are printed with the result.

Bearman et al. 2016 ("What's the Point", ECCV) timed annotators on photographs of 20 classes: about
1 s to see that a class is not in an image, 2.4 s for the first point of a class that is, 0.9 s for
the point of each further object, which with 79 s an outline makes 22.1 s an image for one point a
class and 239.7 s for full masks. Outlines: 54 s (Jain and Grauman 2013, quoted there) to 79.2 s
(Lin et al. 2014, COCO: 22 hours for 1,000 objects). For more points on one object there is no such
measurement; Cheng et al. 2022 (PointSup) find about 0.9 s to say whether a given point is on it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fdd.points.statistics import PointStatistics, format_table

__all__ = ["CostAssumptions", "CostEstimate", "Seconds", "estimate_cost", "format_cost"]


@dataclass(frozen=True)
class Seconds:
    """A duration between two numbers of seconds."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < float("inf"):
            raise ValueError(f"{self.low} to {self.high} seconds; expected 0 <= low <= high")

    @classmethod
    def parse(cls, text: str) -> Seconds:
        """From ``"60"`` or ``"54-79.2"``.

        Raises:
            ValueError: anything else.
        """
        low, dash, high = text.partition("-")
        try:
            return cls(float(low), float(high if dash else low))
        except ValueError:
            raise ValueError(f"{text!r} is not a number of seconds such as 60 or 54-79.2") from None

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.low + other.low, self.high + other.high)

    def __mul__(self, count: float) -> Seconds:
        return Seconds(self.low * count, self.high * count)

    def __str__(self) -> str:
        return _between(f"{self.low:g}", f"{self.high:g}", "s")

    def for_people(self) -> str:
        """In the unit that suits the size, such as ``2.1 to 3 h``."""
        for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
            if self.high >= size or unit == "s":
                break
        return _between(_round(self.low / size), _round(self.high / size), unit)


@dataclass(frozen=True)
class CostAssumptions:
    """Seconds of one annotator. The sources are those of this module.

    Attributes:
        per_image: to open an image, and other work for each.
        per_class: to see that a class is not in an image; for points and polygons alike.
        first_point: to find a class in an image and set its first point.
        per_point: every further point, on another object or on the same.
        per_polygon: to outline a thing, or a stuff region.
    """

    per_image: Seconds = Seconds(0, 0)
    per_class: Seconds = Seconds(1.0, 1.0)
    first_point: Seconds = Seconds(2.4, 2.4)
    per_point: Seconds = Seconds(0.9, 0.9)
    per_polygon: Seconds = Seconds(54.0, 79.2)


#: Of each assumption: the option of the command, what it is, and who measured it.
EXPLANATIONS = {
    "per_image": ("--seconds-per-image", "opening an image", "none"),
    "per_class": ("--seconds-per-class", "class not in an image", "Bearman 2016"),
    "first_point": ("--seconds-first-point", "first point of a class", "Bearman 2016"),
    "per_point": ("--seconds-per-point", "every further point", "Bearman 2016"),
    "per_polygon": ("--seconds-per-polygon", "outline of a segment", "Jain 2013, Lin 2014"),
}


@dataclass(frozen=True)
class CostEstimate:
    """Seconds for all points, for outlines of the same segments, and what they rest on."""

    points: Seconds
    polygons: Seconds
    assumptions: CostAssumptions

    @property
    def ratio(self) -> tuple[float, float] | None:
        """How many times as long the outlines take, least and most; None if points take no time."""
        if self.points.low <= 0:
            return None
        return self.polygons.low / self.points.high, self.polygons.high / self.points.low

    def as_json(self) -> dict[str, Any]:
        """Everything, of types that JSON has."""
        assumed = {
            f.name: [getattr(self.assumptions, f.name).low, getattr(self.assumptions, f.name).high]
            for f in fields(self.assumptions)
        }
        return {
            "points_seconds": [self.points.low, self.points.high],
            "polygons_seconds": [self.polygons.low, self.polygons.high],
            "ratio": None if self.ratio is None else list(self.ratio),
            "assumed_seconds": assumed,
        }


def estimate_cost(
    counts: PointStatistics, assumptions: CostAssumptions | None = None
) -> CostEstimate:
    """The time that these points take, and that outlines of the same segments would take."""
    assumed = assumptions or CostAssumptions()
    absent = counts.images * len(counts.classes) - counts.class_occurrences
    looking = assumed.per_image * counts.images + assumed.per_class * absent
    first = counts.class_occurrences
    setting = assumed.first_point * first + assumed.per_point * (counts.points - first)
    return CostEstimate(
        points=looking + setting,
        polygons=looking + assumed.per_polygon * counts.segments,
        assumptions=assumed,
    )


def format_cost(cost: CostEstimate, counts: PointStatistics) -> str:
    """The estimate and its assumptions, for a terminal of 80 columns."""
    rows = [
        (str(getattr(cost.assumptions, name)), what, source, option)
        for name, (option, what, source) in EXPLANATIONS.items()
    ]
    head = ("assumed", "for", "source", "change it with")
    results = [
        ("points", cost.points.for_people(), _each(cost.points, counts.segments)),
        ("polygons", cost.polygons.for_people(), _each(cost.polygons, counts.segments)),
    ]
    lines = [
        "Work of one annotator, as an estimate",
        format_table(results, left=(0, 1, 2)),
    ]
    if cost.ratio is not None and counts.segments:
        least, most = map(_round, cost.ratio)
        lines.append(f"Polygons take {_between(least, most, 'times as long.')}")
    lines += [
        "",
        format_table([head, *rows], left=(0, 1, 2, 3)),
        "Sources: Bearman et al., ECCV 2016 (also for Jain and Grauman, ICCV 2013); Lin\n"
        "et al., ECCV 2014 (COCO). They timed people on photographs. Time yourself on\n"
        "twenty of your images, and put your numbers in their place.",
    ]
    return "\n".join(lines)


def _each(seconds: Seconds, segments: int) -> str:
    return f"{(seconds * (1 / segments)).for_people()} a segment" if segments else ""


def _between(low: str, high: str, unit: str) -> str:
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _round(value: float) -> str:
    """Two digits where that is enough: an estimate has no more."""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"

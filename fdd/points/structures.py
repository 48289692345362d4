"""Point labels in memory, and the error of labels that cannot be used."""

from __future__ import annotations

import numbers
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fdd.points.wording import counted, numbered

__all__ = [
    "MAX_SIDE",
    "Category",
    "PointDataset",
    "PointImage",
    "PointLabelError",
    "PointSegment",
    "VoidStroke",
    "canonical_name",
    "is_integer",
    "is_side",
    "raise_problems",
]

MAX_SIDE = 1_000_000  # pixels; pixel numbers of a whole data set stay far below 2^63


def canonical_name(name: str) -> str:
    """A class name in Unicode's form NFC: \u00fc is one character, not u and two dots as macOS
    writes it. Names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer of Python or NumPy. ``True`` is not one here."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_side(value: Any) -> bool:
    """Whether ``value`` can be a side of an image in pixels."""
    return is_integer(value) and 1 <= value <= MAX_SIDE


@dataclass(frozen=True)
class Category:
    """One class, with the id of the label file (not the contiguous training id).

    The name is kept as :func:`canonical_name` has it, so that names of two files can be compared.
    """

    id: int
    name: str
    isthing: bool

    def __post_init__(self) -> None:
        if isinstance(self.name, str):
            object.__setattr__(self, "name", canonical_name(self.name))

    @property
    def kind(self) -> str:
        return "thing" if self.isthing else "stuff"


@dataclass
class PointSegment:
    """One thing instance, or one stuff class of an image, and its points.

    Attributes:
        id: positive, unique within the image.
        category_id: the label file's own category id.
        points: ``(x, y)`` in pixels of the original image, continuous: the centre of the top-left
            pixel is ``(0.5, 0.5)``.
    """

    id: int
    category_id: int
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class VoidStroke:
    """A stroke of the brush that paints what is to be ignored (:mod:`fdd.points.void`).

    Attributes:
        width: of the round brush, in pixels of the original image.
        line: ``(x, y)``, where its middle went, at least one; straight from each to the next.
    """

    width: float
    line: tuple[tuple[float, float], ...]


@dataclass
class PointImage:
    """One image. ``id`` keeps the type it had in the file: ``"2007_000032"`` is not a number."""

    image_id: str | int
    file_name: str
    height: int
    width: int
    segments: list[PointSegment] = field(default_factory=list)
    void: list[VoidStroke] = field(default_factory=list)

    @property
    def has_size(self) -> bool:
        """Whether height and width are numbers of pixels; those of a file may be anything."""
        return is_side(self.height) and is_side(self.width)


@dataclass
class PointDataset:
    """Images with points; ``info`` is free, and says how the points were made."""

    categories: list[Category]
    images: list[PointImage]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def thing_ids(self) -> set[int]:
        """Ids of the thing classes."""
        return {category.id for category in self.categories if category.isthing}


class PointLabelError(ValueError):
    """Point labels that cannot be trained on; ``problems`` lists the single findings."""

    def __init__(self, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message)
        self.problems = problems if problems is not None else [message]


def raise_problems(source: Any, problems: Sequence[str], remark: str = "", hint: str = "") -> None:
    """Raise one error of all problems, if there are any; the message shows the first 20.

    Args:
        source: what the message calls the labels, usually the path of the file.
        problems: sentences.
        remark: follows the number of problems, such as "; nothing was imported".
        hint: a last line, about all of them.

    Raises:
        PointLabelError: with ``problems``.
    """
    if not problems:
        return
    if len(problems) == 1 and not remark and not hint:
        raise PointLabelError(f"{source}: {problems[0]}", list(problems))
    lines = [f"{source}: {counted(len(problems), 'problem')} found{remark}"]
    lines += [*numbered(problems), *([hint] if hint else [])]
    raise PointLabelError("\n".join(lines), list(problems))

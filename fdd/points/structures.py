"""Point labels in memory."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Category",
    "PointDataset",
    "PointImage",
    "PointLabelError",
    "PointSegment",
    "canonical_name",
]


def canonical_name(name: str) -> str:
    """A class name in Unicode's form NFC: \u00fc is one character, not u and two dots as macOS
    writes it. Names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


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


@dataclass
class PointImage:
    """One image. ``id`` keeps the type it had in the file: ``"2007_000032"`` is not a number."""

    image_id: str | int
    file_name: str
    height: int
    width: int
    segments: list[PointSegment] = field(default_factory=list)


@dataclass
class PointDataset:
    """Images with points; ``info`` is free, and says how the points were made."""

    categories: list[Category]
    images: list[PointImage]
    info: dict[str, Any] = field(default_factory=dict)


class PointLabelError(ValueError):
    """Point labels that cannot be trained on; ``problems`` lists the single findings."""

    def __init__(self, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message)
        self.problems = problems if problems is not None else [message]

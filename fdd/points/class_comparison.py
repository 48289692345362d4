"""Whether two lists of classes are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from fdd.points.structures import Category

__all__ = ["ClassDifference", "compare_classes", "describe_differences"]

_MAX_DESCRIBED = 3


@dataclass(frozen=True)
class ClassDifference:
    """A class that one list has and the other has not, or not at the same place.

    Attributes:
        first, second: what the lists have; None: nothing. Where order does not matter, one is None.
        position: place in both lists, from 0; None where order does not matter.
    """

    first: Category | None
    second: Category | None
    position: int | None = None


def compare_classes(
    first: Iterable[Category | Mapping[str, Any]],
    second: Iterable[Category | Mapping[str, Any]],
    *,
    ordered: bool = True,
    ids: bool = True,
) -> list[ClassDifference]:
    """Compare two lists of classes by name, kind (thing or stuff), id and order.

    Args:
        first, second: categories, or mappings with ``id``, ``name`` and ``isthing``.
        ordered: a class has to have the same place in both. Lists in contiguous order (positions
            are training ids) are compared so, the lists of label files not.
        ids: ids are compared.

    Returns:
        The differences, none for equal lists: by position if ``ordered``; else what only the first
        list has, then what only the second has, each in the order of its list.
    """
    ours, theirs = [_category(c) for c in first], [_category(c) for c in second]

    def key(category: Category | None) -> tuple[Any, ...] | None:
        if category is None:
            return None
        return (category.name, category.isthing, *([category.id] if ids else []))

    if ordered:
        return [
            ClassDifference(a, b, n)
            for n, (a, b) in enumerate(zip_longest(ours, theirs))
            if key(a) != key(b)
        ]
    known, found = {key(c) for c in ours}, {key(c) for c in theirs}
    return [
        *(ClassDifference(c, None) for c in ours if key(c) not in found),
        *(ClassDifference(None, c) for c in theirs if key(c) not in known),
    ]


def describe_differences(
    differences: Sequence[ClassDifference], first: str, second: str, *, ids: bool = True
) -> str:
    """The first few differences in words.

    Args:
        first, second: what the lists belong to.
        ids: as given to :func:`compare_classes`.
    """

    def shown(category: Category | None) -> str:
        if category is None:
            return "missing"
        kind = "thing" if category.isthing else "stuff"
        return f"{category.name!r} ({kind}{f', id {category.id!r}' if ids else ''})"

    texts = []
    for difference in differences[:_MAX_DESCRIBED]:
        ours, theirs = difference.first, difference.second
        if difference.position is None:
            texts.append(f"only {second if ours is None else first} has {shown(ours or theirs)}")
        else:
            texts.append(
                f"class {difference.position} is {shown(ours)} in {first}, {shown(theirs)} in "
                f"{second}"
            )
    if len(differences) > _MAX_DESCRIBED:
        texts.append(f"and {len(differences) - _MAX_DESCRIBED} more")
    return "; ".join(texts)


def _category(entry: Category | Mapping[str, Any]) -> Category:
    if isinstance(entry, Category):
        return entry
    return Category(entry["id"], str(entry["name"]), bool(entry["isthing"]))

"""Words for a user that several programs and pages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["PQ_IN_WORDS", "counted", "describe_duration", "listed", "numbered"]

#: Where a user meets a PQ first.
PQ_IN_WORDS = (
    "panoptic quality (PQ): 100 means that every segment is found, with its class and exactly its "
    "pixels"
)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Such as "1 point", "2 points", "1,200 points"; ``plural`` is ``noun`` with an s if empty."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[Any], most: int, separator: str = ", ") -> str:
    """The first ``most`` names, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(map(str, names[:most])) + more


def numbered(texts: Sequence[str], most: int = 20) -> list[str]:
    """The first ``most`` texts as numbered lines, and a line that says how many more there are."""
    lines = [f"  {i}. {text}" for i, text in enumerate(texts[:most], start=1)]
    return lines + [f"  ... and {len(texts) - most} more"] * (len(texts) > most)


def describe_duration(seconds: float) -> str:
    """Such as "40 seconds", "7 minutes", "3.5 hours"."""
    for limit, unit, name in ((100, 1, "second"), (100 * 60, 60, "minute")):
        if seconds < limit:
            return counted(max(1, round(seconds / unit)), name)
    return f"{seconds / 3600:.1f} hours"

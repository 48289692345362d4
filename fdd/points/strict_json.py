"""JSON of which nothing is lost on the way: a key twice in one object is an error."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

__all__ = ["parse_json"]

_SHOWN = 60


def parse_json(text: str) -> Any:
    """``json.loads``, except that of two equal keys it does not quietly take the second.

    Raises:
        ValueError: a key stands twice; or, of kind JSONDecodeError, it is no JSON.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        others = ", ".join(map(repr, list(found)[:5]))
        raise ValueError(
            f"the key {repr(twice)[:_SHOWN]} stands twice in the object with {others:.200}. Keep "
            "one of the two"
        )
    return found

"""The rows of ``make bench``, in the order of a training step's parts."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks.harness import Result, Row, skipped

#: Modules with a function ``rows() -> list[Row]``.
MODULES = (
    "rows_points",
    "rows_cross_entropy",
    "rows_labels",
    "rows_merge",
)


def collect(modules: Sequence[str] = MODULES) -> tuple[list[Row], list[Result]]:
    """All rows, and one skipped result for each module whose imports are not at hand.

    Everything is imported here, before any row's process is forked.

    Raises:
        ValueError: two rows have one name.
    """
    rows: list[Row] = []
    missing: list[Result] = []
    for name in modules:
        try:
            module = importlib.import_module(f"benchmarks.{name}")
            rows += module.rows()
        except ImportError as error:
            missing.append(skipped(name.removeprefix("rows_"), f"cannot be imported: {error}"))
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rows of the same name: {', '.join(twice)}")
    return rows, missing

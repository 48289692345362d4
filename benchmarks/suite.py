"""The rows of ``make bench``, in the order of a training step's parts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from benchmarks.harness import Result, Row, skipped

#: Where the rows come from: "module:function" of this package, the function returns them.
SOURCES = {
    "data": "parts:data",
    "points": "rows_points:rows",
    "attention": "rows_attention:rows",
    "decoder": "rows_decoder:rows",
    "color": "parts:color",
    "cross_entropy": "rows_losses:cross_entropy_rows",
    "labels": "rows_labels:rows",
    "clicks": "rows_clicks:rows",
    "segments": "rows_segments:rows",
    "dice": "rows_losses:dice_rows",
    "matching": "rows_matching:rows",
    "optimizer": "rows_optimizer:rows",
    "step": "parts:step",
    "merge": "rows_merge:rows",
    "evaluation": "parts:evaluation",
}


def collect(sources: Mapping[str, str] = SOURCES) -> tuple[list[Row], list[Result]]:
    """All rows, and one skipped result for each source whose imports are not at hand.

    Everything is imported here, before any row's process is forked.

    Raises:
        ValueError: two rows have one name.
    """
    rows: list[Row] = []
    missing: list[Result] = []
    for name, source in sources.items():
        module, function = source.split(":")
        try:
            rows += getattr(importlib.import_module(f"benchmarks.{module}"), function)()
        except ImportError as error:
            missing.append(skipped(name, f"cannot be imported: {error}"))
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rows of the same name: {', '.join(twice)}")
    return rows, missing

"""One self-contained HTML page about a run: headline figures, curves, and every image's stages,
worst first.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdd.points.files import atomic_path
from fdd.visualization.page import parts
from fdd.visualization.page.classes import Column, class_table
from fdd.visualization.page.parts import Card, format_value
from fdd.visualization.page.rows import Row, encode_image
from fdd.visualization.page.script import SCRIPT
from fdd.visualization.page.style import FILL_FILTER, STYLE
from fdd.visualization.palette import Palette, as_palette

__all__ = [
    "Card",
    "Column",
    "ReportText",
    "encode_image",
    "format_value",
    "read_curves",
    "write_report",
]


@dataclass(frozen=True)
class ReportText:
    """What a report says around its images, all of it optional.

    Attributes:
        intro: a paragraph below the title.
        cards: headline figures; without them the summary's.
        columns: of the table of classes; the classes are chips where there is none.
        classes: figures of each class by the columns' keys; None for one that does not occur.
        class_note: HTML below that table.
        image_note: HTML above the images.
        order_by: name of the figure that says what is worst.
        foot: name -> text, where the page comes from.
        fold_curves: curves come last, folded away.
    """

    intro: str = ""
    cards: Sequence[Card] = ()
    columns: Sequence[Column] = ()
    classes: Sequence[Mapping[str, Any] | None] = ()
    class_note: str = ""
    image_note: str = ""
    order_by: str = "PQ"
    foot: Mapping[str, str] = field(default_factory=dict)
    fold_curves: bool = False


def write_report(
    path: str | os.PathLike[str],
    title: str,
    summary: Mapping[str, Any],
    samples: Iterable[Mapping[str, Any]],
    metadata: Any,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    *,
    max_side: int = 480,
    text: ReportText | None = None,
) -> Path:
    """Write the page. Nothing is loaded from elsewhere: pictures, style and script are inside.

    Args:
        path: the ``.html`` file; written beside itself first, then moved into place, parents made.
        title: of the page.
        summary: figures by name. The keys of :data:`fdd.visualization.page.parts.HEADLINES` become
            cards (``train_seconds`` in seconds, ``memory_bytes`` in bytes); a nested dict becomes
            a table of its own; None is shown as a dash.
        samples: one dict an image: ``file_name``, ``panels`` (title -> uint8 RGB picture, see
            :func:`fdd.visualization.make_panels`), and optionally

            * ``image``: RGB, below all panels with transparency (RGBA); the reader chooses how much
              of it shows through their colours;
            * ``pq`` (percent) and ``score``, by which (the first that is there) rows are sorted;
            * ``figures`` (name -> text) in place of the PQ, ``caption``, and ``warnings``, a list;
            * ``values``: numbers to sort by, see :data:`fdd.visualization.page.parts.ORDERS`;
            * ``classes``: contiguous class -> the figure (or None) that sorts the image among those
              of this class.

            Read once, so a generator keeps one image's panels in memory at a time.
        metadata: names and colours of the legend, see :func:`fdd.visualization.as_palette`.
        curves: name -> ``(iteration, value)`` pairs; non-finite values break the line.
        max_side: larger pictures are reduced to this many pixels.
        text: what stands around the images.

    Returns:
        The path.
    """
    rows = sort_rows(Row(sample, max_side) for sample in samples)
    return write_page(path, title, summary, rows, metadata, curves, text=text)


def spread(items: Sequence[Any], count: int | None) -> list[Any]:
    """``count`` of the items, evenly spread over their order; all of fewer, or for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * n + 1) * len(items) // (2 * count)] for n in range(count)]


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """Worst first; rows without a figure last, as they came."""
    return sorted(rows, key=lambda row: (row.score is None, row.score or 0.0))


def write_page(
    path: str | os.PathLike[str],
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    metadata: Any,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    *,
    text: ReportText | None = None,
) -> Path:
    """:func:`write_report` for rows that are made and sorted already."""
    text = text or ReportText()
    charts = parts.curve_charts(curves or {}, text.fold_curves)
    intro = f'<p class="intro">{html.escape(text.intro)}</p>' if text.intro else ""
    palette = as_palette(metadata)
    filtered = palette if any(row.classes for row in rows) else None
    body = [
        f"<h1>{html.escape(title)}</h1>{intro}",
        parts.card_list(text.cards) or parts.cards(summary),
        parts.tables(summary),
        "" if text.fold_curves else charts,
        class_table(palette, text.columns, text.classes, text.class_note)
        if text.columns
        else parts.legend(palette),
        parts.gallery(rows, text.order_by, filtered, text.image_note + _keys(rows, filtered)),
        charts if text.fold_curves else "",
        parts.foot(text.foot),
    ]
    with atomic_path(path) as temporary:
        # File names need not be UTF-8: their strange bytes are shown as escapes.
        page = _document(title, body)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def _keys(rows: Sequence[Row], palette: Palette | None) -> str:
    if palette is None:
        return ""
    outlines = "<kbd>o</kbd> outlines alone, " if any(row.image for row in rows) else ""
    return (
        '<p class="note keys">Keys: <kbd>/</kbd> search, <kbd>j</kbd> <kbd>k</kbd> next and '
        f"previous image, {outlines}<kbd>Esc</kbd> show all; in an enlarged picture the arrows go "
        "through the pictures of the image and through the images.</p>"
    )


def _document(title: str, body: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n{FILL_FILTER}"
        + '<dialog id="zoom"><div class="large"><img alt=""></div><p></p></dialog>\n'
        + f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def read_curves(
    metrics_json: str | os.PathLike[str], keys: Sequence[str] | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Curves from the ``metrics.json`` that Detectron2 writes (one JSON object a line), for
    :func:`write_report`.

    A last line cut short by a killed run is skipped; where a resumed run repeats iterations, the
    later line counts.

    Args:
        metrics_json: the file.
        keys: the scalars to take; if not given, ``total_loss`` and all whose name holds ``loss`` or
            ``PQ``.

    Returns:
        Name -> ``(iteration, value)``, iterations ascending. Keys that never occur are left out.
    """
    found: dict[str, dict[float, float]] = {}
    for line in Path(metrics_json).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), (int, float)):
            continue
        for key, value in record.items():
            wanted = key in keys if keys is not None else ("loss" in key or "PQ" in key)
            if wanted and isinstance(value, (int, float)):
                found.setdefault(key, {})[float(record["iteration"])] = float(value)
    order = list(keys) if keys is not None else sorted(found, key=lambda k: (k != "total_loss", k))
    return {key: sorted(found[key].items()) for key in order if key in found}

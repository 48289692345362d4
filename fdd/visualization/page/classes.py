"""The report's table of classes."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fdd.visualization.palette import Palette, as_palette


@dataclass(frozen=True)
class Column:
    """A column of the table of classes.

    Attributes:
        key: of the classes' dicts.
        title: its head. why: what it says, in plain words.
        percent: the figure is a percentage, with one decimal and a bar behind it; otherwise a
            count.
    """

    key: str
    title: str
    why: str
    percent: bool = True


def class_table(
    metadata: Any, columns: Sequence[Column], classes: Sequence[Mapping[str, Any] | None], note: str
) -> str:
    """The table of classes, whose rows filter the gallery; the worst by its first percentage first.

    Args:
        columns: in order.
        classes: figures of every class; None where it does not occur.
        note: HTML below the table.
    """
    palette = as_palette(metadata)
    first = next((c.key for c in columns if c.percent), "")
    head = "".join(_class_head(column, column.key == first) for column in columns)
    body = "".join(
        _class_row(palette, k, figures, columns)
        for k, figures in sorted(enumerate(classes), key=lambda pair: _rank(pair[1], first))
        if figures is not None
    )
    absent = [palette.names[k] for k, figures in enumerate(classes) if figures is None]
    if absent:
        shown = ", ".join(absent[:12]) + (f" and {len(absent) - 12} more" if absent[12:] else "")
        note = f"Not in these images: {html.escape(shown)}. {note}"
    meaning = "".join(
        f"<dt>{html.escape(c.title)}</dt><dd>{html.escape(c.why)}</dd>" for c in columns
    )
    return (
        f"<section><h2>Classes <small>{len(classes) - len(absent)}</small></h2>"
        '<div class="wide" tabindex="0" role="region" aria-label="Figures by class">'
        '<table id="classes"><thead><tr><th scope="col"><button type="button">Class</button></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="note">A class shows its images, a column head sorts. {note}</p>'
        '<details class="meaning"><summary>What the columns say</summary>'
        f"<dl>{meaning}</dl></details></section>"
    )


def _class_head(column: Column, sorts: bool) -> str:
    sorted_by = ' aria-sort="ascending"' if sorts else ""
    return (
        f'<th scope="col"{sorted_by}><button type="button" title="{html.escape(column.why)}">'
        f"{html.escape(column.title)}</button></th>"
    )


def _rank(figures: Mapping[str, Any] | None, key: str) -> tuple[bool, float]:
    value = (figures or {}).get(key)
    known = value is not None and math.isfinite(value)
    return not known, float(value or 0.0) if known else 0.0


def _class_row(
    palette: Palette, label: int, figures: Mapping[str, Any], columns: Sequence[Column]
) -> str:
    name, isthing = palette.names[label], bool(palette.isthing[label])
    kind = "thing" if isthing else "stuff"
    link = "#" + urlencode({"class": name})
    cells = "".join(_class_cell(figures.get(column.key), column) for column in columns)
    color = f"rgb{tuple(palette.colors[label].tolist())}"
    title = html.escape(f"{name}, {kind}")
    return (
        f'<tr data-class="{html.escape(name)}"><th scope="row" title="{title}">'
        f'<span class="swatch {kind}" style="background:{color}"></span>'
        f'<a href="{html.escape(link)}">{html.escape(name)}</a></th>{cells}</tr>'
    )


def _class_cell(value: Any, column: Column) -> str:
    if value is None or not math.isfinite(value):
        return '<td data-value="">–</td>'
    if not column.percent:
        return f'<td data-value="{value}">{int(value):,}</td>'
    share = min(max(value, 0.0), 100.0)
    return f'<td data-value="{value:.4f}" style="--share:{share:.1f}%">{value:.1f}</td>'

"""Parts of the report as HTML: cards, tables, curves, classes, the gallery, the foot."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdd.points.wording import PQ_IN_WORDS
from fdd.visualization.curves import curve_svg
from fdd.visualization.page.rows import Row
from fdd.visualization.palette import Palette, as_palette, text_color_on

# Keys of the summary with a name and a sentence of their own, in the order of the cards; other keys
# follow in a table.
HEADLINES = {
    "PQ": ("Prediction PQ", f"Without any point, of new images, in {PQ_IN_WORDS}."),
    "PQ_th": ("PQ of things", "The same, mean over the classes of countable objects."),
    "PQ_st": ("PQ of stuff", "The same, mean over the classes of regions."),
    "pseudo_label_PQ": ("Label PQ", "The same of the labels made from points, training images."),
    "pseudo_label_PQ_without_forced_points": (
        "Label PQ, free",
        "The same before labels are made to obey their points.",
    ),
    "nearest_PQ": (
        "Nearest point PQ",
        "The same where each pixel takes the label of its nearest point: no model.",
    ),
    "polygon_PQ": ("Polygon PQ", "The same of polygons drawn through the points."),
    "auxiliary_semantic_mIoU": ("Semantic mIoU", "Of the auxiliary branch: classes only."),
    "train_seconds": ("Training time", ""),
    "memory_bytes": ("Peak memory", ""),
    "device": ("Device", ""),
}
#: Orders of the gallery beside worst, best and name, by keys of the samples' ``values``:
#: text of the button, sign (-1: the largest first).
ORDERS = {
    "prediction": ("Worst prediction", 1),
    "confidence": ("Least confident", 1),
    "instances": ("Most segments", -1),
}
_SHAPES = "Round: things, whose instances vary the lightness. Square: stuff. "
_NO_LABEL = "Hatched pixels have no label."


@dataclass(frozen=True)
class Card:
    """A headline figure: its name, its value as text, one plain sentence about it."""

    name: str
    value: str
    why: str = ""
    lead: bool = False


def cards(summary: Mapping[str, Any]) -> str:
    """The cards of a summary's headlines."""
    found = [
        Card(name, format_value(key, summary[key]), why, lead=key == "PQ")
        for key, (name, why) in HEADLINES.items()
        if key in summary
    ]
    return card_list(found)


def card_list(found: Sequence[Card]) -> str:
    """Cards side by side."""
    if not found:
        return ""
    explained = " explained" if any(card.why for card in found) else ""
    return f'<dl class="cards{explained}">{"".join(map(_card, found))}</dl>'


def _card(card: Card) -> str:
    why = f'<dd class="why">{html.escape(card.why)}</dd>' if card.why else ""
    return (
        f'<div class="card{" lead" if card.lead else ""}"><dt>{html.escape(card.name)}</dt>'
        f"<dd>{html.escape(card.value)}</dd>{why}</div>"
    )


def tables(summary: Mapping[str, Any]) -> str:
    """The rest of a summary; a nested mapping is a table of its own."""
    plain = {k: v for k, v in summary.items() if k not in HEADLINES and not isinstance(v, Mapping)}
    groups = [("More figures", plain)] if plain else []
    groups += [(str(k), dict(v)) for k, v in summary.items() if isinstance(v, Mapping) and v]
    out = []
    for name, values in groups:
        lines = "".join(
            f'<tr><th scope="row">{html.escape(str(k))}</th>'
            f"<td{' class=text' * isinstance(v, str)}>"
            f"{html.escape(format_value(str(k), v))}</td></tr>"
            for k, v in values.items()
        )
        out.append(f"<section><h2>{html.escape(name)}</h2><table>{lines}</table></section>")
    return f'<div class="tables">{"".join(out)}</div>' if out else ""


def curve_charts(curves: Mapping[str, Sequence[tuple[float, float]]], fold: bool) -> str:
    """The curves, folded away or open."""
    charts = "".join(
        f'<figure class="chart"><figcaption>{html.escape(name)}</figcaption>'
        f"{curve_svg(name, values)}</figure>"
        for name, values in curves.items()
    )
    if not charts:
        return ""
    if fold:
        return (
            "<details><summary>Training curves</summary>"
            f'<div class="charts">{charts}</div></details>'
        )
    return f'<section><h2>Curves</h2><div class="charts">{charts}</div></section>'


def legend(metadata: Any) -> str:
    """The classes as chips in their colours."""
    palette = as_palette(metadata)
    chips = []
    for name, color, isthing in zip(
        palette.names, palette.colors.tolist(), palette.isthing, strict=True
    ):
        kind = "thing" if isthing else "stuff"
        ink = text_color_on(color)
        chips.append(
            f'<li class="chip {kind}" title="{kind}" '
            f'style="background:rgb{tuple(color)};color:rgb{ink}">{html.escape(name)}</li>'
        )
    return (
        f'<section><h2>Classes</h2><ul class="legend">{"".join(chips)}</ul>'
        f'<p class="note">{_SHAPES}{_NO_LABEL}</p></section>'
    )


def scale_note(stops: np.ndarray, low: str, high: str) -> str:
    """A colour scale in a line of text, as HTML; ``stops`` are RGB, (K, 3)."""
    colors = ",".join(f"rgb{tuple(stop)}" for stop in stops.tolist())
    return (
        f'{html.escape(low)}<span class="scale" style="background:linear-gradient(90deg,{colors})">'
        f"</span>{html.escape(high)}"
    )


def shape_note(labels: bool = True) -> str:
    """How classes are drawn, in words; with ``labels``, also what has none."""
    return _SHAPES + _NO_LABEL if labels else _SHAPES.rstrip()


def gallery(rows: Sequence[Row], by: str, palette: Palette | None, note: str = "") -> str:
    """The rows and what chooses among them.

    Args:
        rows: worst first.
        by: name of the figure that says what is worst.
        palette: the classes to filter by; None where the rows name none.
        note: HTML above the rows.
    """
    if not rows:
        return '<section><h2>Images</h2><p class="note">No images were given.</p></section>'
    articles = "\n".join(row.html(number) for number, row in enumerate(rows))
    return (
        f'<section id="images"><h2>Images <small>{len(rows)}</small></h2>'
        f"{note}{_tools(rows, by, palette)}\n"
        f'<div id="rows" data-by="{html.escape(by)}">\n{articles}\n</div></section>'
    )


def _tools(rows: Sequence[Row], by: str, palette: Palette | None) -> str:
    buttons = []
    if any(row.score is not None for row in rows):
        buttons = [("worst", "Worst first", 1, f"by {by}"), ("best", "Best first", -1, f"by {by}")]
    for key, (text, sign) in ORDERS.items():
        if any(row.values.get(key) is not None for row in rows):
            buttons.append((key, text, sign, f"by {key}"))
    buttons.append(("name", "File name", 1, "in the order of the alphabet, numbers by size"))
    sort = "".join(
        f'<button type="button" data-sort="{key}" data-sign="{sign}" title="{html.escape(title)}" '
        f'aria-pressed="{"true" if n == 0 else "false"}">{text}</button>'
        for n, (key, text, sign, title) in enumerate(buttons)
    )
    return (
        '<div class="tools" id="tools" hidden><input type="search" id="search" '
        f'placeholder="Search names" aria-label="Search file names">{_choice(rows, palette)}'
        f'<nav class="sort" aria-label="Order of the images">{sort}</nav>{_fill(rows)}'
        '<span class="state"><output id="count" aria-live="polite"></output>'
        '<button type="button" class="clear" id="clear" hidden>Show all</button></span></div>'
    )


def _fill(rows: Sequence[Row]) -> str:
    """How much the colours hide of the images; nothing where no picture leaves that open."""
    if not any(row.image for row in rows):
        return ""
    return (
        '<label class="fill" title="How much the colours hide of the image; o: outlines alone">'
        'Colour <input type="range" id="fill" min="0" max="100" step="5" value="60"></label>'
    )


def _choice(rows: Sequence[Row], palette: Palette | None) -> str:
    if palette is None:
        return ""
    counts = np.zeros(len(palette), dtype=int)
    for row in rows:
        counts[[int(k) for k in row.classes]] += 1
    options = "".join(
        f'<option value="{html.escape(palette.names[k])}" data-number="{k}">'
        f"{html.escape(palette.names[k])} ({counts[k]})</option>"
        for k in np.flatnonzero(counts).tolist()
    )
    return (
        '<select id="class" aria-label="Class"><option value="">All classes</option>'
        f"{options}</select>"
    )


def foot(facts: Mapping[str, str]) -> str:
    """Where the page comes from."""
    if not facts:
        return ""
    lines = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    return f"<footer><dl>{lines}</dl></footer>"


def format_value(key: str, value: Any) -> str:
    """A figure for people: seconds as h/min/s, bytes as GiB, floats with one decimal or four
    digits.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    if key.endswith("seconds"):
        return _duration(number)
    if key.endswith("bytes"):
        return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    return f"{number:.1f}" if abs(number) >= 1 or number == 0 else f"{number:.4g}"


def _duration(number: float) -> str:
    minutes, seconds = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {seconds} s"
    return f"{number:.1f} s" if number < 10 else f"{seconds} s"

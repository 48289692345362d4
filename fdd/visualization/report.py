"""One self-contained HTML page: headline figures, classes, curves, and every image's stages, worst
first. Here are its data; ``templates/report.html`` makes the page of them.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import fdd
from fdd.points.files import atomic_path
from fdd.points.wording import PQ_IN_WORDS, listed
from fdd.visualization.curves import make_chart, read_curves
from fdd.visualization.draw import confidence_colors, fit_into, to_rgb
from fdd.visualization.palette import Palette, as_palette, text_color_on

__all__ = [
    "HEADLINES",
    "NO_LABEL",
    "ORDERS",
    "SHAPES",
    "TEMPLATES",
    "Card",
    "Column",
    "Progress",
    "ReportText",
    "Row",
    "WrittenPage",
    "check_page_options",
    "encode_image",
    "format_value",
    "made_now",
    "read_curves",
    "sort_rows",
    "spread",
    "write_page",
    "write_report",
]

#: Wraps the list of images, for a progress bar.
Progress = Callable[[Sequence[Any]], Iterable[Any]]

#: Keys of the summary with a name and a sentence of their own, in the order of the cards; other
#: keys follow in a table.
HEADLINES = {
    "PQ": ("Prediction PQ", f"Of new images, without points, in {PQ_IN_WORDS}."),
    "PQ_th": ("PQ of things", "The same, averaged over the classes of countable objects."),
    "PQ_st": ("PQ of stuff", "The same, averaged over the classes of regions."),
    "pseudo_label_PQ": ("Label PQ", "The same of the labels made from points, training images."),
    "pseudo_label_PQ_without_forced_points": (
        "Label PQ, free",
        "The same before labels are made to obey their points.",
    ),
    "nearest_PQ": (
        "Nearest point PQ",
        "The same where each pixel takes the label of its nearest point: no model.",
    ),
    "extent_PQ": (
        "Rule PQ",
        "The same of things as large as their points say, and around them the nearest point.",
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
#: How classes are drawn, and what has none.
SHAPES = "Round: things, whose instances vary the lightness. Square: stuff."
NO_LABEL = "Hatched pixels have no label."

_ABSENT_SHOWN = 12
_JPEG_QUALITY, _WEBP_QUALITY = 88, 78
# Flat colours: without loss they are the smaller, too.
_WEBP_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]
_PNG_SMALL = [cv2.IMWRITE_PNG_COMPRESSION, 9]

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


@dataclass(frozen=True)
class Card:
    """A headline figure: its name, its value as text, one plain sentence about it."""

    name: str
    value: str
    why: str = ""
    lead: bool = False


@dataclass(frozen=True)
class Column:
    """A column of the table of classes.

    Attributes:
        key: of the classes' dicts.
        title: its head.
        why: what it says, in plain words.
        percent: the figure is a percentage, with one decimal and a bar behind it; otherwise a
            count.
    """

    key: str
    title: str
    why: str
    percent: bool = True


@dataclass(frozen=True)
class ReportText:
    """What a report says around its images, all of it optional.

    Attributes:
        intro: a paragraph below the title.
        cards: headline figures; without them the summary's.
        columns: of the table of classes, whose rows filter the images, the worst by the first
            percentage first; the classes are chips where there is none.
        classes: figures of each class by the columns' keys; None for one that does not occur.
        class_note: below that table.
        scale: name and two ends of the colour scale of confidence, which stands there, too.
        image_note: above the images.
        order_by: name of the figure that says what is worst.
        foot: name -> text, where the page comes from.
        fold_curves: curves come last, folded away.
    """

    intro: str = ""
    cards: Sequence[Card] = ()
    columns: Sequence[Column] = ()
    classes: Sequence[Mapping[str, Any] | None] = ()
    class_note: str = ""
    scale: tuple[str, str, str] | None = None
    image_note: str = ""
    order_by: str = "PQ"
    foot: Mapping[str, str] = field(default_factory=dict)
    fold_curves: bool = False


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """A page that was written.

    Attributes:
        path: of the page.
        images: number of images on it.
        unreadable: what is wrong with the images that could not be read.
    """

    path: Path
    images: int
    unreadable: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A picture of a row: its title, its content as a ``data:`` URL, its size in pixels, and
    whether it has transparency, to lie over the row's image."""

    title: str
    url: str
    width: int
    height: int
    layer: bool


class Row:
    """One image's share of the page: text and encoded pictures only.

    Args:
        sample: see :func:`write_report`.
        max_side: larger pictures are reduced to this many pixels.

    Attributes:
        name: of the file.
        pq: percent, or None.
        score: what the row is sorted by, or None.
        size: of the pictures on the page, in bytes.
    """

    def __init__(self, sample: Mapping[str, Any], max_side: int) -> None:
        self.name = str(sample.get("file_name", ""))
        self.pq = _finite(sample.get("pq"))
        self.score = self.pq if self.pq is not None else _finite(sample.get("score"))
        self.caption = str(sample.get("caption", ""))
        self.figures = {str(k): str(v) for k, v in sample.get("figures", {}).items()}
        self.warnings = [str(text) for text in sample.get("warnings", ())]
        self.values = _rounded(sample.get("values", {}))
        self.classes = _rounded(sample.get("classes", {}))
        below = sample.get("image")
        # On the page once, below all panels with transparency.
        self.image = "" if below is None else encode_image(below, max_side, webp=True)
        self.pictures = []
        for title, panel in sample.get("panels", {}).items():
            panel = fit_into(panel if _has_alpha(panel) else to_rgb(panel), max_side)
            if panel.size:
                (height, width), url = panel.shape[:2], encode_image(panel, max_side, webp=True)
                self.pictures.append(Picture(title, url, width, height, _has_alpha(panel)))
        self.size = len(self.image) + sum(len(picture.url) for picture in self.pictures)


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
        summary: figures by name. The keys of :data:`HEADLINES` become cards (``train_seconds`` in
            seconds, ``memory_bytes`` in bytes); a nested dict becomes a table of its own; None is
            shown as a dash.
        samples: one dict an image: ``file_name``, ``panels`` (title -> uint8 RGB picture, see
            :func:`fdd.visualization.make_panels`), and optionally

            * ``image``: RGB, below all panels with transparency (RGBA); the reader chooses how much
              of it shows through their colours;
            * ``pq`` (percent) and ``score``, by which (the first that is there) rows are sorted;
            * ``figures`` (name -> text) in place of the PQ, ``caption``, and ``warnings``, a list;
            * ``values``: numbers to sort by, see :data:`ORDERS`;
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
    text, palette = text or ReportText(), as_palette(metadata)
    first = next((column for column in text.columns if column.percent), None)
    absent = [palette.names[k] for k, figures in enumerate(text.classes) if figures is None]
    page = TEMPLATES.get_template("report.html").render(
        source=_source,
        title=title,
        text=text,
        shapes=SHAPES,
        no_label=NO_LABEL,
        cards=text.cards or _summary_cards(summary),
        tables=_summary_tables(summary),
        charts=[make_chart(name, values) for name, values in (curves or {}).items()],
        classes=_table_classes(palette, text, first) if text.columns else _classes(palette),
        first=first,
        absent=listed(absent, _ABSENT_SHOWN),
        scale_colors=confidence_colors()[:: 255 // 5].tolist(),
        rows=rows,
        orders=_orders(rows, text.order_by),
        class_options=_class_options(rows, palette),
        layered=any(row.image for row in rows),
    )
    with atomic_path(path) as temporary:
        # File names need not be UTF-8: bytes that are not are shown as escapes.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def check_page_options(
    path: str | os.PathLike[str], example: str, max_images: int | None, thumbnail: int
) -> None:
    """Check the arguments that both reports share, before any work.

    Raises:
        ValueError: the path is a folder, or a number is out of its range.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path}: a folder; name the file of the page, such as {example}")
    for name, value, least in (("max_images", max_images, 1), ("thumbnail", thumbnail, 16)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")


def made_now() -> str:
    """When and with what a page is made, for its foot."""
    return f"made {datetime.now():%Y-%m-%d %H:%M} with fdd {fdd.__version__}"


def spread(items: Sequence[Any], count: int | None) -> list[Any]:
    """``count`` of the items, evenly spread over their order; all of fewer, or for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * n + 1) * len(items) // (2 * count)] for n in range(count)]


def encode_image(picture: np.ndarray, max_side: int = 480, *, webp: bool = False) -> str:
    """A ``data:`` URL of an RGB picture (PNG where that is the smaller, otherwise JPEG), or of one
    with transparency (without loss); empty for an empty picture.

    Args:
        picture: uint8 ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGBA, or ``(H, W)`` grey.
        max_side: larger pictures are reduced to this many pixels.
        webp: WebP, half the size of JPEG on textures, where this OpenCV writes it.
    """
    picture = fit_into(picture if _has_alpha(picture) else to_rgb(picture), max_side)
    if picture.size == 0:
        return ""
    webp = webp and cv2.haveImageWriter(".webp")
    if _has_alpha(picture):
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
        kinds = {"webp": _WEBP_LOSSLESS} if webp else {"png": _PNG_SMALL}
    else:
        pixels = np.ascontiguousarray(picture[:, :, ::-1])
        kinds = {"png": [], "jpeg": [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]}
        if webp:
            kinds = {"png": [], "webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]}
    coded = {k: cv2.imencode(f".{k}", pixels, how)[1].tobytes() for k, how in kinds.items()}
    kind = min(coded, key=lambda k: len(coded[k]))
    return f"data:image/{kind};base64,{base64.b64encode(coded[kind]).decode('ascii')}"


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


def _source(name: str) -> str:
    """The style sheet or the script, as it is: braces in it mean nothing to the template."""
    assert TEMPLATES.loader is not None
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]


def _summary_cards(summary: Mapping[str, Any]) -> list[Card]:
    return [
        Card(name, format_value(key, summary[key]), why, lead=key == "PQ")
        for key, (name, why) in HEADLINES.items()
        if key in summary
    ]


def _summary_tables(summary: Mapping[str, Any]) -> dict[str, list[tuple[str, str, bool]]]:
    """The rest of a summary: by title, lines of name, value as text, and whether it is words."""
    plain = {k: v for k, v in summary.items() if k not in HEADLINES and not isinstance(v, Mapping)}
    groups = {"More figures": plain} | {k: v for k, v in summary.items() if isinstance(v, Mapping)}
    return {
        str(name): [(str(k), format_value(str(k), v), isinstance(v, str)) for k, v in group.items()]
        for name, group in groups.items()
        if group
    }


def _classes(palette: Palette) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "kind": "thing" if isthing else "stuff",
            "color": color,
            "ink": text_color_on(color),
            "link": "#" + urlencode({"class": name}),
        }
        for name, color, isthing in zip(
            palette.names, palette.colors.tolist(), palette.isthing.tolist(), strict=True
        )
    ]


def _table_classes(
    palette: Palette, text: ReportText, first: Column | None
) -> list[dict[str, Any]]:
    """The classes that occur, with their cells, the worst first."""

    def rank(figures: Mapping[str, Any]) -> tuple[bool, float]:
        value = _finite(figures.get(first.key)) if first else None
        return value is None, value or 0.0

    pairs = zip(_classes(palette), text.classes, strict=True)
    known = [(class_, figures) for class_, figures in pairs if figures is not None]
    return [
        class_ | {"cells": [_cell(figures.get(column.key), column) for column in text.columns]}
        for class_, figures in sorted(known, key=lambda pair: rank(pair[1]))
    ]


def _cell(value: Any, column: Column) -> dict[str, str]:
    """``data``, what the script sorts by, ``text``, and ``share``, the length of the bar."""
    if _finite(value) is None:
        return {"data": "", "text": "–"}
    if not column.percent:
        return {"data": f"{value}", "text": f"{int(value):,}"}
    share = min(max(value, 0.0), 100.0)
    return {"data": f"{value:.4f}", "text": f"{value:.1f}", "share": f"{share:.1f}%"}


def _orders(rows: Sequence[Row], by: str) -> list[tuple[str, str, int, str]]:
    """The buttons above the images: key, text, sign, and a sentence."""
    found = []
    if any(row.score is not None for row in rows):
        found = [("worst", "Worst first", 1, f"by {by}"), ("best", "Best first", -1, f"by {by}")]
    for key, (text, sign) in ORDERS.items():
        if any(row.values.get(key) is not None for row in rows):
            found.append((key, text, sign, f"by {key}"))
    return [*found, ("name", "File name", 1, "alphabetical, numbers by value")]


def _class_options(rows: Sequence[Row], palette: Palette) -> list[tuple[int, str, int]]:
    """The classes to filter by: number, name, and images with it."""
    counts = np.zeros(len(palette), dtype=int)
    for row in rows:
        counts[[int(k) for k in row.classes]] += 1
    return [(k, palette.names[k], int(counts[k])) for k in np.flatnonzero(counts).tolist()]


def _has_alpha(picture: np.ndarray) -> bool:
    return picture.ndim == 3 and picture.shape[2] == 4


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _rounded(values: Mapping[Any, Any]) -> dict[str, float | None]:
    """Rounded to four decimals, which is more than the page shows."""
    found = {str(k): _finite(v) for k, v in values.items()}
    return {k: None if v is None else round(v, 4) for k, v in found.items()}

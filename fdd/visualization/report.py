"""One self-contained HTML page about a run: headline figures, curves, and every image's stages,
worst first.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fdd.visualization._page import SCRIPT, STYLE
from fdd.visualization.curves import curve_svg
from fdd.visualization.draw import to_rgb
from fdd.visualization.palette import as_palette, text_color_on

# Keys of the summary with a name of their own, in the order of the cards; other keys follow in a
# table.
HEADLINES = {
    "PQ": "PQ",
    "PQ_th": "PQ things",
    "PQ_st": "PQ stuff",
    "pseudo_label_PQ": "Pseudo label PQ",
    "nearest_PQ": "Nearest point PQ",
    "polygon_PQ": "Polygon PQ",
    "train_seconds": "Training time",
    "memory_bytes": "Peak memory",
    "device": "Device",
}


def write_report(
    path: str | os.PathLike[str],
    title: str,
    summary: Mapping[str, Any],
    samples: Iterable[Mapping[str, Any]],
    metadata: Any,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    *,
    max_side: int = 480,
) -> Path:
    """Write the page. Nothing is loaded from elsewhere: pictures, style and script are inside.

    Args:
        path: the ``.html`` file; written beside itself first, then moved into place, parents made.
        title: of the page.
        summary: figures by name. The keys of :data:`HEADLINES` become cards (``train_seconds`` in
            seconds, ``memory_bytes`` in bytes); a nested dict becomes a table of its own; None is
            shown as a dash.
        samples: one dict an image: ``file_name``, ``panels`` (title -> uint8 RGB picture, see
            :func:`fdd.visualization.make_panels`), and optionally ``pq`` (percent) and ``caption``.
            Read once, so a generator keeps one image's panels in memory at a time.
        metadata: names and colours of the legend, see :func:`fdd.visualization.as_palette`.
        curves: name -> ``(iteration, value)`` pairs; non-finite values break the line.
        max_side: larger pictures are reduced to this many pixels.

    Returns:
        The path.
    """
    rows = [_Row(sample, max_side) for sample in samples]
    rows.sort(key=lambda row: (row.pq is None, row.pq if row.pq is not None else 0.0))
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _cards(summary),
        _tables(summary),
        _curves(curves or {}),
    ]
    body += [_legend(metadata), _gallery(rows)]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + '\n</main>\n<dialog id="zoom"><img alt=""><p></p></dialog>\n'
        + f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    return _write_atomically(Path(path), page)


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


class _Row:
    """One image's share of the page: text and encoded pictures only."""

    def __init__(self, sample: Mapping[str, Any], max_side: int) -> None:
        self.name = str(sample.get("file_name", ""))
        pq = sample.get("pq")
        self.pq = float(pq) if pq is not None and math.isfinite(float(pq)) else None
        self.caption = str(sample.get("caption", ""))
        self.panels = [
            (str(k), encode_image(v, max_side)) for k, v in dict(sample.get("panels", {})).items()
        ]

    def html(self, number: int) -> str:
        name = html.escape(self.name)
        figures = "".join(
            '<figure><button type="button" class="shot" title="Enlarge">'
            f'<img loading="lazy" src="{source}" alt="{html.escape(title)}, {name}"></button>'
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
            for title, source in self.panels
            if source
        )
        pq = "" if self.pq is None else f'<span class="pq">PQ {self.pq:.1f}</span>'
        caption = f'<span class="note">{html.escape(self.caption)}</span>' if self.caption else ""
        return (
            f'<article class="row" data-pq="{"" if self.pq is None else self.pq}" '
            f'data-order="{number}" data-name="{name}">'
            f'<header><span class="name">{name}</span>{pq}{caption}</header>'
            f'<div class="panels">{figures}</div></article>'
        )


def encode_image(picture: np.ndarray, max_side: int = 480) -> str:
    """A ``data:`` URL of an RGB picture (PNG where that is the smaller, otherwise JPEG); empty for
    an empty picture.
    """
    picture = to_rgb(picture)
    if picture.size == 0:
        return ""
    scale = max_side / max(picture.shape[:2])
    if scale < 1:
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    png = cv2.imencode(".png", bgr)[1].tobytes()
    kind, data = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


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
        minutes, seconds = divmod(round(number), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min"
        return (
            f"{minutes} min {seconds} s"
            if minutes
            else (f"{number:.1f} s" if number < 10 else f"{seconds} s")
        )
    if key.endswith("bytes"):
        return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    return f"{number:.1f}" if abs(number) >= 1 or number == 0 else f"{number:.4g}"


def _cards(summary: Mapping[str, Any]) -> str:
    cards = [
        f'<div class="card{" lead" if key == "PQ" else ""}"><dt>{html.escape(name)}</dt>'
        f"<dd>{html.escape(format_value(key, summary[key]))}</dd></div>"
        for key, name in HEADLINES.items()
        if key in summary
    ]
    return f'<dl class="cards">{"".join(cards)}</dl>' if cards else ""


def _tables(summary: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in summary.items() if k not in HEADLINES and not isinstance(v, Mapping)}
    groups = [("More figures", plain)] if plain else []
    groups += [(str(k), dict(v)) for k, v in summary.items() if isinstance(v, Mapping) and v]
    out = []
    for name, values in groups:
        lines = "".join(
            f'<tr><th scope="row">{html.escape(str(k))}</th>'
            f"<td>{html.escape(format_value(str(k), v))}</td></tr>"
            for k, v in values.items()
        )
        out.append(f"<section><h2>{html.escape(name)}</h2><table>{lines}</table></section>")
    return f'<div class="tables">{"".join(out)}</div>' if out else ""


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    charts = "".join(
        f'<figure class="chart"><figcaption>{html.escape(name)}</figcaption>'
        f"{curve_svg(name, values)}</figure>"
        for name, values in curves.items()
    )
    return f'<section><h2>Curves</h2><div class="charts">{charts}</div></section>' if charts else ""


def _legend(metadata: Any) -> str:
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
    note = (
        "Round: things, whose instances vary the lightness. Square: stuff. "
        "Hatched pixels have no label."
    )
    return (
        f'<section><h2>Classes</h2><ul class="legend">{"".join(chips)}</ul>'
        f'<p class="note">{note}</p></section>'
    )


def _gallery(rows: Sequence[_Row]) -> str:
    if not rows:
        return '<section><h2>Images</h2><p class="note">No images were given.</p></section>'
    buttons = ""
    if any(row.pq is not None for row in rows):
        buttons += (
            '<button type="button" data-sort="worst" aria-pressed="true">Worst PQ first</button>'
        )
        buttons += (
            '<button type="button" data-sort="best" aria-pressed="false">Best PQ first</button>'
        )
    buttons += '<button type="button" data-sort="name" aria-pressed="false">File name</button>'
    articles = "\n".join(row.html(number) for number, row in enumerate(rows))
    return (
        f'<section><h2>Images <small>{len(rows)}</small></h2><nav class="sort">{buttons}</nav>\n'
        f'<div id="rows">\n{articles}\n</div></section>'
    )


def _write_atomically(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path

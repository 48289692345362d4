"""Text on pictures: any Unicode name the font knows, a legend strip, padding to a common size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fdd.visualization.palette import Palette

#: A text, its left and top, its height in pixels, and its colour.
Text = tuple[str, tuple[float, float], int, tuple[int, int, int]]


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        # OpenCV's own fonts have ASCII only; Matplotlib, which Detectron2 needs anyway, ships
        # DejaVu.
        import matplotlib

        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        return ImageFont.truetype(str(path), size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def text_height(height: int, width: int) -> int:
    """Of names in a picture of this size, in pixels."""
    return int(np.clip(round((height * width) ** 0.5 / 32), 11, 28))


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of one line of text; the height is the same for all
    letters.
    """
    font = _font(size)
    return round(font.getlength(text)), round(size * 1.25)


def shorten(text: str, size: int, width: int) -> str:
    """Cut ``text`` in the middle until it fits ``width`` pixels (file names differ at both
    ends).
    """
    if text_size(text, size)[0] <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        short = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
        if text_size(short, size)[0] <= width:
            return short
    return "…"


def draw_texts(picture: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    """Write the texts onto a copy of an RGB picture."""
    if not texts or picture.size == 0:
        return picture.copy()
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for text, (left, top), size, color in texts:
        pen.text((left, top), text.replace("\n", " "), fill=color, font=_font(size))
    return np.array(canvas)


def legend_strip(
    palette: Palette, class_ids: Sequence[int], width: int, *, size: int = 14
) -> np.ndarray:
    """Swatches and names of some classes, wrapped to ``width``.

    Things have a disc and stuff a square, as in :func:`fdd.visualization.draw_points`.

    Returns:
        uint8 ``(h, width, 3)``; ``h`` is 0 without classes.
    """
    line, gap = round(size * 1.7), round(size * 0.6)
    places: list[tuple[int, int, int]] = []
    x, y = gap, 0
    for k in class_ids:
        step = size + gap // 2 + text_size(palette.names[k], size)[0] + 2 * gap
        if x + step > width and x > gap:
            x, y = gap, y + line
        places.append((k, x, y))
        x += step
    strip = np.full((y + line if places else 0, width, 3), 255, dtype=np.uint8)
    if not places or width == 0:
        return strip
    canvas = Image.fromarray(strip)
    pen = ImageDraw.Draw(canvas)
    ink = (30, 30, 30)
    for k, x, y in places:
        top = y + (line - size) // 2
        swatch = pen.ellipse if palette.isthing[k] else pen.rectangle
        swatch(
            (x, top, x + size - 1, top + size - 1),
            fill=tuple(palette.colors[k].tolist()),
            outline=ink,
        )
        pen.text(
            (x + size + gap // 2, y + (line - round(size * 1.25)) // 2),
            palette.names[k],
            ink,
            _font(size),
        )
    return np.array(canvas)

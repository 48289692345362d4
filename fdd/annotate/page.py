"""The document of the page, and what it is told: the set, and images with labels, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import FileSystemLoader

import fdd
from fdd.annotate.live import LiveLabel
from fdd.annotate.store import ImageState
from fdd.annotate.suggest import Suggestion
from fdd.points.void import stroke_record
from fdd.visualization.palette import Palette, instance_colors
from fdd.visualization.report import TEMPLATES as REPORT_TEMPLATES

__all__ = [
    "FOLDER",
    "STATIC",
    "SegmentColors",
    "label_record",
    "render_page",
    "state_record",
    "suggestion_records",
]

FOLDER = Path(__file__).parent / "templates"
#: Files that the page asks for, and their MIME types.
STATIC = {
    path.name: {".css": "text/css", ".js": "text/javascript"}[path.suffix]
    for path in sorted(FOLDER.iterdir())
    if path.suffix in (".css", ".js")
}
_PAGE = REPORT_TEMPLATES.overlay(loader=FileSystemLoader(FOLDER))
# Labels are large areas of one colour: more effort makes them hardly smaller, and every click wait.
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class Key:
    """A key of the page, or several, and what it does."""

    keys: tuple[str, ...]
    what: str


#: The keys, by what they are about, as the page's help lists them.
KEYS: dict[str, tuple[Key, ...]] = {
    "Points": (
        Key(("Click", "Enter"), "put a point: of the selected segment, or of a new thing"),
        Key(("1–9",), "choose a class; the next point begins a new thing of it"),
        Key(("N", "Esc"), "new thing: nothing is selected"),
        Key(("T",), "one point a thing: every click is a new thing"),
        Key(("Drag", "Alt+Arrows"), "move a point"),
        Key(("Delete",), "delete the selected point; without one, the selected segment"),
        Key(("Ctrl+Z", "Ctrl+Y"), "undo, redo"),
        Key(("V",), "void brush: drag paints over what is to be ignored; Shift removes strokes"),
    ),
    "Segments": (
        Key(("[", "]"), "select the previous, the next segment"),
        Key(("Alt+Click", "E"), "select what is under the pointer, without a new point"),
        Key(("Shift+1–9",), "change the class of the selected segment"),
        Key(("M",), "merge: then choose the segment that it joins"),
        Key(("Shift+Click", "S"), "select several points; split them off as a new thing"),
    ),
    "View": (
        Key(("Wheel", "+", "−"), "zoom"),
        Key(("0",), "fit the image into the window"),
        Key(("Space+Drag", "Middle button"), "pan"),
        Key(("L", "O", "U", "P"), "show or hide labels, outlines, unsure places, points"),
        Key(("H", "G"), "show hints where to click next; go to the next one"),
        Key(("Arrows",), "move the cross of the picture (Shift: by single pixels)"),
    ),
    "Images": (
        Key(("Page Up", "Page Down"), "previous, next image"),
        Key(("/", "C"), "search images, classes"),
        Key(("I", "D"), "show or hide the list of images, the details"),
        Key(("Ctrl+S",), "write the points file"),
        Key(("?",), "these keys"),
    ),
}


def render_page(title: str) -> str:
    """The document, without anything of the data set but its name."""
    return _PAGE.get_template("page.html").render(title=title, version=fdd.__version__, groups=KEYS)


class SegmentColors:
    """Colours of an image's segments that stay as they are while others come and go.

    A segment's colour depends on its class, and on how many of the class were met before it.
    """

    def __init__(self, palette: Palette, contiguous: dict[int, int]) -> None:
        """
        Args:
            palette: of the classes.
            contiguous: category id -> place in the palette.
        """
        self._palette, self._contiguous = palette, contiguous
        self._met: dict[tuple[int, int], dict[int, int]] = {}  # (image, class) -> segment -> rank
        self._shades: dict[int, np.ndarray] = {}

    def of(self, state: ImageState) -> list[list[int]]:
        """RGB of each segment."""
        colors = []
        for segment in state.segments:
            k = self._contiguous[segment.category_id]
            met = self._met.setdefault((state.index, k), {})
            rank = met.setdefault(segment.id, len(met)) if self._palette.isthing[k] else 0
            colors.append(self._shade(k, rank))
        return colors

    def _shade(self, k: int, rank: int) -> list[int]:
        shades = self._shades.get(k)
        if shades is None or rank >= len(shades):
            count = max(64, 2 * (rank + 1))
            shades = self._shades[k] = instance_colors(np.full(count, k), self._palette)
        return shades[rank].tolist()


def state_record(state: ImageState, colors: SegmentColors) -> dict[str, Any]:
    """What is said of an image: ``index``, ``revision``, ``can_undo``, ``can_redo``, ``segments``
    with ``id``, ``category_id``, ``points`` and ``color``, and ``void``, strokes with ``width`` and
    ``line``."""
    return {
        "index": state.index,
        "revision": state.revision,
        "can_undo": state.can_undo,
        "can_redo": state.can_redo,
        "segments": [
            {
                "id": segment.id,
                "category_id": segment.category_id,
                "points": [[x, y] for x, y in segment.points],
                "color": color,
            }
            for segment, color in zip(state.segments, colors.of(state), strict=True)
        ],
        "void": list(map(stroke_record, state.void)),
    }


def label_record(label: LiveLabel) -> dict[str, Any]:
    """A label: ``png``, whose R + 256 G + 65536 B is 1 + the position among the segments (0: none);
    ``confidence``, a grey PNG, or None; both base64; ``maker`` and ``milliseconds``."""
    index = (label.label + 1).astype(np.uint32)
    # OpenCV writes the last channel first.
    channels = [index >> 16 & 255, index >> 8 & 255, index & 255]
    confidence = None if label.confidence is None else _png(label.confidence)
    return {
        "png": _png(np.stack(channels, -1).astype(np.uint8)),
        "confidence": confidence,
        "maker": label.maker,
        "milliseconds": round(label.milliseconds, 1),
    }


def suggestion_records(suggestions: Sequence[Suggestion]) -> list[dict[str, Any]]:
    """Where to click next: ``x``, ``y``, ``reason``, ``kind``."""
    return [
        {"x": float(s.x), "y": float(s.y), "reason": s.reason, "kind": s.kind} for s in suggestions
    ]


def _png(pixels: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", pixels, _FAST)[1].tobytes()).decode("ascii")

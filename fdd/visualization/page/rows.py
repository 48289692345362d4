"""Rows of the gallery: one image's text and encoded pictures."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from fdd.visualization.draw import to_rgb

_JPEG_QUALITY, _WEBP_QUALITY = 88, 78
# Flat colours: without loss they are the smaller, too.
_WEBP_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]
_PNG_SMALL = [cv2.IMWRITE_PNG_COMPRESSION, 9]


class Row:
    """One image's share of the page: text and encoded pictures only.

    Args:
        sample: see :func:`fdd.visualization.write_report`.
        max_side: larger pictures are reduced to this many pixels.

    Panels with transparency lie over the sample's ``image``, which is then on the page once.

    Attributes:
        name: of the file. pq: percent, or None. score: what the row is sorted by, or None.
        size: of the pictures on the page, in bytes.
    """

    def __init__(self, sample: Mapping[str, Any], max_side: int) -> None:
        self.name = str(sample.get("file_name", ""))
        self.pq = _finite(sample.get("pq"))
        self.score = self.pq if self.pq is not None else _finite(sample.get("score"))
        self.caption = str(sample.get("caption", ""))
        self.figures = {str(k): str(v) for k, v in dict(sample.get("figures", {})).items()}
        self.warnings = [str(text) for text in sample.get("warnings", ())]
        self.values = _numbers(sample.get("values", {}))
        self.classes = _numbers(sample.get("classes", {}))
        self.panels = [
            (str(title), picture_tag(picture, max_side, f"{title}, {self.name}"))
            for title, picture in dict(sample.get("panels", {})).items()
        ]
        below = sample.get("image")
        self.image = "" if below is None else encode_image(below, max_side, webp=True)
        self.size = len(self.image) + sum(len(tag) for _, tag in self.panels)

    def html(self, number: int) -> str:
        """The row as an ``article``; its data are what the script sorts and filters by."""
        data = {
            "order": number,
            "name": self.name,
            "score": "" if self.score is None else self.score,
            "values": _json(self.values),
            "classes": _json(self.classes),
        }
        attributes = " ".join(
            f'data-{k}="{html.escape(str(v))}"' for k, v in data.items() if v != "{}"
        )
        below = f' style="--image:url({self.image})"' if self.image else ""
        return (
            f'<article class="row" tabindex="-1" {attributes}><header>{self._head()}</header>'
            f'<div class="panels"{below}><noscript>{self._figures()}</noscript></div></article>'
        )

    def _head(self) -> str:
        parts = [f'<h3 class="name">{html.escape(self.name)}</h3>']
        if self.pq is not None and not self.figures:
            parts.append(f'<span class="pq">PQ {self.pq:.1f}</span>')
        for n, (key, value) in enumerate(self.figures.items()):
            style = "pq" if n == 0 else "figure"
            parts.append(
                f'<span class="{style}">{html.escape(key)} <b>{html.escape(value)}</b></span>'
            )
        if self.classes:
            parts.append('<span class="mine"></span>')
        if self.caption:
            parts.append(f'<span class="note">{html.escape(self.caption)}</span>')
        parts += [f'<span class="warn">{html.escape(text)}</span>' for text in self.warnings]
        return "".join(parts)

    def _figures(self) -> str:
        return "".join(
            f'<figure><button type="button" class="shot" title="Enlarge">{tag}</button>'
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
            for title, tag in self.panels
            if tag
        )


def picture_tag(picture: np.ndarray, max_side: int, alt: str) -> str:
    """An ``img`` with the picture inside, RGB or RGBA; empty for an empty picture."""
    picture = reduce(picture if is_layer(picture) else to_rgb(picture), max_side)
    if picture.size == 0:
        return ""
    height, width = picture.shape[:2]
    kind = ' class="layer"' if is_layer(picture) else ""
    return (
        f'<img{kind} loading="lazy" decoding="async" width="{width}" height="{height}" '
        f'src="{encode_image(picture, max_side, webp=True)}" alt="{html.escape(alt)}">'
    )


def encode_image(picture: np.ndarray, max_side: int = 480, *, webp: bool = False) -> str:
    """A ``data:`` URL of an RGB picture (PNG where that is the smaller, otherwise JPEG), or of one
    with transparency (without loss); empty for an empty picture.

    Args:
        picture: uint8 ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGBA, or ``(H, W)`` grey.
        max_side: larger pictures are reduced to this many pixels.
        webp: WebP, half the size of JPEG on textures, where this OpenCV writes it.
    """
    picture = reduce(picture if is_layer(picture) else to_rgb(picture), max_side)
    if picture.size == 0:
        return ""
    webp = webp and cv2.haveImageWriter(".webp")
    if is_layer(picture):
        kind, option = ("webp", _WEBP_LOSSLESS) if webp else ("png", _PNG_SMALL)
        bgra = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
        return _data_url(kind, cv2.imencode(f".{kind}", bgra, option)[1])
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    if webp:
        lossy, option = "webp", [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]
    else:
        lossy, option = "jpeg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    coded = {
        "png": cv2.imencode(".png", bgr)[1],
        lossy: cv2.imencode(f".{lossy}", bgr, option)[1],
    }
    kind = min(coded, key=lambda k: len(coded[k]))
    return _data_url(kind, coded[kind])


def is_layer(picture: np.ndarray) -> bool:
    """Whether a picture has transparency."""
    return picture.ndim == 3 and picture.shape[2] == 4


def _data_url(kind: str, content: np.ndarray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode('ascii')}"


def reduce(picture: np.ndarray, max_side: int) -> np.ndarray:
    """The picture, RGB or RGBA, with its longer side no more than ``max_side`` pixels."""
    height, width = picture.shape[:2]
    scale = max_side / max(height, width, 1)
    if scale >= 1 or picture.size == 0:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if not is_layer(picture):
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    # Colours count as far as they are seen, or rims fade into what is not there.
    opacity = picture[:, :, 3:].astype(np.float32)
    seen = np.concatenate([picture[:, :, :3] * opacity, opacity], 2)
    small = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    colors = small[:, :, :3] / np.maximum(small[:, :, 3:], 1e-3)
    return np.round(np.concatenate([colors, small[:, :, 3:]], 2)).clip(0, 255).astype(np.uint8)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _numbers(values: Mapping[Any, Any]) -> dict[str, float | None]:
    """Rounded for the page: four digits behind the point are none that anybody sees."""
    found = {str(k): _finite(v) for k, v in dict(values).items()}
    return {k: None if v is None else round(v, 4) for k, v in found.items()}


def _json(values: Mapping[str, float | None]) -> str:
    return json.dumps(values, separators=(",", ":"))

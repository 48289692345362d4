"""Colours of classes: what a name suggests, else colours that are easily told apart. Pure numpy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fdd.points.structures import is_integer

__all__ = ["class_colors", "from_oklab", "read_color", "to_oklab"]

# What people expect a class to look like, by the words of its name.
_SUGGESTED: Mapping[str, tuple[int, int, int]] = {
    "sky": (135, 190, 235),
    "cloud": (205, 220, 232),
    "grass": (110, 175, 70),
    "tree": (45, 110, 50),
    "plant": (85, 150, 75),
    "vegetation": (70, 135, 60),
    "leaf": (95, 165, 55),
    "leaves": (95, 165, 55),
    "bush": (75, 120, 55),
    "crop": (150, 185, 80),
    "flower": (220, 110, 170),
    "water": (45, 110, 190),
    "sea": (30, 95, 165),
    "river": (60, 130, 200),
    "lake": (50, 120, 185),
    "snow": (228, 238, 245),
    "ice": (195, 225, 238),
    "sand": (222, 198, 140),
    "beach": (222, 198, 140),
    "soil": (125, 90, 60),
    "dirt": (140, 105, 75),
    "mud": (110, 85, 60),
    "ground": (150, 130, 110),
    "floor": (175, 150, 125),
    "rock": (125, 120, 115),
    "stone": (140, 135, 128),
    "gravel": (165, 158, 148),
    "mountain": (115, 105, 110),
    "road": (105, 100, 112),
    "street": (105, 100, 112),
    "asphalt": (90, 88, 96),
    "pavement": (165, 160, 165),
    "sidewalk": (165, 160, 165),
    "building": (170, 110, 90),
    "house": (180, 120, 95),
    "facade": (190, 150, 120),
    "wall": (195, 175, 150),
    "roof": (150, 75, 65),
    "brick": (165, 85, 65),
    "wood": (160, 115, 65),
    "window": (90, 160, 200),
    "glass": (150, 205, 215),
    "ceiling": (210, 205, 200),
    "background": (85, 85, 92),
    "person": (235, 150, 115),
    "people": (235, 150, 115),
    "face": (240, 180, 150),
    "skin": (240, 180, 150),
    "banana": (245, 215, 60),
    "orange": (245, 145, 30),
    "apple": (205, 50, 50),
    "carrot": (235, 120, 40),
    "broccoli": (60, 140, 60),
    "tomato": (220, 55, 45),
    "strawberry": (215, 45, 70),
    "blood": (170, 30, 40),
    "fire": (240, 95, 30),
}
# Okabe and Ito's set, which stays apart under the common colour-vision deficiencies.
_SAFE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (120, 94, 70),
)
_GOLDEN = 0.6180339887498949
# Distance in OKLab at which two colours are not mistaken for each other; for suggested ones, which
# should stay what they are, the least that can be told apart side by side. And the number of
# candidates that are looked at for it before the best of them is taken.
_APART, _SUGGESTED_APART, _CANDIDATES = 0.09, 0.05, 48

# Björn Ottosson's OKLab: equal steps of its lightness look equally large, which HSV's value does
# not.
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def read_color(value: Any) -> tuple[int, int, int] | None:
    """RGB in [0, 255] of ``"#1e90ff"`` or ``[30, 144, 255]``; None for anything else."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value.strip()):
        red, green, blue = bytes.fromhex(value.strip()[1:])
        return red, green, blue
    channels = list(value) if isinstance(value, (list, tuple)) else []
    if len(channels) == 3 and all(is_integer(v) and 0 <= v <= 255 for v in channels):
        return channels[0], channels[1], channels[2]
    return None


def class_colors(
    names: Sequence[str], chosen: Mapping[str, Sequence[int]] | None = None
) -> np.ndarray:
    """A colour for each class.

    A chosen colour is kept as it is. Of the others, first those whose names suggest
    one (sky, grass, road, ...) get it, then the rest get colour-blind-safe ones, as long as these
    are clearly different from all that are taken; a suggestion that is not is made lighter or
    darker.

    Args:
        names: K class names, in contiguous order.
        chosen: name -> RGB in [0, 255], of some of them.

    Returns:
        uint8 ``(K, 3)``, RGB. No two equal ones, unless they were chosen so.
    """
    chosen = chosen or {}
    colors: list[np.ndarray | None] = [
        np.asarray(chosen[name], np.uint8) if name in chosen else None for name in names
    ]
    taken = [to_oklab(color) for color in colors if color is not None]

    def take(k: int, candidates: Iterable[np.ndarray], apart: float) -> None:
        most = -1.0
        for candidate in candidates:
            lab = to_oklab(candidate)
            gap = float(np.linalg.norm(lab - np.stack(taken), axis=1).min()) if taken else np.inf
            if gap > most:
                colors[k], most, best = candidate, gap, lab
            if gap >= apart:
                break
        taken.append(best)

    for k, name in enumerate(names):
        suggested = _suggestion(name)
        if colors[k] is None and suggested is not None:
            take(k, _shades(suggested), _SUGGESTED_APART)
    position = 0
    for k in range(len(names)):
        if colors[k] is None:
            take(k, (_numbered(position + n) for n in range(_CANDIDATES)), _APART)
            position += 1
    return np.array(colors, np.uint8).reshape(len(names), 3)


def _suggestion(name: str) -> np.ndarray | None:
    """The colour of the first word of a name that suggests one; plurals count."""
    for word in re.findall(r"[^\W\d_]+", name.casefold()):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in _SUGGESTED:
                return np.array(_SUGGESTED[form], np.uint8)
    return None


def _shades(color: np.ndarray) -> Iterator[np.ndarray]:
    """A colour, and lighter and darker ones of its hue."""
    yield color
    lightness, a, b = to_oklab(color)
    for step in (sign * 0.06 * n for n in range(1, 9) for sign in (1, -1)):
        if 0.25 <= lightness + step <= 0.96:
            yield from_oklab(np.array([lightness + step, a, b]))


def _numbered(k: int) -> np.ndarray:
    """Eight colour-blind-safe colours, then hues a golden angle apart at three lightnesses."""
    if k < len(_SAFE):
        return np.array(_SAFE[k], np.uint8)
    hue = 2 * np.pi * ((k * _GOLDEN) % 1.0)
    lightness = (0.60, 0.78, 0.45)[k % 3]
    return from_oklab(np.array([lightness, 0.13 * np.cos(hue), 0.13 * np.sin(hue)]))


def to_oklab(color: np.ndarray) -> np.ndarray:
    """(3,) sRGB in [0, 255] -> (3,) OKLab: lightness in [0, 1], a, b."""
    srgb = np.asarray(color, dtype=np.float64) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return _LMS_TO_LAB @ np.cbrt(_RGB_TO_LMS @ linear)


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """(3,) OKLab -> (3,) uint8 sRGB; what lies outside of it is clipped."""
    lms = np.linalg.solve(_LMS_TO_LAB, lab) ** 3
    linear = np.clip(np.linalg.solve(_RGB_TO_LMS, lms), 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255.0).astype(np.uint8)

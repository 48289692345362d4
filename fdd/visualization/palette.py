"""Class names and colours, and the colours of instances within a class. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdd.points.class_colors import class_colors, from_oklab, to_oklab

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class Palette:
    """What drawing needs to know of the classes, in contiguous order.

    Attributes:
        names: K class names.
        colors: uint8 ``(K, 3)``, RGB.
        isthing: bool ``(K,)``.
    """

    names: tuple[str, ...]
    colors: np.ndarray
    isthing: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_categories(cls, categories: Sequence[Mapping[str, Any]]) -> Palette:
        """From COCO panoptic categories in contiguous order; for a missing ``color`` see
        :func:`fdd.points.class_colors.class_colors`.
        """
        names = tuple(str(c.get("name", f"class {k}")) for k, c in enumerate(categories))
        given = {
            name: category["color"]
            for name, category in zip(names, categories, strict=True)
            if category.get("color") is not None
        }
        colors = class_colors(names, given)
        isthing = np.array([bool(c.get("isthing", True)) for c in categories], dtype=bool)
        return cls(names, colors, isthing)

    @classmethod
    def generic(cls, num_things: int, num_stuff: int = 0) -> Palette:
        """Names such as ``thing 3`` for a model whose data set is not on disk."""
        names = [f"thing {k}" for k in range(num_things)] + [f"stuff {k}" for k in range(num_stuff)]
        categories = [{"name": n, "isthing": k < num_things} for k, n in enumerate(names)]
        return cls.from_categories(categories)


def as_palette(metadata: Any) -> Palette:
    """A :class:`Palette` from one, from a list of category dicts, or from a Detectron2
    ``Metadata``.

    Of a ``Metadata``, ``categories`` is read first; failing that ``thing_classes`` and
    ``stuff_classes`` (where they are equal, as in FDD's own sets, both list all classes; otherwise
    things are followed by the stuff).

    Raises:
        ValueError: where none of these is there.
    """
    if isinstance(metadata, Palette):
        return metadata
    if isinstance(metadata, (list, tuple)):
        return Palette.from_categories(metadata)
    get = metadata.get
    categories = get("categories", None)
    if categories is not None:
        return Palette.from_categories(list(categories))
    things, stuff = list(get("thing_classes", None) or []), list(get("stuff_classes", None) or [])
    if not things and not stuff:
        raise ValueError(
            f"no classes to draw with in the metadata of {get('name', 'this data set')!r}: "
            "expected 'categories', or 'thing_classes' and 'stuff_classes'. Is the set registered, "
            "and on disk?"
        )
    colors = list(get("thing_colors", None) or [None] * len(things))
    if things == stuff:
        ids = set((get("thing_dataset_id_to_contiguous_id", None) or {}).values())
        isthing = [not ids or k in ids for k in range(len(things))]
        names = things
    else:
        names = things + stuff
        isthing = [True] * len(things) + [False] * len(stuff)
        colors += list(get("stuff_colors", None) or [None] * len(stuff))
    return Palette.from_categories(
        [
            {"name": n, "isthing": t, "color": c}
            for n, t, c in zip(names, isthing, colors, strict=True)
        ]
    )


def instance_colors(classes: np.ndarray, palette: Palette) -> np.ndarray:
    """One colour for each instance: its class's colour, with the lightness varied inside a class.

    Lightness is what every kind of colour vision tells apart, so it carries most of the difference;
    the hue turns by no more than 30 degrees, so that the class stays recognisable. The colour
    depends on the class and on the rank among the instances of that class only, and no two
    instances of an image get the same one.

    Args:
        classes: ints ``(N,)``, contiguous class ids.
        palette: the classes.

    Returns:
        uint8 ``(N, 3)``, RGB.

    Raises:
        ValueError: for a class id outside of the palette.
    """
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    if classes.size and (classes.min() < 0 or classes.max() >= len(palette)):
        raise ValueError(
            f"class ids span {classes.min()}..{classes.max()}, but the palette has "
            f"{len(palette)} classes (0..{len(palette) - 1}); ids must be contiguous, not the data "
            "set's own"
        )
    out = np.zeros((len(classes), 3), dtype=np.uint8)
    ranks: dict[int, int] = {}
    taken: set[tuple[int, ...]] = set()
    for n, k in enumerate(classes.tolist()):
        rank = ranks.get(k, 0)
        while True:
            color = tuple(int(v) for v in _shade(palette.colors[k], rank))
            rank += 1
            if color not in taken:
                break
        ranks[k] = rank
        taken.add(color)
        out[n] = color
    return out


def _shade(color: np.ndarray, rank: int) -> np.ndarray:
    """Variant number ``rank`` of a colour, uint8 ``(3,)``; 0 is the colour itself."""
    if rank == 0:
        return color
    lightness, a, b = to_oklab(color)
    low, high = 0.38, 0.90
    start = (lightness - low) / (high - low)
    # A golden-ratio walk: any few steps in a row lie far apart, and no position ever repeats.
    lightness = low + (high - low) * ((start + rank * _GOLDEN) % 1.0)
    turn = np.deg2rad(30.0) * (((rank * 0.7548776662) % 1.0) * 2.0 - 1.0)
    a, b = a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)
    return from_oklab(np.array([lightness, a, b]))


def text_color_on(color: np.ndarray | Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better on ``color``."""
    return (0, 0, 0) if to_oklab(np.asarray(color))[0] > 0.62 else (255, 255, 255)

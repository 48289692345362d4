"""Images that are too large for the network, in overlapping tiles whose instances are joined.

A tile is segmented as an image of its own. Where two tiles overlap, both have seen the same pixels:
two things of one class that share more than half of what either covers there (IoU above 0.5, as
where PQ matches segments) are the same one, and a segment of stuff is that of its class. The pixels
of an overlap go to the tile that sees farther around them, whole things excepted: one that the
other tile has not found is kept where most of it lies, or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TiledPredictor", "Tiling", "tile_starts"]

Segmented = tuple[np.ndarray, list[dict[str, Any]]]
# Rows of a large map that are renumbered at a time.
_ROWS = 256


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        side: of a tile, in pixels of the image.
        overlap: of two neighbours, in pixels, at least; at most half of a side.

    Raises:
        ValueError: out of range.
    """

    side: int
    overlap: int

    def __post_init__(self) -> None:
        if self.side < 32:
            raise ValueError(f"tiles of {self.side} px; expected at least 32")
        if not 0 <= self.overlap <= self.side // 2:
            raise ValueError(
                f"tiles of {self.side} px that overlap by {self.overlap}; expected 0 to "
                f"{self.side // 2}, half of a tile"
            )


def tile_starts(length: int, tiling: Tiling) -> list[int]:
    """Where the tiles of an axis begin: evenly spread, the last one ends with the image.

    One tile of the whole length where it is no longer than a tile.
    """
    if length <= tiling.side:
        return [0]
    step = tiling.side - tiling.overlap
    count = -(-(length - tiling.overlap) // step)
    last = length - tiling.side
    return [round(n * last / (count - 1)) for n in range(count)]


class TiledPredictor:
    """A predictor of images of any size; see :class:`fdd.inference.predictor.Predictor`.

    Memory for the network is that of one tile. An image no larger than a tile is segmented as
    without tiles.
    """

    def __init__(self, predict: Callable[[np.ndarray], Segmented], tiling: Tiling) -> None:
        """
        Args:
            predict: an image uint8 ``(H, W, 3)`` to segment ids ``(H, W)``, 0 void, and segments.
            tiling: how images are cut.
        """
        self.predict, self.tiling = predict, tiling

    def __call__(self, image: np.ndarray) -> Segmented:
        """Segment one image.

        Returns:
            As the predictor: ids from 1 in the order of the scores, int32 where there are several
            tiles. The score of a joined segment is the mean of its parts', by their areas.
        """
        height, width = image.shape[:2]
        rows, columns = (tile_starts(n, self.tiling) for n in (height, width))
        if len(rows) == len(columns) == 1:
            return self.predict(image)
        canvas = _Canvas(height, width)
        for window, seen, owned in _windows(rows, columns, (height, width), self.tiling.side):
            ids, segments = self.predict(np.ascontiguousarray(image[window]))
            canvas.put(ids, segments, window, seen, owned)
        return canvas.result()


Window = tuple[slice, slice]


def _windows(
    rows: Sequence[int], columns: Sequence[int], size: tuple[int, int], side: int
) -> Iterator[tuple[Window, tuple[int, int], tuple[int, int]]]:
    """Each tile: where it is; how many of its upper rows and left columns were in tiles before; and
    from which of its rows and columns on its pixels are its own."""
    for r, top in enumerate(rows):
        for c, left in enumerate(columns):
            window = (
                slice(top, min(top + side, size[0])),
                slice(left, min(left + side, size[1])),
            )
            seen = (
                0 if r == 0 else rows[r - 1] + side - top,
                0 if c == 0 else columns[c - 1] + side - left,
            )
            yield window, seen, (seen[0] // 2, seen[1] // 2)


class _Canvas:
    """The map of the whole image, tile by tile."""

    def __init__(self, height: int, width: int) -> None:
        self.ids = np.zeros((height, width), np.int32)
        # Of each id of the map, 0 (void) first.
        self._category: list[int] = [-1]
        self._isthing: list[bool] = [False]
        self._score: list[float] = [0.0]  # sums, of scores by areas
        self._weight: list[float] = [0.0]
        self._area = np.zeros(1, np.int64)
        self._stuff: dict[int, int] = {}  # class -> id

    def put(
        self,
        local: np.ndarray,
        segments: Sequence[Mapping[str, Any]],
        window: Window,
        seen: tuple[int, int],
        owned: tuple[int, int],
    ) -> None:
        """Add a tile; arguments as :func:`_windows` has them."""
        before, known = self.ids[window], len(self._area)
        ids = [int(s["id"]) for s in segments]
        place_of = np.zeros(max([int(local.max(initial=0)), *ids]) + 1, np.int32)
        place_of[ids] = np.arange(1, len(ids) + 1)  # position among the segments, from 1
        tile = place_of[local]
        was, own = np.zeros((2, *tile.shape), bool)
        was[: seen[0]], was[:, : seen[1]] = True, True
        own[owned[0] :, owned[1] :] = True
        merged = self._match(before[was], tile[was], segments)
        things_before = np.array(self._isthing)
        things_here = np.array([False, *(bool(s["isthing"]) for s in segments)])
        # Those that only one side has found.
        alone_before, alone_here = things_before.copy(), things_here.copy()
        alone_before[list(merged.values())] = False
        alone_here[list(merged)] = False

        # Each of them is whole, where most of it lies on its own side or the other side does not
        # see all of it; or it goes.
        area, inside, unseen = (
            np.bincount(tile[part].ravel(), minlength=len(things_here))
            for part in (slice(None), own, ~was)
        )
        goes_here = alone_here & (2 * inside < area) & (unseen == 0)
        within, lost = (
            np.bincount(before[part].ravel(), minlength=known) for part in (slice(None), own)
        )
        in_sight = alone_before & (within == self._area) & (lost > 0)
        goes_before = in_sight & (2 * lost >= self._area)

        gone, free = goes_here[tile], goes_before[before]
        held = (alone_before & ~goes_before)[before]
        takes = own & ~gone & ~(held & ~things_here[tile])
        takes |= ~own & (alone_here & ~goes_here)[tile] & ~things_before[before]
        takes |= free
        place = self._places(segments, merged)
        changed = np.where(takes, place[tile], before)
        changed[free & gone] = 0
        self._recount(before, changed)
        for n, segment in enumerate(segments, start=1):
            self._score[place[n]] += float(segment["score"]) * float(area[n])
            self._weight[place[n]] += float(area[n])
        self.ids[window] = changed

    def _match(
        self, old: np.ndarray, new: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> dict[int, int]:
        """Position in the tile -> id of the map, of things that are the same.

        Args:
            old, new: (P,) ids of the map, and positions in the tile, where both have seen pixels.
        """
        size = len(segments) + 1
        key, count = np.unique(old.astype(np.int64) * size + new, return_counts=True)
        in_old = np.bincount(old, minlength=len(self._area))
        in_new = np.bincount(new, minlength=size)
        merged = {}
        for pair, both in zip(key.tolist(), count.tolist(), strict=True):
            a, b = divmod(pair, size)
            if not (a and b and self._isthing[a] and segments[b - 1]["isthing"]):
                continue
            same = self._category[a] == int(segments[b - 1]["category_id"])
            if same and 2 * both > in_old[a] + in_new[b] - both:  # of each, at most one other
                merged[b] = a
        return merged

    def _places(
        self, segments: Sequence[Mapping[str, Any]], merged: Mapping[int, int]
    ) -> np.ndarray:
        """Id in the map of each position in the tile; new ones are begun."""
        place = np.zeros(len(segments) + 1, np.int32)
        for n, segment in enumerate(segments, start=1):
            category = int(segment["category_id"])
            known = merged.get(n) if segment["isthing"] else self._stuff.get(category)
            if known is None:
                known = len(self._category)
                self._category.append(category)
                self._isthing.append(bool(segment["isthing"]))
                self._score.append(0.0)
                self._weight.append(0.0)
                if not segment["isthing"]:
                    self._stuff[category] = known
            place[n] = known
        return place

    def _recount(self, before: np.ndarray, after: np.ndarray) -> None:
        size = len(self._category)
        areas = np.zeros(size, np.int64)
        areas[: len(self._area)] = self._area
        areas -= np.bincount(before.ravel(), minlength=size)
        areas += np.bincount(after.ravel(), minlength=size)
        self._area = areas

    def result(self) -> Segmented:
        areas = self._area.copy()
        areas[0] = 0
        scores = [s / max(w, 1.0) for s, w in zip(self._score, self._weight, strict=True)]
        order = sorted(np.flatnonzero(areas).tolist(), key=lambda n: (-scores[n], n))
        number = np.zeros(len(areas), np.int32)
        number[order] = np.arange(1, len(order) + 1)
        for row in range(0, len(self.ids), _ROWS):  # in place: the map may be large
            part = self.ids[row : row + _ROWS]
            part[...] = number[part]
        segments = [
            {
                "id": int(number[n]),
                "category_id": self._category[n],
                "isthing": self._isthing[n],
                "score": scores[n],
                "area": int(areas[n]),
            }
            for n in order
        ]
        return self.ids, segments

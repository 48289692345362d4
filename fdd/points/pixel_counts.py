"""Pixel counts of label maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Label maps are long runs of one value, so counting runs beats counting pixels. Beyond one run in
# so many pixels the maps are noise, and numpy's hashing is faster.
_MIN_RUN = 8


@dataclass(frozen=True)
class Overlaps:
    """Which values of two maps meet, and on how many pixels; every pair once.

    Attributes:
        rows: int32 (K,), values of the first map.
        columns: int32 (K,), values of the second.
        counts: int64 (K,), pixels, all >= 1.
    """

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray

    def row_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct values of the first map and their pixel counts, as :func:`count_values`."""
        return _sum_by(self.rows, self.counts)

    def column_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Likewise of the second map."""
        return _sum_by(self.columns, self.counts)

    def table(self, row_ids: np.ndarray, column_ids: np.ndarray) -> np.ndarray:
        """The counts as a table.

        Args:
            row_ids: int64 (R,), distinct, without 0; all that the first map holds besides 0 (void).
            column_ids: int64 (C,), likewise of the second.

        Returns:
            int64 (R + 1, C + 1); row 0 and column 0 are void, the others in the order of the ids.
        """
        table = np.zeros((len(row_ids) + 1, len(column_ids) + 1), dtype=np.int64)
        table[_positions(row_ids, self.rows), _positions(column_ids, self.columns)] = self.counts
        return table


def count_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of an integer map and their pixel counts, in ascending order.

    Args:
        values: int32 (H, W).
    """
    return _count([values.reshape(-1)])


def count_overlaps(rows: np.ndarray, columns: np.ndarray) -> Overlaps:
    """Counts the pixels that the values of two maps share, in one pass over both.

    Args:
        rows: int32 (H, W), any values.
        columns: likewise.
    """
    keys, counts = _count([rows.reshape(-1), columns.reshape(-1)])
    low = (keys & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return Overlaps((keys >> 32).astype(np.int32), low, counts)


def _count(maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of values, or of pairs of values as :func:`_key` makes them one."""
    size = maps[0].size
    if size == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    changes = np.ones(size, dtype=bool)  # the first pixel starts a run
    np.not_equal(maps[0][1:], maps[0][:-1], out=changes[1:])
    for other in maps[1:]:
        changes[1:] |= other[1:] != other[:-1]
    starts = np.flatnonzero(changes)
    if len(starts) * _MIN_RUN > size:
        return np.unique(_key(maps), return_counts=True)
    lengths = np.empty(len(starts), dtype=np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = size - starts[-1]
    return _sum_by(_key([m[starts] for m in maps]), lengths)


def _sum_by(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys in ascending order, and the sums of their int64 values."""
    distinct, index = np.unique(keys, return_inverse=True)
    # Sums of whole numbers in float64 are exact far beyond any image.
    return distinct, np.bincount(index, weights=values, minlength=0).astype(np.int64)


def _key(maps: list[np.ndarray]) -> np.ndarray:
    """One int64 of one value, or of two: the first in the high 32 bits, signed as it is."""
    key = maps[0].astype(np.int64)
    for other in maps[1:]:
        key <<= 32
        key |= other.view(np.uint32)
    return key


def _positions(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """0 for void, 1 + index in ``ids`` otherwise."""
    order = np.argsort(ids)
    ordered = np.concatenate([[0], ids[order]])
    return np.concatenate([[0], order + 1])[np.searchsorted(ordered, values)]

"""Pixel counts of label maps."""

from __future__ import annotations

import numpy as np

# Label maps are long runs of one value, so counting runs beats counting pixels. Beyond one run in
# so many pixels the maps are noise, and numpy's hashing is faster.
_MIN_RUN = 8


def count_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of an integer map and their pixel counts, in ascending order.

    Args:
        values: int32 (H, W).
    """
    return _count([values.reshape(-1)])


def overlap_table(
    rows: np.ndarray, row_ids: np.ndarray, columns: np.ndarray, column_ids: np.ndarray
) -> np.ndarray:
    """Counts the pixels that two id maps share, segment by segment.

    Args:
        rows: int32 (H, W) of ids in 0 (void) or ``row_ids``.
        row_ids: int64 (R,), distinct, without 0.
        columns: as ``rows``, the other map.
        column_ids: int64 (C,), as ``row_ids``.

    Returns:
        int64 (R + 1, C + 1); row 0 and column 0 are void, the others in the order of the ids.
    """
    keys, counts = _count([rows.reshape(-1), columns.reshape(-1)])
    table = np.zeros((len(row_ids) + 1, len(column_ids) + 1), dtype=np.int64)
    table[_positions(row_ids, keys >> 31), _positions(column_ids, keys & (2**31 - 1))] = counts
    return table


def _count(maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of (combined) values; two maps make the key ``first * 2**31 + second``."""
    size = maps[0].size
    if size == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    changes = maps[0][1:] != maps[0][:-1]
    for other in maps[1:]:
        changes |= other[1:] != other[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    if len(starts) * _MIN_RUN > size:
        return np.unique(_key(maps), return_counts=True)
    lengths = np.diff(starts, append=size)
    keys, index = np.unique(_key([m[starts] for m in maps]), return_inverse=True)
    # Sums of whole numbers in float64 are exact far beyond any image.
    return keys, np.bincount(index, weights=lengths).astype(np.int64)


def _key(maps: list[np.ndarray]) -> np.ndarray:
    key = maps[0].astype(np.int64)
    for other in maps[1:]:
        key <<= 31
        key |= other
    return key


def _positions(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """0 for void, 1 + index in ``ids`` otherwise."""
    order = np.argsort(ids)
    ordered = np.concatenate([[0], ids[order]])
    return np.concatenate([[0], order + 1])[np.searchsorted(ordered, values)]

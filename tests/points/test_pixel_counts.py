from __future__ import annotations

import numpy as np
import pytest

from fdd.points.pixel_counts import count_overlaps, count_values


@pytest.mark.parametrize("patch", [1, 16])  # noise and long runs are counted in different ways
def test_counts_and_overlaps_equal_pixel_by_pixel_counts(patch):
    rng = np.random.default_rng(patch)
    row_ids, column_ids = np.array([2**24 - 1, 3, 70000]), np.array([9, 1])
    rows, columns = (
        np.kron(rng.choice([0, *ids], (5, 6)), np.ones((patch, patch))).astype(np.int32)
        for ids in (row_ids, column_ids)
    )
    values, counts = count_values(rows)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        v: int((rows == v).sum()) for v in np.unique(rows).tolist()
    }
    table = count_overlaps(rows, columns).table(row_ids, column_ids)
    expected = [
        [int(((rows == r) & (columns == c)).sum()) for c in (0, *column_ids)] for r in (0, *row_ids)
    ]
    assert table.tolist() == expected


@pytest.mark.parametrize("patch", [1, 16])
def test_overlaps_of_any_values(patch):
    """What a map must not hold is counted too, so that it can be refused."""
    rng = np.random.default_rng(patch)
    rows, columns = (
        np.kron(rng.choice(values, (5, 6)), np.ones((patch, patch))).astype(np.int32)
        for values in ([-1, 0, 7], [-(2**31), -1, 0, 2**31 - 1])
    )
    got = count_overlaps(rows, columns)
    found = {
        (r, c): n
        for r, c, n in zip(got.rows.tolist(), got.columns.tolist(), got.counts, strict=True)
    }
    assert len(found) == len(got.counts) and sum(found.values()) == rows.size
    for (r, c), n in found.items():
        assert n == ((rows == r) & (columns == c)).sum() > 0
    for side, (values, counts) in ((rows, got.row_counts()), (columns, got.column_counts())):
        expected, sizes = np.unique(side, return_counts=True)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(counts, sizes)


def test_empty_map():
    empty = np.zeros((0, 4), dtype=np.int32)
    values, counts = count_values(empty)
    assert values.size == counts.size == 0
    overlaps = count_overlaps(empty, empty)
    assert overlaps.table(np.array([5]), np.zeros(0, np.int64)).tolist() == [[0], [0]]
    assert overlaps.row_counts()[0].size == 0


def test_a_single_pixel():
    pixel = np.array([[3]], dtype=np.int32)
    assert [v.tolist() for v in count_values(pixel)] == [[3], [1]]
    table = count_overlaps(pixel, pixel * 0).table(np.array([3]), np.array([8]))
    assert table.tolist() == [[0, 0], [1, 0]]

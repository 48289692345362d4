from __future__ import annotations

import numpy as np
import pytest

from fdd.evaluation.counting import count_values, overlap_table


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
    table = overlap_table(rows, row_ids, columns, column_ids)
    expected = [
        [int(((rows == r) & (columns == c)).sum()) for c in (0, *column_ids)] for r in (0, *row_ids)
    ]
    assert table.tolist() == expected


def test_empty_map():
    values, counts = count_values(np.zeros((0, 4), dtype=np.int32))
    assert values.size == counts.size == 0

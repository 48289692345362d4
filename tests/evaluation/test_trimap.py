from __future__ import annotations

import numpy as np
import pytest
import torch

from fdd.evaluation import PseudoLabelEvaluator
from fdd.evaluation.ground_truth import SegmentTable
from fdd.evaluation.trimap import boundary_band, paired_segments, trimap_counts
from fdd.points.pixel_counts import count_overlaps


def segments(ids, classes, crowd=None):
    crowd = [False] * len(ids) if crowd is None else crowd
    return SegmentTable("", np.array(ids), np.array(classes), np.array(crowd, dtype=bool))


def pairs_of(true_map, truth, id_map, classes):
    ids = np.arange(1, len(classes) + 1)
    table = count_overlaps(true_map, id_map).table(truth.ids, ids)
    return paired_segments(table, truth, np.array(classes)).tolist()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_band_is_what_is_near_another_id(width):
    true_map = np.random.default_rng(3).integers(0, 2, (4, 5)).repeat(6, 0).repeat(5, 1)
    true_map = (true_map * (2**24 - 1)).astype(np.int32)
    true_map[7:9, 3] = 2**24 - 2  # a neighbour by one: no rounding may hide it
    rows, columns = np.indices(true_map.shape)
    band = boundary_band(true_map, width)
    for y, x in np.ndindex(*true_map.shape):
        near = (rows - y) ** 2 + (columns - x) ** 2 <= width**2
        assert band[y, x] == (true_map[near] != true_map[y, x]).any(), (y, x)


def test_a_map_of_one_segment_has_no_band():
    assert not boundary_band(np.full((5, 6), 7, dtype=np.int32), 4).any()


def test_pairs_are_mutual_of_one_class_and_never_crowd():
    true_map = np.array([[10, 10, 10, 11, 11, 11, 12, 13]], dtype=np.int32)
    truth = segments([10, 11, 12, 13], [0, 0, 1, 1], [False, False, False, True])
    # 1 has more of segment 10 than of 11; 2 alone is left to 11; 3 has the wrong class for 12.
    id_map = np.array([[1, 1, 1, 1, 2, 0, 3, 4]], dtype=np.int32)
    assert pairs_of(true_map, truth, id_map, [0, 0, 0, 1]) == [0, 1, -1, -1]
    # Two labels on one segment: the better one stands for it, the other for nothing.
    id_map = np.array([[1, 1, 2, 0, 0, 0, 0, 0]], dtype=np.int32)
    assert pairs_of(true_map, truth, id_map, [0, 0]) == [0, -1, -1, -1]
    # One label on two segments: it stands for one of them.
    id_map = np.array([[1, 1, 1, 1, 1, 0, 0, 0]], dtype=np.int32)
    assert pairs_of(true_map, truth, id_map, [0]) == [0, -1, -1, -1]
    assert pairs_of(true_map, truth, np.zeros_like(true_map), []) == [-1] * 4


def test_counts_by_hand():
    true_map = np.array([[5, 5, 5, 5, 9, 9, 9, 0]], dtype=np.int32)
    truth = segments([9, 5], [0, 0])
    band = boundary_band(true_map, 1)
    assert band.tolist() == [[False, False, False, True, True, False, True, True]]
    # The boundary of 5 is one pixel off; the last pixel is void and counts for nothing.
    id_map = np.array([[1, 1, 1, 2, 2, 2, 2, 2]], dtype=np.int32)
    found = trimap_counts(
        true_map, [band, band | True], truth, id_map, np.array([1, 2]), np.array([0, 0])
    )
    assert found.tolist() == [[2, 3], [6, 7]]
    crowd = segments([9, 5], [0, 0], [False, True])
    ids, classes = np.array([1, 2]), np.array([0, 0])
    assert trimap_counts(true_map, [band], crowd, id_map, ids, classes).tolist() == [[2, 2]]


def two_halves(panoptic_set):
    """A cat on the left, sky on the right, the boundary between columns 15 and 16."""
    rows = [[11] * 16 + [12] * 16] * 8
    panoptic_set.add("a", rows, [(11, 0), (12, 2)])
    return panoptic_set.save()


def evaluate(paths, edges):
    evaluator = PseudoLabelEvaluator(**paths)
    columns = np.arange(32)[None].repeat(8, 0)
    maps = {name: torch.as_tensor((columns >= at).astype(np.int32)) for name, at in edges.items()}
    output = {"pseudo_labels": maps, "classes": torch.tensor([0, 2])}
    evaluator.process([{"image_id": "a"}], [output])
    return evaluator.evaluate()["pseudo_labels"]


def test_evaluator_reports_how_far_boundaries_are_off(panoptic_set):
    results = evaluate(two_halves(panoptic_set), {"exact": 16, "one": 17, "three": 13})
    assert results["exact/trimap2"] == results["exact/trimap4"] == 100
    assert results["one/trimap2"] == 75 and results["one/trimap4"] == 87.5
    assert results["three/trimap2"] == 50 and results["three/trimap4"] == 62.5


def test_a_label_without_the_segment_is_wrong_near_it(panoptic_set):
    results = evaluate(two_halves(panoptic_set), {"none": 32})
    assert results["none/trimap2"] == 50

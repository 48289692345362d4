"""How closely labels follow the true boundaries: their accuracy in narrow bands (trimaps).

PQ hardly sees a boundary that is a few pixels off: a disc of 100 px that is 2 px too wide still has
an IoU of 0.92. So the pixels near the true boundaries are also counted alone, as in Kohli, Ladicky
and Torr, "Robust higher order potentials for enforcing label consistency", IJCV 2009.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fdd.evaluation.ground_truth import SegmentTable
from fdd.evaluation.panoptic_quality import segment_ious
from fdd.points.pixel_counts import count_overlaps

__all__ = ["WIDTHS", "boundary_band", "paired_segments", "trimap_counts"]

#: Of the bands, in pixels to either side of a boundary.
WIDTHS = (2, 4)


def boundary_band(true_map: np.ndarray, width: int) -> np.ndarray:
    """Pixels near a boundary of a map, on both sides of it.

    Args:
        true_map: int32 (H, W), segment ids from 0 to 2^24 - 1.
        width: px, at least 1.

    Returns:
        bool (H, W): the pixels with one of another id at most ``width`` px away (Euclidean, from
        centre to centre). The border of the image is not a boundary.
    """
    reach = np.arange(-width, width + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= width**2).astype(np.uint8)
    ids = true_map.astype(np.float32)  # exact: ids have 24 bits
    return cv2.dilate(ids, disk) != cv2.erode(ids, disk)


def paired_segments(
    table: np.ndarray, truth: SegmentTable, predicted_classes: np.ndarray
) -> np.ndarray:
    """Which predicted segment stands for each true one, whatever its IoU.

    A pair is two segments of one class each of which overlaps no other of that class better (in
    IoU). PQ's own pairs would not do: with an IoU of 0.49 a segment would be all wrong, and with
    0.51 all right.

    Args:
        table, truth, predicted_classes: as for ``match_segments``.

    Returns:
        int64 (S,): column of the predicted segment, -1 where there is none, and for crowd.
    """
    pairs = np.full(len(truth.ids), -1, dtype=np.int64)
    if not len(truth.ids) or not len(predicted_classes):
        return pairs
    comparable = (truth.classes[:, None] == predicted_classes[None]) & ~truth.crowd[:, None]
    iou = np.where(comparable, segment_ious(table), 0.0)
    rows, best = np.arange(len(iou)), iou.argmax(1)
    mutual = (iou[rows, best] > 0) & (iou.argmax(0)[best] == rows)
    pairs[mutual] = best[mutual]
    return pairs


def trimap_counts(
    true_map: np.ndarray,
    bands: Sequence[np.ndarray],
    truth: SegmentTable,
    id_map: np.ndarray,
    ids: np.ndarray,
    classes: np.ndarray,
) -> np.ndarray:
    """Pixels of the bands whose class and instance are right.

    Args:
        true_map: int32 (H, W), segment ids, 0 is void.
        bands: bool (H, W) each.
        truth: the segments of ``true_map``.
        id_map: int32 (H, W), ids of predicted segments, 0 is void.
        ids: int64 (P,), all that ``id_map`` holds besides 0.
        classes: int64 (P,), contiguous.

    Returns:
        int64 (len(bands), 2): pixels that are right (the predicted segment is the one that is
        paired with the true one), and all, without void and crowd.
    """
    table = count_overlaps(true_map, id_map).table(truth.ids, ids)
    pairs = paired_segments(table, truth, classes)
    found = pairs >= 0
    partner = dict(zip(truth.ids[found].tolist(), ids[pairs[found]].tolist(), strict=True))
    ignored = {0, *truth.ids[truth.crowd].tolist()}
    counts = np.zeros((len(bands), 2), dtype=np.int64)
    for row, band in zip(counts, bands, strict=True):
        overlaps = count_overlaps(true_map[band][None], id_map[band][None])
        columns = (overlaps.rows, overlaps.columns, overlaps.counts)
        for true_id, found_id, pixels in zip(*(c.tolist() for c in columns), strict=True):
            if true_id not in ignored:
                row += (pixels * (partner.get(true_id) == found_id), pixels)
    return counts

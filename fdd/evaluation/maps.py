"""Maps of one image: what comes in is checked, then scored."""

from __future__ import annotations

from typing import Any

import numpy as np

from fdd.evaluation.ground_truth import ImageId, PanopticGroundTruth
from fdd.evaluation.quality import ImageQuality, match_segments
from fdd.points.pixel_counts import count_overlaps


def score_map(
    truth: PanopticGroundTruth,
    image_id: ImageId,
    true_map: np.ndarray,
    id_map: np.ndarray,
    ids: np.ndarray,
    classes: np.ndarray,
) -> ImageQuality:
    """Checks two maps of an image against their segments, and scores one by the other.

    One pass over both counts all that the checks and the score need.

    Args:
        truth: the ground truth ``true_map`` was loaded from, for ``image_id``.
        true_map: int32 (H, W), of :meth:`PanopticGroundTruth.load`.
        id_map: int32 (H, W), any values.
        ids: int64 (P,), what ``id_map`` must hold besides 0 = void.
        classes: int64 (P,), contiguous.

    Raises:
        ValueError: the sizes differ, or the ids of a map and of its segments.
    """
    where, table = f"prediction for image {image_id!r}", truth[image_id]
    check_size(id_map, true_map, where, table.file_name)
    overlaps = count_overlaps(true_map, id_map)
    check_ids(overlaps.column_counts()[0], ids, where)
    truth.check(image_id, true_map, *overlaps.row_counts())
    return match_segments(overlaps.table(table.ids, ids), table, classes)


def to_id_map(values: Any, where: str) -> np.ndarray:
    """Copies an integer tensor or array (H, W) to int32 on the CPU."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: a map of shape {tuple(array.shape)} and type {array.dtype}; expected "
            "integers of shape (height, width)"
        )
    if array.dtype.itemsize > 4 and array.size:
        low, high = int(array.min()), int(array.max())
        if not (low >= -(2**31) and high < 2**31):
            raise ValueError(f"{where}: values from {low} to {high}; expected 32 bits")
    return array.astype(np.int32)  # a copy, which the caller may not change behind our back


def check_size(predicted: np.ndarray, true: np.ndarray, where: str, file_name: str) -> None:
    """Raises ValueError when two maps differ in size."""
    if predicted.shape != true.shape:
        raise ValueError(
            f"{where} is {predicted.shape[0]} x {predicted.shape[1]} (height x width), the ground "
            f"truth {file_name} {true.shape[0]} x {true.shape[1]}. Expected the original size."
        )


def check_ids(values: np.ndarray, ids: np.ndarray, where: str) -> None:
    """Raises ValueError unless a map's distinct ``values`` are ``ids``, with or without 0."""
    found, listed = {*values.tolist()} - {0}, {*ids.tolist()}
    unlisted, without = sorted(found - listed), sorted(listed - found)
    if unlisted:
        raise ValueError(
            f"{where}: the map has ids {unlisted[:5]} that segments_info does not list (0 is void)"
        )
    if without:
        raise ValueError(
            f"{where}: segments_info lists ids {without[:5]} that have no pixel in the map"
        )

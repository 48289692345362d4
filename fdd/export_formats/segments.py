"""From a map of instances to panoptic segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from fdd.points.coco_panoptic import MAX_SEGMENT_ID, describe_segments

__all__ = ["Instance", "SegmentedImage", "make_segments"]


@dataclass(frozen=True)
class Instance:
    """What an index of an instance map stands for.

    Attributes:
        id: of the point labels, from 1 on, unique in the image.
        category_id: of the label file.
        isthing: stuff of one category is one segment, whatever number of instances it has.
    """

    id: int
    category_id: int
    isthing: bool


@dataclass(frozen=True)
class SegmentedImage:
    """Panoptic labels of an image.

    Attributes:
        ids: (H, W) int32 segment ids, 0 for void.
        segments: of every segment a dict with ``id``, ``category_id``, ``area`` (pixels), ``bbox``
            (x, y, width, height in whole pixels), ``iscrowd`` (0) and, if there is a confidence,
            ``score`` (its mean over the segment).
        vanished: ids of the segments that were left without a pixel.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]
    vanished: list[int]


def make_segments(
    label: np.ndarray,
    instances: Sequence[Instance],
    confidence: np.ndarray | None = None,
    where: str = "this image",
) -> SegmentedImage:
    """Turn an instance map into panoptic segments, which keep the ids of the point labels.

    Stuff of one category becomes one segment, which has the id of the first instance of it: as
    :class:`fdd.evaluation.PseudoLabelEvaluator` sees the labels.

    Args:
        label: (H, W) integer index in ``instances``, -1 for void.
        instances: in the order of the indices.
        confidence: (H, W) float in [0, 1].
        where: what errors call the image.

    Raises:
        ValueError: an index without an instance, or an id that a panoptic PNG cannot hold.
    """
    if label.size and not (label.min() >= -1 and label.max() < len(instances)):
        raise ValueError(
            f"{where}: instances from {label.min()} to {label.max()}; expected -1 (void) to "
            f"{len(instances) - 1}"
        )
    for instance in instances:
        if not 0 < instance.id <= MAX_SEGMENT_ID:
            raise ValueError(
                f"{where}: segment id {instance.id} of the point labels; a panoptic PNG holds 1 to "
                f"{MAX_SEGMENT_ID}. Renumber the segment."
            )
    merged = _merge_stuff(instances)
    segment_ids = np.array([*(i.id for i in merged), 0], dtype=np.int32)
    ids = segment_ids[label]  # index -1 is the last entry
    segments_of = {i.id: i.category_id for i in merged}
    segments = describe_segments(ids, segments_of)
    left = {segment["id"]: segment for segment in segments}
    if confidence is not None:
        means = ndimage.mean(confidence, ids, list(left))
        for segment, mean in zip(segments, means, strict=True):
            segment["score"] = round(float(mean), 4)
    return SegmentedImage(ids, segments, [n for n in segments_of if n not in left])


def _merge_stuff(instances: Sequence[Instance]) -> list[Instance]:
    """The instance whose segment each one belongs to."""
    first: dict[int, Instance] = {}
    return [i if i.isthing else first.setdefault(i.category_id, i) for i in instances]

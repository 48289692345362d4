"""Full masks: what no label made from points can beat at this resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import BatchEvidence, Evidence
from fdd.modeling.label_makers.registry import register_label_maker

#: Of the masks that the mapper, or an evaluation, gives.
MASK_STRIDE = 4


def full_batch(evidence: BatchEvidence) -> Tensor:
    """Masks of a batch, (B, h4, w4) int64.

    Raises:
        ValueError: the batch holds no masks.
    """
    if evidence.points.dense_map is None:
        raise ValueError(
            "MODEL.FDD.PAN_SUPERVISION is 'full' but the batch holds no masks; train on a "
            "data set registered with panoptic masks"
        )
    if evidence.stride != MASK_STRIDE:
        raise ValueError(f"masks are at stride {MASK_STRIDE}, not {evidence.stride}")
    return evidence.points.dense_map


@register_label_maker(needs={"masks"}, batch_rule=full_batch, exact=True)
@torch.no_grad()
def full_labels(evidence: Evidence) -> Tensor:
    """The mask in the stride-4 cell of the input in which each canvas cell's centre lies."""
    masks = evidence.masks
    assert masks is not None
    rows, columns = (
        ((torch.arange(n) + 0.5) * step / (scale * MASK_STRIDE)).long().clamp(max=cells - 1)
        for n, step, scale, cells in zip(
            evidence.grid, evidence.stride, evidence.scale, masks.shape, strict=True
        )
    )
    picked = masks[rows.to(masks.device)][:, columns.to(masks.device)]
    return picked.to(evidence.coords.device, torch.int32)

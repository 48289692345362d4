"""Box forms and generalised IoU (Rezatofighi et al., 2019), safe for boxes without area."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.losses.common import full_precision

# Areas up to this count as none. Boxes are in pixels or normalised to 1, so no real box comes near
# it.
_NO_AREA = 1e-9


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) boxes as (centre x, centre y, width, height) to (x0, y0, x1, y1)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) boxes as (x0, y0, x1, y1) to (centre x, centre y, width, height)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 0 (with bounded gradient) where there is no ``whole``."""
    some = whole > _NO_AREA
    return torch.where(some, part, 0) / torch.where(some, whole, 1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes pair by pair.

    Args:
        a, b: (..., 4) float (x0, y0, x1, y1), broadcastable. Boxes with x1 < x0 or y1 < y0 have no
            area.

    Returns:
        (...) float in [-1, 1]; finite, with finite gradient, for any finite boxes.
    """
    a, b = full_precision(a), full_precision(b)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    union = area_a + area_b - shared
    return _ratio(shared, union) - _ratio(hull - union, hull)


def pairwise_generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of every box of ``a`` (..., Q, 4) with every box of ``b`` (..., G, 4): (...,
    Q, G)."""
    return generalized_iou(a[..., :, None, :], b[..., None, :, :])

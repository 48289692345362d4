"""Every cell belongs to the instance of the nearest point."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import Evidence, cell_centres
from fdd.modeling.label_makers.registry import register_label_maker


@register_label_maker()
@torch.no_grad()
def nearest_labels(evidence: Evidence) -> Tensor:
    """Instance of the point nearest (Euclidean, in canvas px) to each cell's centre.

    Between points at the same distance the first in the list wins. Without points the map is -1.
    """
    # float32 is exact for what decides ties: squared distances of (half-)integer coordinates.
    coords = evidence.coords.float()
    y, x = cell_centres(evidence.grid, evidence.stride, coords)
    best = coords.new_full(evidence.grid, torch.inf)
    labels = torch.full(evidence.grid, -1, dtype=torch.int32, device=coords.device)
    owner = evidence.index.to(torch.int32)
    for point, instance in zip(coords, owner, strict=True):
        distance = (y - point[1]).square()[:, None] + (x - point[0]).square()
        labels = torch.where(distance < best, instance, labels)
        best = torch.minimum(best, distance)
    return labels

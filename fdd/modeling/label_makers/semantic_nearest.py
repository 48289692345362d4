"""The semantic branch says which class, the nearest point of the class which instance."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import Evidence, argmax_on_canvas
from fdd.modeling.label_makers.nearest import nearest_labels
from fdd.modeling.label_makers.registry import register_label_maker


@register_label_maker(needs={"semantic"})
@torch.no_grad()
def semantic_nearest_labels(evidence: Evidence) -> Tensor:
    """Instance of the likeliest class whose point is nearest.

    The class of a cell is the argmax of the up-sampled logits over the classes that have a point.
    Among the things of this class the nearest point (Euclidean, in canvas px; the first in the list
    of equally near ones) decides; of stuff it is the first instance. Every cell of the image has a
    label; without points the map is -1.
    """
    assert evidence.semantic is not None
    point_class = evidence.classes[evidence.index]
    present = point_class.unique()
    logits = evidence.valid_maps(evidence.semantic)[present.to(evidence.semantic.device)]
    grid = evidence.valid_grid
    likeliest, _ = argmax_on_canvas(evidence, logits, grid, len(present))
    labels = torch.full_like(likeliest, -1)
    for channel, label in enumerate(present.tolist()):
        if label >= evidence.num_things:
            owner = (evidence.classes == label).int().argmax().to(labels)
        else:
            mine = point_class == label
            owner = nearest_labels(
                replace(
                    evidence, coords=evidence.coords[mine], index=evidence.index[mine], grid=grid
                )
            )
        labels = torch.where(likeliest == channel, owner, labels)
    return evidence.on_canvas(labels)

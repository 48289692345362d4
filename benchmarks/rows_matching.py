"""Matching of detection queries with things, all layers and images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.textbook.matching import LocationSettings, Targets, match_layer_by_layer
from fdd.modeling.panoptic_branch.matcher import Matches, assign, matching_cost

_LAYERS, _IMAGES, _QUERIES, _CLASSES = 6, 2, 300, 80
_SETTINGS = LocationSettings(class_weight=2, l1_weight=5, giou_weight=2, alpha=0.25, gamma=2)


def _boxes(*shape: int) -> Tensor:
    centre, side = 0.2 + 0.6 * torch.rand(*shape, 2), 0.02 + 0.3 * torch.rand(*shape, 2)
    return torch.cat((centre, side), -1)


def _case(things: int) -> Case:
    logits = torch.randn(_LAYERS, _IMAGES, _QUERIES, _CLASSES) - 2
    boxes = _boxes(_LAYERS, _IMAGES, _QUERIES)
    classes = torch.randint(_CLASSES, (_IMAGES, things))
    wanted = _boxes(_IMAGES, things)
    is_target = torch.ones(_IMAGES, things, dtype=torch.bool)

    def ours() -> Matches:
        cost = matching_cost(logits, boxes, classes, wanted, **_SETTINGS._asdict())
        return assign(cost, is_target, is_target.numpy())

    def peer() -> list[list[tuple[Tensor, Tensor]]]:
        return [
            match_layer_by_layer(
                logits[:, i], boxes[:, i], Targets(classes[i], wanted[i]), _SETTINGS
            )
            for i in range(_IMAGES)
        ]

    def check() -> float:
        table = ours().table
        for i, layers in enumerate(peer()):
            for layer, (rows, columns) in enumerate(layers):
                own = table[:, (table[0] == layer) & (table[1] == i)]
                assert np.array_equal(own[2:], torch.stack((rows, columns)).numpy())
        return 0.0

    return Case(ours, peer, check)


def rows() -> list[Row]:
    return [
        Row(
            name=f"matching/{things}",
            what=f"{_LAYERS} layers, {_IMAGES} images, {_QUERIES} queries with {things} things: "
            "one cost, one copy to the host; one for each layer and image (DETR, mmdet)",
            setup=lambda things=things: _case(things),
            seconds=3,
            memory=False,
        )
        for things in (5, 20, 50)
    ]

"""Dense labels M^pse and the boxes of their instances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import blob_labels, deviation, smooth_logits
from benchmarks.textbook.dense_labels import (
    boxes_by_coordinates,
    boxes_by_torchvision,
    instance_masks,
)
from fdd.modeling.label_maps import boxes_from_labels, upsampled_argmax


def interpolate_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Paper Eq. 2 plainly: up-sample every channel, then take the argmax."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)


def _boxes(count: int, height: int = 800, width: int = 1333) -> Case:
    """Boxes from one label map; the peers make one mask an instance of it, as they must."""
    labels = blob_labels(count, height, width)

    def ours() -> Tensor:
        return boxes_from_labels(labels[None], count, 1)[0][0]

    def peer() -> Tensor:
        return boxes_by_coordinates(instance_masks(labels, count))

    def torchvision() -> Tensor:
        return boxes_by_torchvision(instance_masks(labels, count))

    def check() -> float:
        return max(deviation(ours(), form()) for form in (peer, torchvision))

    return Case(ours, peer, check, {"torchvision": torchvision})


def _argmax(channels: int, height: int, width: int) -> Case:
    logits = smooth_logits(channels, -(-height // 8), -(-width // 8))

    def ours() -> Tensor:
        return upsampled_argmax(logits, (height, width), [channels], return_prob=False)[0]

    def peer() -> Tensor:
        with torch.no_grad():
            return interpolate_argmax(logits, (height, width))

    def check() -> float:
        # The two interpolations round differently, so that channels that are equal to the last
        # digits may change places: where the labels differ, the values must not.
        full = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        chosen = full.gather(1, ours()[:, None].long())
        return deviation(chosen[:, 0], full.amax(1))

    return Case(ours, peer, check)


def rows() -> list[Row]:
    boxes = [
        Row(
            name=f"boxes/{count}/800x1333",
            what=f"boxes of {count} masks in a label map of 800x1333 px; PSPS's coords[mask] loop, "
            "and torchvision's masks_to_boxes",
            setup=lambda count=count: _boxes(count),
            target=15 if count == 50 else None,
            seconds=4,
        )
        for count in (20, 50)
    ]
    argmax = [
        Row(
            name=f"label_argmax/{channels}/800x1333",
            what=f"label map of {channels} maps up-sampled from stride 8; interpolate, then argmax",
            setup=lambda channels=channels: _argmax(channels, 800, 1333),
            tolerance=1e-6,
            seconds=4,
        )
        for channels in (20, 50, 133)
    ]
    return boxes + argmax

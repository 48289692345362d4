"""Dense labels M^pse and the boxes of their instances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

from benchmarks.harness import Case, Row
from benchmarks.inputs import blob_labels, deviation, smooth_logits
from fdd.modeling.targets import boxes_from_labels, upsampled_argmax


def boxes_by_coordinates(labels: Tensor, count: int) -> Tensor:
    """Boxes of all instances, one full-size mask at a time.

    As PSPS makes them (spec: boolean indexing of an H x W x 2 grid of coordinates, then minimum and
    maximum + 1): (count, 4) x0, y0, x1, y1.
    """
    height, width = labels.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack((x, y), -1)
    boxes = []
    for mask in F.one_hot(labels + 1, count + 1).permute(2, 0, 1)[1:].bool():
        inside = grid[mask]
        boxes.append(torch.cat((inside.amin(0), inside.amax(0) + 1)))
    return torch.stack(boxes).float()


def boxes_by_torchvision(labels: Tensor, count: int) -> Tensor:
    """The same by ``torchvision.ops.masks_to_boxes`` on a stack of full-size masks."""
    masks = labels[None] == torch.arange(count)[:, None, None]
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1  # its far side is the last pixel
    return boxes


def interpolate_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Paper Eq. 2 plainly: up-sample every channel, then take the argmax."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)


def _boxes(count: int, peer_form, height: int = 800, width: int = 1333) -> Case:
    labels = blob_labels(count, height, width)
    present = labels[labels >= 0].unique()
    labels = torch.full_like(labels, -1).where(
        labels < 0, torch.searchsorted(present, labels.clamp(min=0))
    )
    count = len(present)  # masks_to_boxes refuses an empty mask

    def ours() -> Tensor:
        return boxes_from_labels(labels[None], count, 1)[0][0]

    def peer() -> Tensor:
        return peer_form(labels, count)

    return Case(ours, peer, lambda: deviation(ours(), peer()))


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
    forms = {"loop": boxes_by_coordinates, "torchvision": boxes_by_torchvision}
    sources = {"loop": "PSPS's coords[mask] loop", "torchvision": "torchvision's masks_to_boxes"}
    boxes = [
        Row(
            name=f"boxes/{count}/{name}",
            what=f"boxes of {count} masks in a label map of 800x1333 px; {sources[name]}",
            setup=lambda count=count, form=form: _boxes(count, form),
            target=15 if count == 50 and name == "loop" else None,
            seconds=4,
        )
        for count in (20, 50)
        for name, form in forms.items()
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

"""Dice losses of coarse masks against a finer label map, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import blob_labels, gradient_deviation, smooth_logits, with_gradient
from benchmarks.textbook.dense_labels import instance_masks
from benchmarks.textbook.dice import full_size
from fdd.modeling.losses.dice import fine_targets, upsampled_dice_loss

_EPS = 1e-3


def _case(layers: int, count: int, size: tuple[int, int], stride: int) -> Case:
    """Masks of ``layers`` layers at stride 8, one label map at ``stride``, some of it unknown."""
    padded = tuple(-(-side // 64) * 64 for side in size)
    grid = (padded[0] // 8, padded[1] // 8)
    labels = blob_labels(count, padded[0] // stride, padded[1] // stride)
    known = torch.zeros_like(labels, dtype=torch.bool)
    known[: size[0] // stride, : size[1] // stride] = True
    labels = labels.masked_fill(~known, -1)
    masks = smooth_logits(layers * count, *grid, scale=0.5)[0].relu()
    masks = masks.view(layers, count, *grid)

    def exact(x: Tensor) -> Tensor:
        fine = fine_targets(labels[None], known[None], count, grid)
        stencil = fine.stencil.expand(count, -1, -1, -1)
        return upsampled_dice_loss(x, fine.adjoint[0], stencil, fine.areas[0], _EPS).sum()

    def upsampled(x: Tensor) -> Tensor:
        targets = instance_masks(labels, count)
        return full_size(list(x), targets, known, torch.ones(count), _EPS)

    def ours() -> tuple[Tensor, Tensor]:
        return with_gradient(exact, masks)

    def peer() -> tuple[Tensor, Tensor]:
        return with_gradient(upsampled, masks)

    return Case(ours, peer, lambda: gradient_deviation(ours, peer))


def rows() -> list[Row]:
    sizes = {"512x512": (512, 512), "800x1333": (800, 1333)}
    return [
        Row(
            name=f"dice/{layers}x{count}/{name}/{form}",
            what=f"dice of {layers} x {count} masks, labels at stride {stride} of {name} px made "
            "into targets inside; masks up-sampled to the labels (PSPS, Panoptic SegFormer)",
            setup=lambda layers=layers, count=count, size=size, stride=stride: _case(
                layers, count, size, stride
            ),
            target=10 if stride == 1 else 2.5,
            tolerance=1e-5,
            seconds=5,
        )
        for layers, count in ((4, 20), (6, 53))
        for name, size in sizes.items()
        for form, stride in (("full", 1), ("stride4", 4))
    ]

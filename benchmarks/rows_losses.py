"""Cross-entropies, and dice of coarse masks against a finer label map: forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import blob_labels, gradient_deviation, smooth_logits, with_gradient
from benchmarks.textbook.cross_entropy import partial_over_map, self_training_by_target
from benchmarks.textbook.dense_labels import instance_masks
from benchmarks.textbook.dice import full_size
from fdd.modeling.losses import partial_cross_entropy, self_training_ce
from fdd.modeling.losses.dice import fine_targets, upsampled_dice_loss

_EPS = 1e-3

# Cross-entropy

_LABELLED, _LAYERS = 0.01, 6


def _cross_entropy_case(
    logits: Tensor, ours: Callable[[Tensor], Tensor], peer: Callable[[Tensor], Tensor]
) -> Case:
    def run(loss: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: with_gradient(loss, logits)

    return Case(run(ours), run(peer), lambda: gradient_deviation(run(ours), run(peer)))


def _partial(channels: int, height: int, width: int) -> Case:
    logits = smooth_logits(channels, height, width)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(channels, (1, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) >= _LABELLED] = -1
    count = float((target >= 0).sum())
    return _cross_entropy_case(
        logits,
        lambda x: partial_cross_entropy(x, target, count),
        lambda x: partial_over_map(x, target) / count,
    )


def _self_training(channels: int, height: int, width: int) -> Case:
    """All layers against the last one's argmax, which both forms need and take."""
    logits = torch.cat([smooth_logits(channels + i, height, width)[:, i:] for i in range(_LAYERS)])
    cells = float(height * width)

    def ours(x: Tensor) -> Tensor:
        labels = x[-1:].detach().argmax(1)
        return torch.stack([self_training_ce(z[None], labels, cells) for z in x]).sum()

    def peer(x: Tensor) -> Tensor:
        labels = x[-1:].detach().argmax(1)
        return torch.stack([self_training_by_target(z[None], labels) for z in x]).sum() / cells

    return _cross_entropy_case(logits, ours, peer)


def cross_entropy_rows() -> list[Row]:
    sizes = {
        "20/100x167": (20, 100, 167),
        "133/100x167": (133, 100, 167),
        "20/800x1333": (20, 800, 1333),
    }
    partial = [
        Row(
            name=f"partial_ce/{name}",
            what=f"partial cross-entropy, {_LABELLED:.0%} labelled; cross_entropy(ignore_index)",
            setup=lambda size=size: _partial(*size),
            tolerance=1e-5,
            seconds=4,
        )
        for name, size in sizes.items()
    ]
    self_training = [
        Row(
            name=f"self_training/{name}",
            what=f"{_LAYERS} layers against the argmax of the last; argmax, then cross_entropy",
            setup=lambda size=size: _self_training(*size),
            tolerance=1e-5,
            seconds=4,
        )
        for name, size in list(sizes.items())[:2]
    ]
    return partial + self_training


# Dice


def _dice_case(layers: int, count: int, size: tuple[int, int], stride: int) -> Case:
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


def dice_rows() -> list[Row]:
    sizes = {"512x512": (512, 512), "800x1333": (800, 1333)}
    return [
        Row(
            name=f"dice/{layers}x{count}/{name}/{form}",
            what=f"dice of {layers} x {count} masks, labels at stride {stride} of {name} px made "
            "into targets inside; masks up-sampled to the labels (PSPS, Panoptic SegFormer)",
            setup=lambda layers=layers, count=count, size=size, stride=stride: _dice_case(
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

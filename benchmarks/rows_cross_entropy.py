"""Partial and self-training cross-entropy, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import gradient_deviation, smooth_logits, with_gradient
from benchmarks.textbook.cross_entropy import partial_over_map, self_training_by_target
from fdd.modeling.losses import partial_cross_entropy, self_training_ce

_LABELLED, _LAYERS = 0.01, 6


def _case(
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
    return _case(
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

    return _case(logits, ours, peer)


def rows() -> list[Row]:
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

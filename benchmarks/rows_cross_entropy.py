"""Partial and self-training cross-entropy, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import gradient_deviation, smooth_logits, with_gradient
from fdd.modeling.losses import partial_cross_entropy, self_training_ce

_LABELLED = 0.01


def dense_partial_ce(logits: Tensor, target: Tensor) -> Tensor:
    """Paper Eq. 3 over the whole map: softmax everywhere, then -1 ignored (as PSPS computes it)."""
    total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum()


def argmax_ce(logits: Tensor) -> Tensor:
    """Paper Eq. 6 read literally: the argmax as target of a cross-entropy over the whole map."""
    return F.cross_entropy(logits, logits.detach().argmax(1))


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
        lambda x: dense_partial_ce(x, target),
    )


def _self_training(channels: int, height: int, width: int) -> Case:
    logits = smooth_logits(channels, height, width)
    return _case(
        logits,
        lambda x: self_training_ce(x, x.detach().argmax(1), float(height * width)),
        argmax_ce,
    )


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
            what="cross-entropy against the own argmax; argmax, then cross_entropy",
            setup=lambda size=size: _self_training(*size),
            tolerance=1e-5,
            seconds=4,
        )
        for name, size in sizes.items()
    ]
    return partial + self_training

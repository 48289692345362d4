"""Which micro-batch, with or without checkpointing, fits a card, and how fast it should be.

Memory is counted, not guessed: weights, gradients and AdamW's state from the parameters, the rest
from the peak of :func:`fdd.profiling.count_step`. Time is the roofline of the counted step: every
line's operators take as long as their FLOPs or their bytes need, whichever is longer, and each
kernel a launch. That ranks plans; it does not promise seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tabulate import tabulate
from torch import nn

from fdd.profiling.cost import StepCost

GIB = 2**30
#: (micro-batch, checkpointing, whether gradients are there before the step) -> cost of a step.
Measure = Callable[[int, bool, bool], StepCost]


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Attributes:
        gib: its memory.
        reserve_gib: not ours: the driver's context, libraries and their workspaces.
        fragments: share of what is left that the allocator loses between blocks.
        tflops: matrix products in the data type that is used, 10^12 FLOP/s, as really reached.
        gbps: memory, 10^9 bytes/s, as really reached.
        launch_us: from one kernel to the next, at the least.
    """

    gib: float
    reserve_gib: float = 1.0
    fragments: float = 0.08
    tflops: float = 40.0
    gbps: float = 700.0
    launch_us: float = 5.0

    @property
    def usable(self) -> int:
        """Bytes that tensors can have."""
        return int(max(0.0, self.gib - self.reserve_gib) * (1 - self.fragments) * GIB)


class Weights(NamedTuple):
    """Bytes that a model has on the device, whatever the batch."""

    weights: int
    gradients: int
    optimizer: int
    buckets: int

    @classmethod
    def of(cls, model: nn.Module, processes: int = 1) -> Weights:
        """AdamW: two moments a trainable parameter. Several processes: a copy of the gradients."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in trainable)
        held = [*model.parameters(), *model.buffers()]
        return cls(
            sum(t.numel() * t.element_size() for t in held),
            gradients,
            2 * gradients,
            gradients if processes > 1 else 0,
        )


@dataclass(frozen=True)
class Plan:
    """One way to make a step of the wanted number of images.

    Attributes:
        micro_batch: images of one process and pass.
        accumulate: passes a step.
        checkpoint: whether layers are recomputed in the backward pass.
        need: bytes of tensors at the peak.
        fits: whether the card has them.
        seconds: roofline of a whole step, without the optimiser.
    """

    micro_batch: int
    accumulate: int
    checkpoint: bool
    need: int
    fits: bool
    seconds: float


def step_seconds(cost: StepCost, card: Card) -> float:
    """Roofline of one forward and backward pass."""
    return sum(
        max(
            line.flops / (card.tflops * 1e12),
            line.moved / (card.gbps * 1e9),
            line.kernels * card.launch_us * 1e-6,
        )
        for line in cost.costs.values()
    )


def need_of(cost: StepCost, weights: Weights, accumulating: bool) -> int:
    """Bytes of tensors at the peak of a step.

    Args:
        cost: of a pass; with ``accumulating``, counted with gradients there before it.
        accumulating: whether the step has more than one pass.
    """
    held = weights.weights + weights.optimizer + weights.buckets
    if accumulating:
        return held + weights.gradients + cost.peak
    return held + max(cost.peak, weights.gradients)


def make_plans(
    measure: Measure, weights: Weights, card: Card, images: int, processes: int = 1
) -> list[Plan]:
    """Every plan for a step of ``images`` images, larger micro-batches first.

    Args:
        measure: counts a pass.
        weights: see :meth:`Weights.of`.
        card: one of these a process.
        images: of the whole step, over all processes; a multiple of ``processes``.
        processes: that share the step.

    Raises:
        ValueError: when the images cannot be shared evenly.
    """
    if images < 1 or processes < 1 or images % processes:
        raise ValueError(
            f"{images} images a step cannot be shared by {processes} processes; give a multiple"
        )
    share = images // processes
    plans = []
    for checkpoint in (False, True):
        for micro_batch in _divisors(share):
            accumulate = share // micro_batch
            cost = measure(micro_batch, checkpoint, accumulate > 1)
            need = need_of(cost, weights, accumulate > 1)
            seconds = accumulate * step_seconds(cost, card)
            fits = need <= card.usable
            plans.append(Plan(micro_batch, accumulate, checkpoint, need, fits, seconds))
            if not fits:  # larger ones fit even less
                break
    return sorted(plans, key=lambda plan: (plan.checkpoint, -plan.micro_batch))


def recommend(plans: Iterable[Plan]) -> Plan | None:
    """The fastest plan that fits; among equals (2 %) the one that needs least memory."""
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return None
    limit = 1.02 * min(plan.seconds for plan in fitting)
    return min((p for p in fitting if p.seconds <= limit), key=lambda plan: plan.need)


def overrides(plan: Plan, processes: int = 1, amp: bool = False) -> list[str]:
    """KEY VALUE pairs for ``train_net.py``."""
    return [
        *("SOLVER.IMS_PER_BATCH", str(plan.micro_batch * processes)),
        *("SOLVER.ACCUMULATE_STEPS", str(plan.accumulate)),
        *("MODEL.FDD.CHECKPOINT", str(plan.checkpoint)),
        *("SOLVER.AMP.ENABLED", str(amp)),
    ]


def table(plans: Iterable[Plan], card: Card) -> str:
    """One row a plan."""
    plans = list(plans)
    best = min((p.seconds for p in plans if p.fits), default=min(p.seconds for p in plans))
    head = ["micro-batch", "passes", "checkpoint", "GiB", f"fits {card.usable / GIB:.1f}"]
    rows = [
        [
            *(p.micro_batch, p.accumulate, "on" if p.checkpoint else "off", p.need / GIB),
            *("yes" if p.fits else "no", p.seconds / best),
        ]
        for p in plans
    ]
    return tabulate(
        rows, [*head, "relative time"], tablefmt="plain", floatfmt=".2f", stralign="right"
    )


def _divisors(number: int) -> list[int]:
    return [i for i in range(1, number + 1) if number % i == 0]

"""The planner's arithmetic, on made-up costs."""

from __future__ import annotations

import pytest
from torch import nn

from fdd.profiling import Cost, StepCost
from fdd.profiling.cost import Origin
from fdd.profiling.planner import (
    GIB,
    Card,
    Plan,
    Weights,
    make_plans,
    need_of,
    overrides,
    recommend,
    step_seconds,
    table,
)

MODEL = Weights(weights=GIB, gradients=GIB, optimizer=2 * GIB, buckets=0)
CARD = Card(gib=11, reserve_gib=1, fragments=0.1, tflops=1, gbps=1, launch_us=1)


def made_up(micro_batch: int, checkpoint: bool, accumulating: bool) -> StepCost:
    """1 GiB an image, half of it with checkpointing; a second an image, a third more with it."""
    peak = int(micro_batch * GIB * (0.5 if checkpoint else 1.0))
    flops = int(micro_batch * 1e12 * (4 / 3 if checkpoint else 1.0))
    origin = Origin("all", False, "mm", "line")
    return StepCost(("all",), costs={origin: Cost(flops, 10, 1)}, peak=peak)


def test_weights_count_parameters_buffers_and_two_moments() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    model[0].bias.requires_grad_(False)
    weights = Weights.of(model)
    trainable = 3 * 5 + 2 * 5
    assert weights.gradients == 4 * trainable and weights.optimizer == 2 * weights.gradients
    # Running mean and variance, and an int64 counter.
    assert weights.weights == 4 * (trainable + 5) + 4 * 10 + 8
    assert weights.buckets == 0 and Weights.of(model, 2).buckets == weights.gradients


def test_need_holds_gradients_from_the_start_only_when_they_accumulate() -> None:
    cost = made_up(2, False, False)
    assert need_of(cost, MODEL, accumulating=False) == (3 + 2) * GIB
    assert need_of(cost, MODEL, accumulating=True) == (3 + 1 + 2) * GIB
    # The gradients are there after the pass, however small its peak was.
    assert need_of(StepCost(("all",), peak=1), MODEL, accumulating=False) == 4 * GIB


def test_roofline_takes_the_longer_of_work_traffic_and_launches() -> None:
    origins = [Origin("all", False, op, "line") for op in "abc"]
    costs = (Cost(3 * 10**12, 10**9, 1), Cost(0, 5 * 10**9, 1), Cost(0, 10, 2_000_000))
    cost = StepCost(("all",), costs=dict(zip(origins, costs, strict=True)))
    assert step_seconds(cost, CARD) == pytest.approx(3 + 5 + 2)


def test_plans_make_every_step_of_the_same_images() -> None:
    plans = make_plans(made_up, MODEL, CARD, 12)
    assert CARD.usable == 9 * GIB
    for plan in plans:
        assert plan.micro_batch * plan.accumulate == 12
        assert plan.fits == (plan.need <= 9 * GIB)
    plain = {p.micro_batch: p for p in plans if not p.checkpoint}
    # 4 GiB of weights and gradients: five images and less; of larger ones the first is shown.
    assert sorted(plain) == [1, 2, 3, 4, 6] and not plain[6].fits and plain[4].fits
    assert {p.micro_batch for p in plans if p.checkpoint} == {1, 2, 3, 4, 6, 12}


def test_the_fastest_that_fits_is_recommended_and_the_leanest_of_equals() -> None:
    plans = make_plans(made_up, MODEL, CARD, 12)
    best = recommend(plans)
    assert best is not None and not best.checkpoint
    assert best.micro_batch == 1  # all plain plans take 12 s; this one needs least
    tight = Card(gib=6, reserve_gib=1, fragments=0.05, tflops=1, gbps=1)
    best = recommend(make_plans(made_up, MODEL, tight, 12))
    assert best is not None and best.checkpoint and best.micro_batch == 1
    assert recommend(make_plans(made_up, MODEL, Card(gib=3), 12)) is None


def test_processes_share_the_images() -> None:
    plans = make_plans(made_up, MODEL, CARD, 12, processes=4)
    assert {p.micro_batch for p in plans} == {1, 3}
    with pytest.raises(ValueError, match="12 images a step cannot be shared by 5"):
        make_plans(made_up, MODEL, CARD, 12, processes=5)


def test_overrides_and_table_say_what_the_plan_is() -> None:
    plan = Plan(2, 3, True, 5 * GIB, True, 1.0)
    keys = overrides(plan, processes=4, amp=True)
    assert dict(zip(keys[::2], keys[1::2], strict=True)) == {
        "SOLVER.IMS_PER_BATCH": "8",
        "SOLVER.ACCUMULATE_STEPS": "3",
        "MODEL.FDD.CHECKPOINT": "True",
        "SOLVER.AMP.ENABLED": "True",
    }
    text = table([plan, Plan(4, 2, False, 20 * GIB, False, 0.5)], CARD)
    assert "5.00" in text and " no " in text and "9.0" in text

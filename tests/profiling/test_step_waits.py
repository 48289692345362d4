"""The host waits for the device once a training step: for the costs of all matchings.

Counted on the meta device, where every copy to the host, every upload that blocks and every
operator whose result depends on values is seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config_files import get_config_file
from fdd.engine.step import StepRunner
from fdd.modeling.panoptic_branch import criterion
from fdd.profiling import PARTS, cost_of, step_cfg, synthetic_batch, training_step
from fdd.profiling.cost import Wait
from fdd.profiling.counter import StepCounter

SMALL = get_config_file("shapes/fdd_small_P10")
SIZE = {"height": 96, "width": 128}
# Of each kind one layer, but of those with masks two: several are matched in one go.
LAYERS = [
    *("MODEL.FDD.PSEUDO.NUM_LAYERS", 2, "MODEL.FDD.PAN.LOCATION_LAYERS", 1),
    *("MODEL.FDD.PAN.THING_LAYERS", 2, "MODEL.FDD.PAN.STUFF_LAYERS", 1),
]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _matcher_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matcher makes up its answer on the meta device; here it is told that this is another."""
    assign = criterion.assign

    def ask(*args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "is_meta", property(lambda self: False))
            return assign(*args, **kwargs)

    monkeypatch.setattr(criterion, "assign", ask)


def assert_only_the_matcher_waits(waits: list[Wait]) -> None:
    assert [wait.why for wait in waits] == ["to host"], waits
    assert "matcher" in waits[0].line


@pytest.mark.parametrize("batch", [1, 3])
def test_forward_and_backward_wait_once(batch: int) -> None:
    cost = cost_of(step_cfg(SMALL, LAYERS), **SIZE, instances=4, batch=batch)
    assert_only_the_matcher_waits(cost.waits)


def test_an_image_without_labels_adds_no_wait() -> None:
    assert_only_the_matcher_waits(cost_of(step_cfg(SMALL, LAYERS), **SIZE, instances=0).waits)


def test_supervision_by_points_alone_adds_no_wait() -> None:
    cfg = step_cfg(SMALL, [*LAYERS, "MODEL.FDD.PAN_SUPERVISION", "point"])
    for instances in (4, 0):
        assert_only_the_matcher_waits(cost_of(cfg, **SIZE, instances=instances, batch=2).waits)


class Skipping(torch.optim.SGD):
    """Stands for the fused optimiser, which the meta device has not got."""

    def __init__(self, parameters: Any):
        super().__init__(parameters, lr=0.1)
        self.param_groups[0]["fused"] = True
        self.steps = 0

    def step(self, closure: Any = None) -> None:
        self.steps += 1


def test_the_engine_adds_no_wait() -> None:
    """Counts, finite check, clipping and log: read one step late, so nothing waits in a step."""
    cfg = step_cfg(SMALL, LAYERS)
    model, _ = training_step(cfg, **SIZE, instances=4)
    labels = {"num_things": cfg.MODEL.FDD.NUM_THINGS, "num_stuff": cfg.MODEL.FDD.NUM_STUFF}
    batches = [synthetic_batch(**SIZE, **labels, instances=n, batch=2) for n in (4, 3)]
    optimizer = Skipping(model.parameters())
    runner = StepRunner(model, optimizer, accumulate_steps=2, clip_norm=0.1, late=True)
    counter = StepCounter(model, PARTS, "meta")
    with EventStorage(1), counter:
        runner.run(iter(batches), 1, lambda: None)
    assert optimizer.steps == 1
    assert_only_the_matcher_waits(counter.result.waits[:1])
    assert_only_the_matcher_waits(counter.result.waits[1:])  # of the second micro-batch

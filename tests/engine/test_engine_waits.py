"""The whole optimiser step, as a GPU would see it: how often does the host wait for the device?"""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.engine.step import StepReport, StepRunner
from fdd.modeling.panoptic_branch import criterion
from fdd.profiling.counter import PARTS, StepCounter
from modeling_toys import small_model, toy_input


class FusedOptimizer:
    """Stands for fused AdamW, which PyTorch refuses to make on the meta device."""

    def __init__(self):
        self.param_groups, self.skips = [{"fused": True}], []

    def zero_grad(self, set_to_none):
        pass

    def step(self):
        self.skips.append(self.found_inf)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"PAN.QUERY_FILTER_MAX_POS": 3, "PAN.ATTN_TAIL": True}])
def test_only_the_matching_makes_the_host_wait(monkeypatch, accumulate, changes):
    """The meta device cannot even answer: whoever asks it for a value is found out."""
    assign = criterion.assign

    def ask(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "is_meta", property(lambda self: False))
            return assign(*args, **options)

    monkeypatch.setattr(criterion, "assign", ask)
    model = small_model(changes).to("meta")
    optimizer = FusedOptimizer()
    runner = StepRunner(
        model, optimizer, accumulate_steps=accumulate, clip_norm=0.1, late=True, seed=1
    )
    batch = [toy_input(96, 128, [0, 1, 1, 3, 4], seed=1), toy_input(120, 72, [2, 4], seed=2)]
    read = []
    monkeypatch.setattr(StepReport, "read", lambda self: read.append(1) or ({}, 1.0))
    counter = StepCounter(model, PARTS, "meta")
    with EventStorage(1), counter:
        runner.run(iter([batch] * accumulate), 1, lambda: None)
        runner.run(iter([batch] * accumulate), 2, lambda: None)
    waits = counter.result.waits
    matchings = 2 * accumulate * (2 if changes else 1)  # the query filter matches twice
    assert [w.why for w in waits] == ["to host"] * matchings, waits
    assert all("matcher" in w.line for w in waits)
    assert read == [1] and len(optimizer.skips) == 2
    assert all(skip.is_meta and skip.shape == () for skip in optimizer.skips)

"""Numbers read one step late, as on a GPU: nothing is lost, and a spoilt step is never taken."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from engine_toys import assert_same_weights, make_trainer, toy_cfg, weights_of
from fdd.engine.step import StepRunner


class Line(nn.Module):
    """loss = sum over the batch of w * x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))

    def forward(self, batch):
        return {"loss_x": sum((self.w * sample["x"]).sum() for sample in batch)}


def sample(*x, name="a"):
    return {"x": torch.tensor(x), "image_id": name, "file_name": f"{name}.jpg"}


def runner(model, late, **options):
    optimizer = torch.optim.AdamW([model.w], lr=0.1, weight_decay=0.1, fused=True)
    return StepRunner(model, optimizer, late=late, **options)


def test_weights_are_the_same_and_values_come_one_step_later():
    steps = [[sample(1.0, 2.0)], [sample(-3.0, 0.5)], [sample(0.1, 0.2)]]
    seen = {}
    for late in (False, True):
        model = Line()
        one = runner(model, late, clip_norm=0.5)
        logged = []
        for i, batch in enumerate(steps):
            with EventStorage(i) as storage:
                one.run(iter([batch]), i, lambda: None)
                logged.append(storage.latest().get("total_loss", (None,))[0])
        with EventStorage(3) as storage:
            one.settle()
            logged.append(storage.latest().get("total_loss", (None,))[0])
        seen[late] = model.w.detach().clone(), logged
    assert torch.equal(seen[False][0], seen[True][0])
    assert seen[True][1][0] is None and seen[False][1][3] is None
    assert seen[True][1][1:] == seen[False][1][:3]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_spoilt_step_changes_nothing_and_is_told_by_the_next(bad):
    model = Line()
    one = runner(model, True)
    with EventStorage(0):
        one.run(iter([[sample(1.0, 1.0)]]), 0, lambda: None)
        before, state = model.w.detach().clone(), one.optimizer.state[model.w]
        moments = {k: v.clone() for k, v in state.items()}
        one.run(iter([[sample(bad, 1.0, name="evil")]]), 1, lambda: None)
        assert torch.equal(model.w, before)
        assert all(torch.equal(moments[k], v) for k, v in one.optimizer.state[model.w].items())
        with pytest.raises(FloatingPointError, match=r"loss at iteration 1.*evil \(evil.jpg\)"):
            one.run(iter([[sample(1.0, 1.0)]]), 2, lambda: None)
    assert torch.equal(model.w, before), "the step after a spoilt one is not taken either"
    assert not hasattr(one.optimizer, "found_inf")


def test_a_spoilt_gradient_too():
    class Root(Line):
        def forward(self, batch):
            return {"loss_root": (self.w - torch.tensor([3.0, 0.0])).abs().sqrt().sum()}

    model = Root()
    one = runner(model, True)
    with EventStorage(5):
        one.run(iter([[sample(1.0, 1.0)]]), 5, lambda: None)
        assert model.w.tolist() == [3.0, 4.0]
        with pytest.raises(FloatingPointError, match=r"gradient at iteration 5 in w .*a \(a.jpg\)"):
            one.settle()


def test_settling_twice_is_harmless():
    one = runner(Line(), True)
    with EventStorage(0):
        one.settle()
        one.run(iter([[sample(1.0, 1.0)]]), 0, lambda: None)
        one.settle()
        one.settle()


def test_an_optimiser_that_cannot_skip_is_refused():
    model = Line()
    with pytest.raises(ValueError, match="fused"):
        StepRunner(model, torch.optim.SGD([model.w], lr=1.0), late=True)


def late_trainer(cfg, **options):
    trainer = make_trainer(cfg, **options)
    trainer._trainer.late = True
    return trainer


def test_a_whole_run_is_the_same(toy_set, tmp_path):
    ends = []
    for name, make in (("now", make_trainer), ("late", late_trainer)):
        trainer = make(toy_cfg(tmp_path / name, "SOLVER.CHECKPOINT_PERIOD", 2))
        trainer.train()
        ends.append(weights_of(trainer))
    assert_same_weights(ends[0], ends[1], 0.0)


@pytest.mark.parametrize("bad_step", [2, 3, 5])
def test_no_checkpoint_follows_a_spoilt_step(toy_set, tmp_path, monkeypatch, bad_step):
    """Checkpoints come after iterations 1, 3 and 5; the run ends with iteration 5."""
    trainer = late_trainer(toy_cfg(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 2))
    forward, steps = trainer.model.forward, []

    def poisoned(inputs, **options):
        steps.append(1)
        losses = forward(inputs, **options)
        return {k: v * (math.nan if len(steps) == bad_step + 1 else 1) for k, v in losses.items()}

    monkeypatch.setattr(trainer.model, "forward", poisoned)
    with pytest.raises(FloatingPointError, match=f"iteration {bad_step}.*loss_a = nan"):
        trainer.train()
    last = {2: 1, 3: 1, 5: 3}[bad_step]
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{last:07d}.pth"
    assert not list(tmp_path.glob("model_final*"))

from __future__ import annotations

import json
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from engine_toys import assert_same_weights, make_trainer, toy_cfg, weights_of
from fdd.engine.step import StepRunner, amp_dtype

NO_DROPOUT = ("MODEL.META_ARCHITECTURE", "EngineToyNoDropout", "SOLVER.MAX_ITER", 3)
UNGROUPED = ("DATALOADER.ASPECT_RATIO_GROUPING", False)


@pytest.mark.parametrize("clip", [False, True])
def test_accumulated_halves_equal_one_batch(toy_set, tmp_path, clip):
    options = (*NO_DROPOUT, *UNGROUPED)
    if clip:
        options += ("SOLVER.CLIP_GRADIENTS.ENABLED", True)
        options += ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model")
        options += ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1)
    ends = []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        keys = ("SOLVER.IMS_PER_BATCH", batch, "SOLVER.ACCUMULATE_STEPS", accumulate)
        trainer = make_trainer(toy_cfg(tmp_path / str(batch), *options, *keys))
        trainer.train()
        ends.append(weights_of(trainer))
    assert_same_weights(ends[0], ends[1], 1e-5)
    assert_same_weights(ends[0], ends[2], 1e-5)


class Line(nn.Module):
    """loss = scale * sum over the batch of w * x; also how it was called."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.unused = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.draws = []

    def forward(self, batch):
        self.draws.append(torch.rand(1).item())
        return {"loss_x": sum((self.w * sample["x"]).sum() for sample in batch)}


def run(model, batches, accumulate=1, iteration=0, **options):
    optimizer = torch.optim.SGD([model.w], lr=1.0)
    runner = StepRunner(model, optimizer, accumulate_steps=accumulate, **options)
    with EventStorage(iteration) as storage:
        runner.run(iter(batches), iteration, lambda: None)
    return storage


def sample(*x, name="a"):
    return {"x": torch.tensor(x), "image_id": name, "file_name": f"{name}.jpg"}


def test_any_other_model_gets_the_mean_of_its_micro_batches():
    model = Line()
    storage = run(model, [[sample(2.0, 0.0)], [sample(0.0, 6.0)]], accumulate=2)
    torch.testing.assert_close(model.w.detach(), torch.tensor([3.0 - 1.0, 4.0 - 3.0]))
    assert storage.latest()["total_loss"][0] == pytest.approx((6 + 24) / 2)


def test_the_norm_of_all_gradients_is_clipped():
    model = Line()
    storage = run(model, [[sample(30.0, 40.0)]], clip_norm=0.5)
    torch.testing.assert_close(model.w.detach(), torch.tensor([3.0 - 0.3, 4.0 - 0.4]))
    assert storage.latest()["grad_norm"][0] == pytest.approx(50.0)
    model = Line()
    run(model, [[sample(0.03, 0.04)]], clip_norm=0.5)
    torch.testing.assert_close(model.w.detach(), torch.tensor([2.97, 3.96]))


def test_torch_draws_depend_on_seed_and_iteration_alone():
    draws = {}
    for key in [(0, 0), (0, 1), (1, 0)]:
        for state in (1, 2):
            torch.manual_seed(state)
            model = Line()
            run(model, [[sample(1.0, 1.0)]] * 2, accumulate=2, iteration=key[1], seed=key[0])
            draws.setdefault(key, []).append(tuple(model.draws))
    assert all(a == b for a, b in draws.values())
    assert len({a for a, _ in draws.values()}) == 3
    assert len(set(draws[0, 0][0])) == 2, "micro-batches of one step draw differently"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_stops_before_the_step(bad):
    model = Line()
    batches = [[sample(1.0, 1.0, name="good")], [sample(bad, 1.0, name="evil")]]
    with pytest.raises(FloatingPointError) as error:
        run(model, batches, accumulate=2, iteration=41)
    text = str(error.value)
    assert "iteration 41" in text and "loss_x" in text and "evil (evil.jpg)" in text
    assert "good" not in text, "only images of the micro-batch that failed"
    torch.testing.assert_close(model.w.detach(), torch.tensor([3.0, 4.0]))


def test_a_non_finite_gradient_stops_before_the_step():
    class Root(Line):
        def forward(self, batch):
            return {"loss_root": (self.w - torch.tensor([3.0, 0.0])).abs().sqrt().sum()}

    model = Root()
    model.w = nn.Parameter(torch.tensor([3.0, 1.0]))
    with pytest.raises(FloatingPointError, match=r"gradient at iteration 5 in w .*a \(a.jpg\)"):
        run(model, [[sample(1.0, 1.0)]], iteration=5)
    torch.testing.assert_close(model.w.detach(), torch.tensor([3.0, 1.0]))


def test_losses_must_not_come_and_go():
    class Fickle(Line):
        def forward(self, batch):
            losses = super().forward(batch)
            return losses if len(self.draws) == 1 else {"loss_y": losses["loss_x"]}

    with pytest.raises(RuntimeError, match="loss_y"):
        run(Fickle(), [[sample(1.0, 1.0)]] * 2, accumulate=2)


def test_failing_forward_names_the_images(caplog):
    class Broken(Line):
        def forward(self, batch):
            raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        run(Broken(), [[sample(1.0, 1.0, name="evil")]])
    assert "evil (evil.jpg)" in caplog.text


def test_non_finite_run_leaves_weights_and_checkpoint(toy_set, tmp_path, monkeypatch):
    """The whole trainer: fails in its last step, when hooks might think that it has finished."""
    trainer = make_trainer(
        toy_cfg(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", ("engine_toy_masks",))
    )
    forward, steps = trainer.model.forward, []

    def poisoned(inputs, **options):
        steps.append(1)
        losses = forward(inputs, **options)
        return {k: v * (math.nan if len(steps) == 6 else 1) for k, v in losses.items()}

    monkeypatch.setattr(trainer.model, "forward", poisoned)
    monkeypatch.setattr(
        trainer, "test", lambda *_: pytest.fail("evaluated after a failure"), raising=False
    )
    with pytest.raises(FloatingPointError, match=r"iteration 5.*loss_a = nan, loss_b = nan.*img_"):
        trainer.train()
    assert all(w.isfinite().all() for w in weights_of(trainer).values())
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not list(tmp_path.glob("model_best*")) and not list(tmp_path.glob("model_final*"))
    # Going on from the last good checkpoint works.
    resumed = make_trainer(toy_cfg(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 2), resume=True)
    assert resumed.start_iter == 4
    resumed.train()


def test_metrics_are_logged(toy_set, tmp_path):
    make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 20)).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    merged = {key: value for line in lines for key, value in line.items()}
    assert merged["total_loss"] == pytest.approx(merged["loss_a"] + merged["loss_b"], rel=0.5)
    for key in ("lr", "grad_norm", "data_time", "time", "max_memory_mb", "images_per_second"):
        assert merged[key] > 0, key


def test_amp_needs_a_gpu(tmp_path, caplog):
    cfg = toy_cfg(tmp_path, "SOLVER.AMP.ENABLED", True)
    assert amp_dtype(cfg) is None and "no effect on cpu" in caplog.text
    assert amp_dtype(toy_cfg(tmp_path)) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_amp_trains_and_resumes(toy_set, tmp_path, dtype):
    options = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype, "MODEL.DEVICE", "cuda")
    options += ("SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    options += ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model")
    trainer = make_trainer(toy_cfg(tmp_path, *options))
    before = weights_of(trainer)["head.weight"]
    trainer.train()
    assert (weights_of(trainer)["head.weight"] - before).abs().max() > 0
    assert ("grad_scaler" in trainer.state_dict()["_trainer"]) == (dtype == "float16")
    assert trainer.optimizer.param_groups[0]["fused"]
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    resumed = make_trainer(toy_cfg(tmp_path, *options), resume=True)
    resumed.train()
    # fp16 without exact kernels: close, not equal.
    assert_same_weights(weights_of(trainer), weights_of(resumed), 1e-3)

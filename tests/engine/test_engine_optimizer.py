"""Optimizer groups, clipping and the schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine_toys import toy_cfg
from fdd.engine import resolve_schedule
from fdd.engine.optimizer import build_lr_scheduler, build_optimizer, full_model_clip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
        self.backbone.sampling_offsets = nn.Linear(2, 2)
        self.encoder = nn.Module()
        self.encoder.sampling_offsets = nn.Linear(2, 2)
        self.encoder.norm = nn.LayerNorm(2)
        self.reference_points = nn.Linear(2, 2)
        self.queries = nn.Embedding(3, 2)
        self.tied = self.queries.weight
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


def test_factors_and_decay(tmp_path):
    options = ("SOLVER.BACKBONE_MULTIPLIER", 0.1, "SOLVER.SAMPLING_MULTIPLIER", 0.2)
    cfg = toy_cfg(tmp_path, *options, "SOLVER.BASE_LR", 1.0, "SOLVER.WEIGHT_DECAY_NORM", 0.0)
    net = Net()
    optimizer = build_optimizer(cfg, net)
    names = {id(p): n for n, p in net.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(rates)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert set(rates) == trained, "the frozen one out, the shared one once"
    for name, rate in rates.items():
        wanted = 1.0
        if name.startswith("backbone"):
            wanted = 0.1  # also its sampling offsets: not 0.02
        elif "sampling_offsets" in name or "reference_points" in name:
            wanted = 0.2
        assert rate == pytest.approx(wanted), name
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.05}


def test_nothing_to_train(tmp_path):
    net = Net().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(toy_cfg(tmp_path), net)


def test_clip_types(tmp_path):
    on = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1)
    full = (*on, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model")
    assert full_model_clip(toy_cfg(tmp_path)) is None
    assert full_model_clip(toy_cfg(tmp_path, *full)) == 0.1
    assert type(build_optimizer(toy_cfg(tmp_path, *full), Net())) is torch.optim.AdamW
    with pytest.raises(ValueError, match="NORM_TYPE"):
        full_model_clip(toy_cfg(tmp_path, *full, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0))
    # Detectron2's own per-parameter clipping still works.
    value = (*on, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    assert full_model_clip(toy_cfg(tmp_path, *value)) is None
    optimizer = build_optimizer(toy_cfg(tmp_path, *value), nn.Linear(1, 1, bias=False))
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.full_like(parameter, 5.0)
    optimizer.step()
    assert parameter.grad.item() == pytest.approx(0.1)


def rates(cfg):
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    result = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def test_steps_at_and_after_the_end_are_left_out(tmp_path):
    options = ("SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (4, 10, 12), "SOLVER.BASE_LR", 1.0)
    assert rates(toy_cfg(tmp_path, *options)) == pytest.approx([1.0] * 4 + [0.1] * 6)


def test_warm_up_and_cosine(tmp_path):
    options = ("SOLVER.MAX_ITER", 10, "SOLVER.BASE_LR", 1.0, "SOLVER.WARMUP_ITERS", 4)
    values = rates(toy_cfg(tmp_path, *options, "SOLVER.WARMUP_FACTOR", 0.0))
    assert values == pytest.approx([0, 0.25, 0.5, 0.75] + [1.0] * 6)
    cosine = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.WARMUP_ITERS", 0)
    values = rates(toy_cfg(tmp_path, *options, *cosine))
    assert values[0] == 1.0 and values[5] == pytest.approx(0.5) and values == sorted(values)[::-1]


def test_the_recipe_in_epochs(tmp_path):
    """PSPS on VOC: 10,582 images, batch 16, 20 epochs, a drop after 15."""
    options = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE_STEPS", 4, "SOLVER.MAX_EPOCHS", 20)
    options += ("SOLVER.EPOCH_STEPS", (15,), "SOLVER.STEPS", (1, 2))
    cfg = toy_cfg(tmp_path, *options, "TEST.EVAL_PERIOD", -1, "SOLVER.CHECKPOINT_PERIOD", -2)
    cfg.freeze()
    resolved = resolve_schedule(cfg, 10582)
    assert resolved.SOLVER.MAX_ITER == 13240
    assert resolved.SOLVER.STEPS == (9930,)
    assert resolved.MODEL.FDD.WARMUP_ITERS == 662
    assert (resolved.TEST.EVAL_PERIOD, resolved.SOLVER.CHECKPOINT_PERIOD) == (662, 1324)
    assert resolved.is_frozen() and cfg.SOLVER.MAX_ITER == 6, "the given config stays as it was"
    assert resolve_schedule(resolved, 10582) == resolved


@pytest.mark.parametrize(
    ("max_iter", "given", "expected"), [(1000, -1, 50), (100, -1, 10), (100, 0, 0), (100, 7, 7)]
)
def test_loss_warm_up(tmp_path, max_iter, given, expected):
    cfg = toy_cfg(tmp_path, "SOLVER.MAX_ITER", max_iter, "MODEL.FDD.WARMUP_ITERS", given)
    resolved = resolve_schedule(cfg, 20)
    assert expected == resolved.MODEL.FDD.WARMUP_ITERS


def test_endless_warm_up_is_reported(tmp_path, caplog):
    resolve_schedule(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 5), 20)
    assert "does not end" in caplog.text


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("SOLVER.MAX_EPOCHS", 4, "SOLVER.EPOCH_STEPS", (4,)), "EPOCH_STEPS"),
        (("SOLVER.MAX_EPOCHS", 4, "SOLVER.EPOCH_STEPS", (3, 2)), "EPOCH_STEPS"),
        (("SOLVER.MAX_ITER", 0), "MAX_ITER"),
        (("SOLVER.CHECKPOINT_PERIOD", 0), "CHECKPOINT_PERIOD"),
        (("MODEL.FDD.WARMUP_ITERS", -2), "WARMUP_ITERS"),
    ],
)
def test_nonsense_is_refused(tmp_path, options, key):
    with pytest.raises(ValueError, match=key):
        resolve_schedule(toy_cfg(tmp_path, *options), 20)

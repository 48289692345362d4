"""The textbook arrangement: the same losses and gradients as the model's own, part by part."""

import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "modeling"))
from modeling_toys import gradients, small_cfg, total, toy_input

from benchmarks.textbook import TextbookStep

BATCHES = {
    "two sizes": [(64, 64, [0, 1, 3]), (48, 60, [2, 2, 4, 0, 1])],
    "one instance, and stuff only": [(64, 40, [1]), (33, 64, [3, 4])],
    "one image without points": [(64, 64, [0, 1, 3]), (48, 60, [])],
}


def _model(changes=None):
    cfg = small_cfg({"PSEUDO.LABEL_STRIDE": 1} | (changes or {}))
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for name, parameter in model.named_parameters():
        # New offsets are whole cells: samples lie on corners, where the gradient jumps.
        if name.endswith("sampling_offsets.bias"):
            parameter.data.add_(torch.rand_like(parameter) - 0.5)
    return model, cfg


def _batch(name):
    return [toy_input(*x, points=10, seed=i) for i, x in enumerate(BATCHES[name])]


def _step(model, function, batch):
    model.zero_grad()
    with EventStorage(1):
        losses = function(batch)
    total(losses).backward()
    return {k: v.item() for k, v in losses.items()}, gradients(model)


def _compare(ours, theirs):
    losses, grads = ours
    for name, value in theirs[0].items():
        print(name, value, losses[name])
    assert set(losses) == set(theirs[0])
    for name, value in theirs[0].items():
        assert value == pytest.approx(losses[name], rel=1e-4, abs=1e-6), name
    size = torch.stack([g.norm() for g in grads.values()]).norm()
    for name, grad in grads.items():
        other = theirs[1][name]
        other = torch.zeros_like(grad) if other is None else other
        assert (other - grad).norm() <= 1e-3 * grad.norm() + 1e-6 * size, name


@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients_are_those_of_the_model(name):
    model, cfg = _model()
    batch = _batch(name)
    ours = _step(model, model, batch)
    _compare(ours, _step(model, TextbookStep(model, cfg), batch))

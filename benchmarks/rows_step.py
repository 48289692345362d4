"""One whole training step of the model against the textbook arrangement of the same model.

Both sides are zero_grad, forward, backward, clipping of the global gradient norm and an AdamW step,
with the published dropout. The learning rate is 0, so that every repetition does the same work on
the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import fdd.modeling  # noqa: F401  (registers the model)
from benchmarks.textbook import TextbookStep
from benchmarks.textbook.optimizer import clip_and_step, parameter_groups
from fdd.config_files import get_config_file
from fdd.engine.optimizer import build_optimizer, full_model_clip
from fdd.engine.step import StepRunner, amp_dtype
from fdd.profiling import step_cfg, synthetic_batch

Batch = list[dict[str, Any]]
# No diagnostics are logged at this iteration, as at most of them.
_ITERATION = 1
_NO_DROPOUT = ["MODEL.FDD.ENCODER.DROPOUT", 0.0, "MODEL.FDD.PAN.DROPOUT", 0.0]
# What belongs to a model built here: its config and, once asked for, its two kinds of steps.
_STATE: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def build(
    size: int | tuple[int, int] = 512,
    classes: tuple[int, int] = (80, 53),
    instances: int = 8,
    batch: int = 1,
    device: str = "cpu",
    changes: Iterable[Any] = (),
) -> tuple[nn.Module, Batch]:
    """The ResNet-50 model with random weights and full-size labels, and a batch for it.

    Args:
        size: of the images, (H, W) or one side of a square.
        classes: things and stuff.
        instances: of each image, about a third of them stuff; ten points each.
        batch: images.
        changes: further config keys and values, over these.
    """
    things, stuff = classes
    opts = ["MODEL.FDD.NUM_THINGS", things, "MODEL.FDD.NUM_STUFF", stuff]
    opts += ["MODEL.FDD.PSEUDO.LABEL_STRIDE", 1, "SOLVER.BASE_LR", 0.0, *changes]
    height, width = (size, size) if isinstance(size, int) else size
    inputs = synthetic_batch(
        height,
        width,
        num_things=things,
        num_stuff=stuff,
        instances=instances,
        batch=batch,
        device=device,
    )
    return _model(opts, device), inputs


def _model(opts: list[Any], device: str) -> nn.Module:
    cfg = step_cfg(get_config_file("Base-FDD"), opts, device)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    _STATE[model] = {"cfg": cfg, "opts": opts}
    return model


def ours(model: nn.Module, inputs: Batch) -> None:
    """One step as the engine takes it."""
    state = _STATE[model]
    if "ours" not in state:
        optimizer = build_optimizer(state["cfg"], model)
        clip_norm = full_model_clip(state["cfg"])
        amp = amp_dtype(state["cfg"])
        state["ours"] = StepRunner(model, optimizer, clip_norm=clip_norm, amp_dtype=amp)
    with EventStorage(_ITERATION):
        state["ours"].run(iter([inputs]), _ITERATION, lambda: None)


def textbook(model: nn.Module, inputs: Batch, cheap: Iterable[str] = ()) -> None:
    """One step in the textbook arrangement, the named parts in their cheap variants."""
    state, step = _STATE[model], _textbook_step(model, cheap)
    make = step.parts.adamw
    if make not in state:
        solver = state["cfg"].SOLVER
        state[make] = make(parameter_groups(model, state["cfg"]), solver.WEIGHT_DECAY)
    optimizer = state[make]
    optimizer.zero_grad(set_to_none=True)
    with EventStorage(_ITERATION):
        losses = step(inputs)
    torch.stack(list(losses.values())).sum().backward()
    clip_and_step(optimizer, full_model_clip(state["cfg"]))
    step.kept = []  # until here they belong to the step's peak


def _textbook_step(model: nn.Module, cheap: Iterable[str]) -> TextbookStep:
    state, key = _STATE[model], frozenset(cheap)
    if key not in state:
        state[key] = TextbookStep(model, state["cfg"], key)
    return state[key]


def check(model: nn.Module, inputs: Batch, cheap: Iterable[str] = ()) -> float:
    """Largest relative difference between the two sides' losses, on the same weights.

    Without dropout, whose draws differ.
    """
    still = _model(_STATE[model]["opts"] + _NO_DROPOUT, str(model.device))
    still.load_state_dict(model.state_dict())
    with torch.no_grad(), EventStorage(_ITERATION):
        mine, theirs = still(inputs), _textbook_step(still, cheap)(inputs)
    return _deviation(mine, theirs)


def _deviation(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    if set(mine) != set(theirs):
        raise AssertionError(f"the losses are {sorted(mine)} here and {sorted(theirs)} there")
    return max(float((mine[k] - theirs[k]).abs() / mine[k].abs().clamp(min=1e-6)) for k in mine)

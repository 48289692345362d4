"""A training step of the network for CPUs on images of many segments, beside one of few."""

from __future__ import annotations

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import fdd.modeling  # noqa: F401  (registers the model)
from benchmarks.harness import Case, Row
from fdd.config_files import get_config_file
from fdd.modeling.device import subnormals_as_zero
from fdd.profiling import step_cfg, synthetic_batch

_SIZE, _BATCH, _CLASSES = 192, 8, 2
_FEW = 8
# What init-config adds to the shipped config, and no diagnostics at this iteration.
_CHANGES = ["MODEL.FDD.LOCATION_PRIOR.SIZES", True, "MODEL.FDD.PAN.DETECTOR", "centers"]
_ITERATION = 1


def _segments(count: int) -> Case:
    classes = ["MODEL.FDD.NUM_THINGS", _CLASSES, "MODEL.FDD.NUM_STUFF", _CLASSES]
    cfg = step_cfg(get_config_file("Base-Reduced"), [*classes, *_CHANGES], "cpu")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    many, few = (
        synthetic_batch(
            _SIZE, _SIZE, num_things=_CLASSES, num_stuff=_CLASSES, instances=number, batch=_BATCH
        )
        for number in (count, _FEW)
    )

    def step(batch: list) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        with subnormals_as_zero():
            with EventStorage(_ITERATION):
                total = torch.stack(list(model(batch).values())).sum()
            total.backward()
        return total.detach()

    def check() -> float:
        """The order of the images changes no sum of losses."""
        return float((step(many) - step(many[::-1])).abs() / step(many).abs())

    return Case(lambda: step(many), lambda: step(few), check)


def rows() -> list[Row]:
    return [
        Row(
            name=f"segments/{count}",
            what=f"forward and backward pass of the reduced network, {_BATCH} images of 192x192 px "
            f"with {count} segments each; with {_FEW}",
            setup=lambda count=count: _segments(count),
            tolerance=1e-3,  # a label may change on rounding
            seconds=4,
        )
        for count in (100, 400)
    ]

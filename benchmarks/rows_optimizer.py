"""One AdamW step on the parameters of the published network."""

from __future__ import annotations

import copy

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import fdd.modeling  # noqa: F401  (registers the model)
from benchmarks.harness import Case, Row
from benchmarks.inputs import deviation
from fdd.config import add_fdd_config
from fdd.config_files import get_config_file
from fdd.engine.optimizer import build_optimizer


def _case() -> Case:
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(get_config_file("coco/fdd_R50_P10.yaml"))
    # A rate at which a step is much larger than the rounding of the parameters.
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SOLVER.BASE_LR", 0.1])
    model = build_model(cfg)
    twin = copy.deepcopy(model)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
    optimizer = build_optimizer(cfg, model)
    groups = build_optimizer(cfg, twin).param_groups
    plain = torch.optim.AdamW(
        [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]
    )

    def check() -> float:
        """Largest difference of any parameter after two steps, relative to the parameter's step."""
        before = [p.detach().clone() for p in model.parameters()]
        for _ in range(2):
            optimizer.step()
            plain.step()
        triples = zip(model.parameters(), twin.parameters(), before, strict=True)
        return max(deviation(a - c, b - c) for a, b, c in triples if a.requires_grad)

    return Case(optimizer.step, plain.step, check)


def rows() -> list[Row]:
    return [
        Row(
            name="adamw/R50",
            what="AdamW step on the parameters of coco/fdd_R50_P10; torch.optim.AdamW's default",
            setup=_case,
            tolerance=1e-5,
            seconds=5,
        )
    ]

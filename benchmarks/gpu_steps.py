"""Rows of the GPU benchmark: whole training steps."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from benchmarks import rows_step
from benchmarks.gpu_measure import GpuCase
from benchmarks.harness import Row


def step_rows(device: str, tiny: bool) -> list[Row]:
    """Ours beside the textbook's on a square image, and ours alone at the size of VOC."""
    kinds = ("fp32",) if device == "cpu" else ("fp32", "bf16")
    found = [_beside_textbook(kind, 64 if tiny else 512, device, tiny) for kind in kinds]
    height, width, batch = (64, 96, 2) if tiny else (600, 800, 2)
    for kind in kinds:
        setup = partial(_step_case, kind, (height, width), (20, 1), 4, batch, device, False)
        what = f"training step of the R50 network, {height}x{width}, 21 classes, 4 instances, "
        found.append(
            Row(
                name=f"step/voc/{height}x{width}/B{batch}/{kind}",
                what=what + f"batch {batch}, {kind}; ours alone",
                setup=setup,
                tolerance=0.05,
                seconds=5,
            )
        )
    return found


def compiled_step_row(device: str) -> Row:
    """``MODEL.FDD.COMPILE`` beside the textbook's."""
    return _beside_textbook("compiled", 512, device, False)


def _beside_textbook(kind: str, size: int, device: str, tiny: bool) -> Row:
    classes, instances = ((3, 2), 2) if tiny else ((80, 53), 8)
    return Row(
        name=f"step/{size}x{size}/{kind}",
        what=f"training step of the R50 network, {size}x{size}, {sum(classes)} classes, "
        f"{instances} instances, {kind}; textbook arrangement, fp32",
        setup=partial(_step_case, kind, size, classes, instances, 1, device, True),
        target=2,
        memory_target=2,
        tolerance=0.05 if kind == "bf16" else 1e-3,
        seconds=8,
    )


def _step_case(
    kind: str,
    size: int | tuple[int, int],
    classes: tuple[int, int],
    instances: int,
    batch: int,
    device: str,
    textbook: bool,
) -> GpuCase:
    changes = ["SOLVER.AMP.ENABLED", kind == "bf16", "SOLVER.AMP.DTYPE", "bfloat16"]
    changes += ["MODEL.FDD.COMPILE", kind == "compiled"]
    model, inputs = rows_step.build(size, classes, instances, batch, device, changes)

    def run(form: Callable[..., None]) -> None:
        form(model, inputs)
        for parameter in model.parameters():  # gradients count as memory of the step
            parameter.grad = None

    def check() -> float:
        if kind == "bf16":
            return _mixed_deviation(model, inputs, device)
        return _exactly(rows_step.check, model, inputs) if textbook else 0.0

    peer = partial(run, rows_step.textbook) if textbook else None
    # Graphs of one row must not count as recompilations of the next.
    clean_up = torch.compiler.reset if kind == "compiled" else gc.collect
    return GpuCase(partial(run, rows_step.ours), peer, check, images=batch, clean_up=clean_up)


def _exactly(check: Callable[..., float], *arguments: Any) -> float:
    """``check`` with convolutions in full fp32: their TF32 may pick another matching."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return check(*arguments)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _mixed_deviation(model: nn.Module, inputs: list[dict[str, Any]], device: str) -> float:
    """Relative difference of the total loss in bf16 and in fp32, under the same dropout."""

    def total(mixed: bool) -> float:
        torch.manual_seed(0)
        cast = torch.autocast(device, torch.bfloat16, enabled=mixed)
        with torch.no_grad(), EventStorage(1), cast:
            return float(torch.stack([v.float() for v in model(inputs).values()]).sum())

    exact = total(False)
    return abs(total(True) - exact) / max(abs(exact), 1e-6)

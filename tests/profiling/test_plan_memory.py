"""``tools/plan_memory.py`` and its prediction, against steps that really run."""

from __future__ import annotations

import importlib.util
import io
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config import add_fdd_config
from fdd.config_files import get_config_file
from fdd.profiling import cost_of, count_step, step_cfg, training_step
from fdd.profiling.planner import GIB, Card, Plan, Weights

pytestmark = pytest.mark.slow

TOOL = Path(__file__).resolve().parents[2] / "tools" / "plan_memory.py"
SMALL = get_config_file("shapes/fdd_small_P10")
# One layer of everything.
THIN = [
    *("MODEL.FDD.PSEUDO.NUM_LAYERS", "1", "MODEL.FDD.PAN.LOCATION_LAYERS", "1"),
    *("MODEL.FDD.PAN.THING_LAYERS", "1", "MODEL.FDD.PAN.STUFF_LAYERS", "1"),
]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_memory", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def really_saved(model: torch.nn.Module, forward: Any) -> int:
    """Bytes that autograd really keeps for a backward pass, seen without the counter."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total = forward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    assert total.requires_grad
    return sum(n for pointer, n in storages.items() if pointer not in known)


@pytest.mark.parametrize(("checkpoint", "batch"), [(False, 1), (True, 2)])
def test_predicted_and_really_saved_bytes_agree(checkpoint: bool, batch: int) -> None:
    keys = ["MODEL.FDD.CHECKPOINT", checkpoint]
    keys += ["MODEL.FDD.PAN.DROPOUT", 0.1, "MODEL.FDD.ENCODER.DROPOUT", 0.1]
    size = {"height": 128, "width": 160, "instances": 4, "batch": batch}
    predicted = cost_of(step_cfg(SMALL, keys), **size, kernels="cpu")
    model, forward = training_step(step_cfg(SMALL, keys, "cpu"), **size)
    assert predicted.saved_by() == pytest.approx(really_saved(model, forward), rel=0.01)
    on_cpu = count_step(model, forward)
    assert predicted.peak == pytest.approx(on_cpu.peak, rel=0.03)
    assert predicted.sum().flops == on_cpu.sum().flops


@pytest.fixture(scope="module")
def planned(tool: Any) -> dict[bool, Any]:
    """In full and in mixed precision: exit status, what is printed, and the plans behind it."""
    arguments = ["--config-file", SMALL, "--card-gib", "8", "--height", "128", "--width", "128"]
    arguments += ["--batch", "2", "--instances", "3"]
    made: list[Any] = []
    plan = tool.plan

    def run(*more: str) -> Any:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
            patch.setattr(tool, "plan", lambda args: made.append(plan(args)) or made[-1])
            status = tool.main([*arguments, *more, *THIN, "SEED", "3"])
        return status, printed.getvalue(), made[-1]

    return {False: run(), True: run("--amp")}


@pytest.mark.parametrize("amp", [False, True])
def test_it_recommends_keys_that_the_config_takes(planned: Any, amp: bool) -> None:
    status, printed, _ = planned[amp]
    assert status == 0
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_list(printed.split("recommended: ")[1].split())
    assert cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS == 2
    assert cfg.SEED == 3 and cfg.SOLVER.AMP.ENABLED is amp


def test_it_says_when_nothing_fits(tool: Any, capsys: Any, monkeypatch: Any) -> None:
    none = [Plan(1, 1, False, 2 * GIB, False, 1.0)]
    monkeypatch.setattr(tool, "plan", lambda args: (none, Card(1), Weights(1, 1, 2, 0)))
    assert tool.main(["--config-file", SMALL, "--card-gib", "1"]) == 1
    assert "Nothing fits 1 GiB" in capsys.readouterr().out


def test_accumulating_and_mixed_precision_are_planned(planned: Any) -> None:
    plans, _, weights = planned[False][2]
    assert all(plan.fits and plan.micro_batch * plan.accumulate == 2 for plan in plans)
    one = next(p for p in plans if p.accumulate == 2 and not p.checkpoint)
    two = next(p for p in plans if p.accumulate == 1 and not p.checkpoint)
    saving = next(p for p in plans if p.accumulate == 1 and p.checkpoint)
    assert one.need < two.need and saving.need < two.need and saving.seconds > two.seconds
    half, *_ = planned[True][2]
    best = min(p.need for p in half if p.accumulate == 1 and not p.checkpoint)
    assert best < two.need
    assert weights.weights + weights.gradients + weights.optimizer < one.need < 8 * GIB

"""Does it run: the attention's implementations, and one step of a small model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fdd.doctor.examination import Section
from fdd.doctor.machine import used_device_types

__all__ = ["PROBES"]

_SHAPES = ((32, 32), (16, 16), (8, 8), (4, 4))
_HEADS, _DIM, _POINTS = 8, 32, 4
_CONFIG = "shapes/Base-Shapes.yaml"
_SIDE = 96


def attention(section: Section, slow: bool) -> None:
    """Deformable attention, forward and backward at 32 x 32 cells."""
    for device in used_device_types():
        times = {}
        for backend in _backends(device):
            name = f"{backend} on {device}"
            if backend == "compiled" and not slow:
                section.lines[name] = "not tried (half a minute of compiling): --slow tries it"
                continue
            seconds = section.attempt(
                name,
                partial(_time_attention, backend, device),
                f"Do not set MODEL.FDD.ATTENTION_BACKEND to '{backend}' here",
                broken=backend == "torch",
            )
            if seconds is not None:
                times[name] = seconds
        fastest = min(times.values(), default=0.0)
        for name, seconds in times.items():
            section.lines[name] = f"{1000 * seconds:.1f} ms ({seconds / fastest:.1f} x the fastest)"
        section.attempt(
            f"auto on {device}",
            partial(_chosen, device),
            "Set MODEL.FDD.ATTENTION_BACKEND to one that works",
        )


def step(section: Section, slow: bool) -> None:
    """One training step and one prediction of a small model."""
    for device in used_device_types():
        section.attempt(
            device,
            partial(_try_model, device),
            "Training cannot work so; `fdd doctor --debug` shows the whole error, for a bug report",
        )


PROBES = (attention, step)


def _backends(device: str) -> list[str]:
    """Those that are meant for a kind of device; "auto" takes one of them."""
    from fdd.modeling.layers.deform_attn import attention_backend_names

    elsewhere = {"cpu": "triton", "cuda": "compiled"}[device]
    return [name for name in attention_backend_names() if name not in ("auto", elsewhere)]


def _inputs(device: str) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in _SHAPES)
    samples = (1, cells, _HEADS, len(_SHAPES), _POINTS)
    value = torch.randn(1, cells, _HEADS, _DIM, generator=generator)
    locations = torch.rand(*samples, 2, generator=generator)
    weights = torch.rand(*samples, generator=generator)
    return [x.to(device).requires_grad_() for x in (value, locations, weights)]


def _time_attention(backend: str, device: str) -> float:
    """Seconds of a forward and backward pass, the best of three after a first one."""
    from fdd.modeling.layers import ms_deform_attn

    value, locations, weights = _inputs(device)

    def run() -> None:
        ms_deform_attn(value, _SHAPES, locations, weights, backend).sum().backward()

    return min(_seconds(run, device) for _ in range(4))


def _chosen(device: str) -> str:
    from fdd.modeling.layers.deform_attn.backends import choose

    value, _, weights = _inputs(device)
    return f"takes {choose('auto', value, weights).name}"


def _try_model(device: str) -> str:
    import torch
    from detectron2.utils.events import EventStorage

    import fdd.modeling  # noqa: F401  registers the meta-architecture
    from fdd.config_files import get_config_file
    from fdd.profiling.step import step_cfg, training_step

    cfg = step_cfg(get_config_file(_CONFIG), device=device)
    with torch.random.fork_rng(), EventStorage():
        torch.manual_seed(0)
        model, forward = training_step(cfg, _SIDE, _SIDE, instances=3)
        found: list[float] = []

        def train() -> None:
            loss = forward()
            loss.backward()
            found.append(float(loss))

        trained = _seconds(train, device)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if (
            not all(bool(g.isfinite().all()) for g in gradients)
            or not torch.tensor(found).isfinite()
        ):
            raise RuntimeError(f"the loss is {found[0]}, and it or its gradients are not finite")
        model.eval()
        image = {"image": torch.full((3, _SIDE, _SIDE), 127, dtype=torch.uint8)}
        with torch.no_grad():
            predicted = _seconds(lambda: model([image]), device)
    return (
        f"loss {found[0]:.2f}, finite; {trained:.2f} s to train, {predicted:.2f} s to predict "
        f"({_SIDE} x {_SIDE} px, first use)"
    )


def _seconds(function: Callable[[], object], device: str) -> float:
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start

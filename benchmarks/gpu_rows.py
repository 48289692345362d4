"""Rows of the GPU benchmark: deformable attention, the colour prior, whole training steps."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from benchmarks import rows_step
from benchmarks.gpu_measure import GpuCase
from benchmarks.harness import Row
from benchmarks.inputs import deviation, norm_deviation, smooth_logits
from benchmarks.textbook.color import ColorSettings, unfolded
from fdd.modeling.layers import ms_deform_attn
from fdd.modeling.layers.deform_attn import attention_backend_names
from fdd.modeling.losses import color_affinity, color_prior_loss, rgb_to_lab

Shapes = tuple[tuple[int, int], ...]
Tensors = tuple[Tensor, ...]

# Tokens of strides 8, 16, 32 and 64 of an image of 512x512 and of 800x1333 pixels.
_SHAPES_512 = ((64, 64), (32, 32), (16, 16), (8, 8))
_SHAPES_1333 = ((100, 167), (50, 84), (25, 42), (13, 21))
_HEADS, _DIM, _POINTS = 8, 32, 4
# Largest error of a result, relative in the L2 norm, by the type of the values.
_ATTENTION_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
# Cells that may lie on the other side of the affinity's threshold by rounding.
_FLIPPED = 0.002


def all_rows(device: str, tiny: bool = False) -> list[Row]:
    """All rows in the order in which they run; what takes long to compile is last.

    Args:
        device: "cuda", or "cpu" for the rows that run there.
        tiny: sizes that only show that the code runs.
    """
    gpu = device != "cpu"
    found = step_rows(device, tiny) + attention_rows(device, tiny, gpu)
    found += color_rows(device, tiny, gpu)
    return found + ([compiled_step_row(device)] if gpu else [])


# Deformable attention


def attention_rows(device: str, tiny: bool, gpu: bool) -> list[Row]:
    """Forward and backward pass of each backend beside the reference."""
    places: list[tuple[Shapes, int, int | None]] = [
        (_SHAPES_512, 1, None),
        (_SHAPES_512, 2, None),
        (_SHAPES_1333, 1, None),
        (_SHAPES_1333, 2, None),
        (_SHAPES_1333, 1, 300),
        (_SHAPES_1333, 2, 300),
    ]
    if tiny:
        places = [(((4, 4), (2, 2)), 2, None)]
    backends = ("torch", "triton", "deformops") if gpu else ("torch",)
    found = []
    for dtype, kind in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        for shapes, batch, queries in places:
            cells = sum(h * w for h, w in shapes)
            for backend in backends:
                make = partial(attention_case, backend, dtype, shapes, batch, queries, device)
                found.append(
                    Row(
                        name=f"msda/{kind}/{cells}/B{batch}/{queries or 'all'}/{backend}",
                        what=f"deformable attention, forward and backward, {kind} values, {cells} "
                        f"cells, {queries or cells} queries, batch {batch}; grid_sample a level "
                        "(Deformable DETR)",
                        setup=make,
                        target=3 if backend == "triton" else None,
                        tolerance=_ATTENTION_TOLERANCE[dtype],
                        seconds=2,
                    )
                )
    return found


def attention_case(
    backend: str,
    dtype: torch.dtype,
    shapes: Shapes,
    batch: int,
    queries: int | None,
    device: str,
) -> GpuCase:
    """One backend beside the reference on the same tensors; ``queries`` None is one for each cell.

    Raises:
        ImportError: the backend is not at hand.
    """
    inputs, grad = attention_inputs(dtype, shapes, batch, queries, device)

    def run(operator: Callable[..., Tensor]) -> Tensors:
        out = operator(*inputs)
        return out.detach(), *torch.autograd.grad(out, inputs, grad)

    ours = partial(run, attention_operator(backend, shapes, device))
    peer = partial(run, attention_operator("reference", shapes, device))

    def check() -> float:
        return max(norm_deviation(a, b) for a, b in zip(ours(), peer(), strict=True))

    held = _mib([*inputs, grad])
    # Results and gradients are as large as what they are the gradients of.
    judged = backend == "triton"
    return GpuCase(ours, peer, check, inputs_mib=held, floor_mib=2 * held, judge_floor=judged)


def attention_operator(backend: str, shapes: Shapes, device: str) -> Callable[..., Tensor]:
    """Function of value, locations and weights.

    Raises:
        ImportError: the backend is not at hand.
    """
    if backend != "deformops":
        if backend not in attention_backend_names():
            known = attention_backend_names()
            raise ImportError(f"this version has no backend {backend!r}, only {known}")
        return lambda value, locations, weights: ms_deform_attn(
            value, shapes, locations, weights, backend
        )
    from deformops.registry import msda

    sizes = torch.tensor(shapes, device=device)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
    return lambda value, locations, weights: msda(
        value, sizes, starts, locations, weights.to(value.dtype), method="linear"
    )


def attention_inputs(
    dtype: torch.dtype, shapes: Shapes, batch: int, queries: int | None, device: str
) -> tuple[Tensors, Tensor]:
    """(value, locations, weights), all with gradients, and the gradient of the output.

    Samples lie some two cells around their query, as after the first epochs, and never within
    rounding of a cell's border, where the gradient of a location jumps.
    """
    g = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    centres = torch.cat([_centres(h, w) for h, w in shapes])
    if queries is not None:
        centres = torch.rand(queries, 2, generator=g)
    count = len(centres)
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32)[:, None]
    around = 2 * torch.randn(batch, count, _HEADS, len(shapes), _POINTS, 2, generator=g)
    place = centres[:, None, None, None] * sizes - 0.5 + around
    low = place.floor()
    locations = (low + (place - low).clamp(0.05, 0.95) + 0.5) / sizes
    scores = torch.randn(batch, count, _HEADS, len(shapes) * _POINTS, generator=g)
    weights = scores.softmax(-1).view(batch, count, _HEADS, len(shapes), _POINTS)
    value = torch.randn(batch, cells, _HEADS, _DIM, generator=g)
    grad = torch.randn(batch, count, _HEADS * _DIM, generator=g)
    leaves = (value.to(device, dtype), locations.to(device), weights.to(device))
    return tuple(leaf.requires_grad_() for leaf in leaves), grad.to(device, dtype)


def _centres(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], -1).view(-1, 2)


def _mib(tensors: Sequence[Tensor]) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 2**20


# Colour prior


def color_rows(device: str, tiny: bool, gpu: bool) -> list[Row]:
    """Slices beside the unfolded form, and the fused kernel beside the slices."""
    places = [(5, 8, 12)] if tiny else []
    for height, width in () if tiny else ((64, 64), (100, 167)):
        places += [(channels, height, width) for channels in (5, 21, 50, 133)]
    found = []
    for channels, height, width in places:
        name = f"color_prior/{channels}/{height}x{width}"
        what = f"colour prior, forward and backward, {channels} channels, {height}x{width}; "
        found.append(
            Row(
                name=f"{name}/slices",
                what=what + "with LAB and affinity, unfold over 24 neighbours (BoxInst, PSPS)",
                setup=partial(color_case, channels, height, width, device),
                tolerance=1e-3,
                seconds=2,
            )
        )
        if gpu:
            found.append(
                Row(
                    name=f"{name}/triton",
                    what=what + "affinity given, beside the slices",
                    setup=partial(fused_color_case, channels, height, width, device),
                    target=1.5,
                    tolerance=1e-4,
                    seconds=2,
                )
            )
    return found


def color_case(channels: int, height: int, width: int, device: str) -> GpuCase:
    """The form of plain tensor operators beside the published one, LAB and affinity inside."""
    logits, rgb, valid = _color_inputs(channels, height, width, device)
    keywords = _color_backend("slices")

    def ours() -> Tensors:
        affinity = color_affinity(rgb_to_lab(rgb), valid, *ColorSettings())
        return _with_gradient(color_prior_loss(logits, affinity, 1, **keywords), logits)

    def peer() -> Tensors:
        return _with_gradient(unfolded(logits, rgb, valid, ColorSettings(), {}), logits)

    def check() -> float:
        (loss, grad), (peer_loss, peer_grad) = ours(), peer()
        return max(deviation(loss, peer_loss), _deviation_of_most_cells(grad, peer_grad))

    return GpuCase(ours, peer, check)


def fused_color_case(channels: int, height: int, width: int, device: str) -> GpuCase:
    """The fused kernel beside the slices; the affinity is there already."""
    logits, rgb, valid = _color_inputs(channels, height, width, device)
    affinity = color_affinity(rgb_to_lab(rgb), valid, *ColorSettings())

    def run(keywords: dict[str, str]) -> Tensors:
        return _with_gradient(color_prior_loss(logits, affinity, 1, **keywords), logits)

    ours, peer = partial(run, _color_backend("triton")), partial(run, _color_backend("slices"))
    return GpuCase(
        ours, peer, lambda: max(deviation(a, b) for a, b in zip(ours(), peer(), strict=True))
    )


def _color_inputs(channels: int, height: int, width: int, device: str) -> Tensors:
    """Logits with gradient, an image in [0, 1], and all its cells valid."""
    rgb = smooth_logits(3, height, width, 1.0).sigmoid()
    valid = torch.ones(1, height, width, dtype=torch.bool)
    logits = smooth_logits(channels, height, width).to(device).requires_grad_()
    return logits, rgb.to(device), valid.to(device)


def _color_backend(name: str) -> dict[str, str]:
    """Keyword of ``color_prior_loss`` that picks a form.

    Raises:
        ImportError: there is no such form.
    """
    if "backend" in inspect.signature(color_prior_loss).parameters:
        return {"backend": name}
    if name != "slices":
        raise ImportError(f"color_prior_loss of this version has no form {name!r}")
    return {}


def _with_gradient(loss: Tensor, logits: Tensor) -> Tensors:
    return loss.detach(), *torch.autograd.grad(loss, logits)


def _deviation_of_most_cells(ours: Tensor, peer: Tensor) -> float:
    """Largest difference in all but a few cells, relative to the largest value of ``peer``.

    Colours are made by two formulas: a pair at the threshold may be affine in one form only.
    """
    cells = (ours - peer).abs().amax(1).flatten()
    most = cells.kthvalue(max(1, round(cells.numel() * (1 - _FLIPPED)))).values
    return float(most / peer.abs().max().clamp(min=1e-30))


# Training steps


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

"""``ms_deform_attn``: one operator for eager mode, ``torch.compile`` and the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn.arithmetic import Shapes
from fdd.modeling.layers.deform_attn.backends import choose, is_reference
from fdd.modeling.layers.deform_attn.plain import plain
from fdd.modeling.layers.deform_attn.reference import reference


def ms_deform_attn(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, backend: str = "auto"
) -> Tensor:
    """Sample every level bilinearly at the given places and sum with the given weights.

    Deformable DETR, Eq. 3. Samples outside a level are zero. For the backward pass only the three
    tensors given are kept.

    Args:
        value: (B, L, heads, d) with L = sum of h*w over ``shapes``; float32, float64 or 16 bit.
        shapes: (h, w) of each level.
        locations: (B, Q, heads, levels, points, 2) in [0, 1] of each level's full map, (x, y). At
            least float32: 16 bits cannot tell neighbouring cells of a large map apart.
        weights: (B, Q, heads, levels, points), summing to 1 over levels and points.
        backend: one of :data:`fdd.modeling.layers.deform_attn.BACKENDS`, or "plain", which is for
            ``torch.export`` only.

    Returns:
        (B, Q, heads * d) in the values' dtype; sums are taken in float32 (float64 for float64).

    Raises:
        ValueError: shapes that do not fit, or a backend that cannot serve these tensors.
    """
    _check(value, shapes, locations, weights)
    dtype = torch.promote_types(value.dtype, torch.float32)
    locations, weights = locations.to(dtype), weights.to(dtype)
    if is_reference(backend):
        return reference(value, shapes, locations, weights)
    if backend == "plain":
        return plain(value, shapes, locations, weights)
    flat = [side for shape in shapes for side in shape]
    return torch.ops.fdd.ms_deform_attn(value, locations, weights, flat, backend)


def _check(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> None:
    cells = sum(h * w for h, w in shapes)
    batch, length, heads = value.shape[:3]
    expected = (batch, locations.shape[1], heads, len(shapes), locations.shape[-2])
    if length != cells or any(side < 1 for shape in shapes for side in shape):
        raise ValueError(
            f"value has {length} cells and the levels {list(shapes)} have {cells}; expected the "
            "same number, and no empty level"
        )
    if tuple(weights.shape) != expected or tuple(locations.shape) != (*expected, 2):
        raise ValueError(
            f"locations are {tuple(locations.shape)} and weights {tuple(weights.shape)}; expected "
            f"{(*expected, 2)} and {expected} for value {tuple(value.shape)}"
        )


def _pairs(flat: list[int]) -> Shapes:
    return tuple(zip(map(int, flat[::2]), map(int, flat[1::2]), strict=True))


@torch.library.custom_op(
    "fdd::ms_deform_attn",
    mutates_args=(),
    schema=(
        "(Tensor value, Tensor locations, Tensor weights, SymInt[] shapes, str backend) -> Tensor"
    ),
)
def _forward(
    value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int], backend: str
) -> Tensor:
    if not weights.numel():
        return value.new_zeros(_out_shape(value, weights))
    return choose(backend, value, weights).forward(value, locations, weights, _pairs(shapes))


@torch.library.custom_op(
    "fdd::ms_deform_attn_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad, Tensor value, Tensor locations, Tensor weights, SymInt[] shapes, "
        "str backend) -> (Tensor, Tensor, Tensor)"
    ),
)
def _backward(
    grad: Tensor,
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    shapes: list[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if not weights.numel():
        return _like(value).zero_(), _like(locations), _like(weights)
    chosen = choose(backend, value, weights, backward=True)
    return chosen.backward(grad, value, locations, weights, _pairs(shapes))


def _out_shape(value: Tensor, weights: Tensor) -> tuple[int, int, int]:
    return value.shape[0], weights.shape[1], value.shape[2] * value.shape[3]


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


@_forward.register_fake
def _(value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int], backend: str) -> Tensor:
    return value.new_empty(_out_shape(value, weights))


@_backward.register_fake
def _(
    grad: Tensor,
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    shapes: list[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(value), _like(locations), _like(weights)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, locations, weights, ctx.shapes, ctx.backend = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.fdd.ms_deform_attn_backward(
        grad, *ctx.saved_tensors, ctx.shapes, ctx.backend
    )
    return *gradients, None, None


_forward.register_autograd(_differentiate, setup_context=_save)

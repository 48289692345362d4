"""The attention layer and its operator, ``ms_deform_attn``, also for ``torch.compile`` and the meta
device."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fdd.modeling.device import no_autocast
from fdd.modeling.layers.deform_attn.backends import choose
from fdd.modeling.layers.deform_attn.reference import (
    Shapes,
    embedding_bag_attention,
    fill,
)


class MSDeformAttn(nn.Module):
    """Multi-head deformable attention over several levels (Deformable DETR, section 4)."""

    def __init__(self, *, dim: int, num_heads: int, num_levels: int, num_points: int):
        """
        Args:
            dim: channels of queries and values; a multiple of ``num_heads``.
            num_heads, num_levels, num_points: samples are taken at heads * levels * points places.
        """
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.backend = "auto"
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start on a ring: one direction a head, one radius a point, on every level."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        radius = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = ring[:, None, None, :] * radius[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Shapes,
        valid: Tensor | None,
    ) -> Tensor:
        """
        Args:
            query: (B, Q, D), position included.
            reference: (B, Q, levels, 2) points, or (B, Q, levels, 4) boxes (cx, cy, w, h), both in
                [0, 1] of each level's full (padded) map. Offsets are in cells around points and in
                half box sides (over the number of points) around boxes.
            tokens: (B, L, D) values.
            shapes: (h, w) of each level.
            valid: (B, L) bool; values on padding count as zero. None: nothing is padding.

        Returns:
            (B, Q, D).
        """
        batch, queries, dim = query.shape
        samples = (self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(tokens)
        if valid is not None:
            value.masked_fill_(~valid[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, dim // self.num_heads))
        offsets = self.sampling_offsets(query).float().view(batch, queries, *samples, 2)
        weights = self.attention_weights(query).float().view(batch, queries, self.num_heads, -1)
        weights = weights.softmax(-1).view(batch, queries, *samples)
        if reference.shape[-1] == 2:
            sizes = _level_sizes(tuple(shapes), offsets)
            locations = reference[:, :, None, :, None] + offsets / sizes
        else:
            centre, side = reference[:, :, None, :, None].split(2, dim=-1)
            locations = centre + offsets * side * (0.5 / self.num_points)
        # Sampling places need fp32: bf16 cannot tell neighbouring cells of a large map apart.
        with no_autocast(query.device):
            out = ms_deform_attn(value, shapes, locations.float(), weights, self.backend)
        return self.output_proj(out)


def use_backend(module: nn.Module, name: str) -> None:
    """Let every :class:`MSDeformAttn` below ``module`` run on the backend ``name``."""
    for part in module.modules():
        if isinstance(part, MSDeformAttn):
            part.backend = name


def _level_sizes(shapes: Shapes, like: Tensor) -> Tensor:
    """(levels, 1, 2) float32, (w, h) of each level, on the device of ``like``."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        # Not kept: a later call must not get a traced or fake tensor.
        return fill([side for h, w in shapes for side in (w, h)], like).view(-1, 1, 2)
    return _kept_sizes(shapes, like.device)


@lru_cache(maxsize=1024)
def _kept_sizes(shapes: Shapes, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for later calls, which may be training
        like = torch.empty((), dtype=torch.float32, device=device)
        return fill([side for h, w in shapes for side in (w, h)], like).view(-1, 1, 2)


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
        backend: one of :func:`fdd.modeling.layers.deform_attn.attention_backend_names`, or "plain",
            which is for ``torch.export`` only.

    Returns:
        (B, Q, heads * d) in the values' dtype; sums are taken in float32 (float64 for float64).

    Raises:
        ValueError: shapes that do not fit, or a backend that cannot serve these tensors.
    """
    _check(value, shapes, locations, weights)
    dtype = torch.promote_types(value.dtype, torch.float32)
    locations, weights = locations.to(dtype), weights.to(dtype)
    if backend == "plain":
        return embedding_bag_attention(value, shapes, locations, weights)
    if backend == "reference":
        return choose(backend, value, weights).forward(value, shapes, locations, weights)
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
    return choose(backend, value, weights).forward(value, _pairs(shapes), locations, weights)


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
    assert chosen.backward is not None  # only "reference" has none, and never comes here
    return chosen.backward(grad, value, _pairs(shapes), locations, weights)


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

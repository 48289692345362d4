"""Deformable attention as two Triton kernels: no sampling buffer, float32 sums.

A program serves a block of queries of one head of one image; a query's d channels lie side by side
in the lanes, so that a corner of a sample is one contiguous row of the values. The backward kernel
finds the corners again instead of keeping them. Its sums for the values are atomic, so their last
bits vary from run to run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fdd.modeling.device import on_device, upload
from fdd.modeling.layers.deform_attn.reference import Shapes

# Sizes that change with the image: a kernel compiled for one of them serves all.
_ANY_SIZE = ("queries", "cells")
# A program is one warp where the channels allow: no barriers, and each of its threads reads one
# vector of a corner. (Two vectors double the backward kernel's registers.)
_WARP_BYTES = 32 * 16


@triton.jit
def _split(location, side):
    """The cell below a coordinate in [0, 1], and the distance to it in cells."""
    place = location * side.to(tl.float32) - 0.5
    # Huge numbers have no int32; two cells off the map is as far as a sample needs to be.
    place = tl.minimum(tl.maximum(place, -2.0), side.to(tl.float32) + 1.0)
    low = tl.floor(place)
    return low.to(tl.int32), place - low


@triton.jit
def _rows(x, y, width, height, start, used, channel, STRIDE: tl.constexpr, DIM: tl.constexpr):
    """Where the channels of cells (x, y) lie among an image's values, and which are on the map."""
    inside = used & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row = (start + y * width + x).to(tl.int64) * STRIDE
    return row[:, None] + channel[None, :], inside[:, None] & (channel < DIM)[None, :]


@triton.jit(do_not_specialize=_ANY_SIZE)
def forward_kernel(
    value,
    locations,
    weights,
    levels,
    out,
    queries,
    cells,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out[b, q, h] = sum of weight * bilinear sample. ``levels`` is of :func:`_level_table`."""
    image, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)
    used = query < queries
    # All tensors have (image, query or cell, head) in front.
    index = (image.to(tl.int64) * queries + query) * HEADS + head
    value += (image.to(tl.int64) * cells * HEADS + head) * DIM
    weights += index * (LEVELS * POINTS)
    locations += index * (LEVELS * POINTS * 2)

    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for level in range(LEVELS):
        height, width = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = level * POINTS + point
            weight = tl.load(weights + sample, mask=used, other=0.0)
            x, right = _split(tl.load(locations + 2 * sample, mask=used, other=0.0), width)
            y, low = _split(tl.load(locations + 2 * sample + 1, mask=used, other=0.0), height)
            for v in tl.static_range(2):
                tap_y = weight * (low if v else 1.0 - low)
                for u in tl.static_range(2):
                    tap = tap_y * (right if u else 1.0 - right)
                    place, inside = _rows(
                        x + u, y + v, width, height, start, used, channel, HEADS * DIM, DIM
                    )
                    corner = tl.load(value + place, mask=inside, other=0.0).to(tl.float32)
                    total += tap[:, None] * corner
    tl.store(
        out + index[:, None] * DIM + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=used[:, None] & (channel < DIM)[None, :],
    )


@triton.jit(do_not_specialize=_ANY_SIZE)
def backward_kernel(
    grad,
    value,
    locations,
    weights,
    levels,
    grad_value,
    grad_locations,
    grad_weights,
    queries,
    cells,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """All three gradients; ``grad_value`` is float32 and zero before.

    With g the gradient of the output and <.> the sum over channels, d weight = <g sample>,
    d x = weight * width * <g (slope of the sample along x)>, d y likewise; corners off the map are
    zero in both. A corner's value gets g * weight * tap.
    """
    image, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)
    used = query < queries
    index = (image.to(tl.int64) * queries + query) * HEADS + head
    first = (image.to(tl.int64) * cells * HEADS + head) * DIM
    value += first
    grad_value += first
    weights += index * (LEVELS * POINTS)
    grad_weights += index * (LEVELS * POINTS)
    locations += index * (LEVELS * POINTS * 2)
    grad_locations += index * (LEVELS * POINTS * 2)
    g = tl.load(
        grad + index[:, None] * DIM + channel[None, :],
        mask=used[:, None] & (channel < DIM)[None, :],
        other=0.0,
    ).to(tl.float32)

    for level in range(LEVELS):
        height, width = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = level * POINTS + point
            weight = tl.load(weights + sample, mask=used, other=0.0)
            x, right = _split(tl.load(locations + 2 * sample, mask=used, other=0.0), width)
            y, low = _split(tl.load(locations + 2 * sample + 1, mask=used, other=0.0), height)
            mean = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
            slope_x = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
            slope_y = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
            for v in tl.static_range(2):
                tap_y = low if v else 1.0 - low
                for u in tl.static_range(2):
                    tap_x = right if u else 1.0 - right
                    place, inside = _rows(
                        x + u, y + v, width, height, start, used, channel, HEADS * DIM, DIM
                    )
                    corner = tl.load(value + place, mask=inside, other=0.0).to(tl.float32)
                    mean += (tap_y * tap_x)[:, None] * corner
                    slope_x += (tap_y if u else -tap_y)[:, None] * corner
                    slope_y += (tap_x if v else -tap_x)[:, None] * corner
                    part = g * (weight * tap_y * tap_x)[:, None]
                    tl.atomic_add(grad_value + place, part, mask=inside, sem="relaxed")
            grad_x = tl.sum(g * slope_x, 1) * weight * width
            grad_y = tl.sum(g * slope_y, 1) * weight * height
            tl.store(grad_weights + sample, tl.sum(g * mean, 1), mask=used)
            tl.store(grad_locations + 2 * sample, grad_x, mask=used)
            tl.store(grad_locations + 2 * sample + 1, grad_y, mask=used)


def forward(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """(B, L, H, d) values -> (B, Q, H * d), in the values' dtype; sums in float32.

    Raises:
        ValueError: values of a dtype that float32 sums do not serve.
    """
    _check(value)
    batch, cells, heads, dim = value.shape
    queries = weights.shape[1]
    value, locations, weights = value.contiguous(), _float32(locations), _float32(weights)
    out = value.new_empty((batch, queries, heads * dim))
    sizes, grid, warps = _launch(value, weights)
    levels = _level_table(shapes, value.device)
    with on_device(value.device):
        forward_kernel[grid](
            value, locations, weights, levels, out, queries, cells, **sizes, num_warps=warps
        )
    return out


def backward(
    grad: Tensor, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in its tensor's shape and dtype.

    Raises:
        ValueError: values of a dtype that float32 sums do not serve.
    """
    _check(value)
    # 16-bit atomics lose small summands; a cell may be read thousands of times.
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    places, scores = _float32(locations), _float32(weights)
    grad_locations, grad_weights = torch.empty_like(places), torch.empty_like(scores)
    sizes, grid, warps = _launch(value, weights)
    levels = _level_table(shapes, value.device)
    with on_device(value.device):
        backward_kernel[grid](
            grad.contiguous(),
            value.contiguous(),
            places,
            scores,
            levels,
            grad_value,
            grad_locations,
            grad_weights,
            weights.shape[1],
            value.shape[1],
            **sizes,
            num_warps=warps,
        )
    return (
        grad_value.to(value.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def launch_sizes(dim: int, itemsize: int) -> tuple[int, int, int]:
    """BLOCK_Q, BLOCK_D and warps of a program. Fixed rather than tuned: no search at run time."""
    block_d = triton.next_power_of_2(dim)
    block_q = max(_WARP_BYTES // (block_d * itemsize), 1)
    return block_q, block_d, min(max(block_q * block_d * itemsize // _WARP_BYTES, 1), 8)


def _launch(value: Tensor, weights: Tensor) -> tuple[dict[str, Any], tuple[int, int], int]:
    """Constants of the kernels, their grid and warps."""
    batch, queries, heads, levels, points = weights.shape
    dim = value.shape[-1]
    block_q, block_d, warps = launch_sizes(dim, value.element_size())
    sizes = {
        "HEADS": heads,
        "DIM": dim,
        "LEVELS": levels,
        "POINTS": points,
        "BLOCK_Q": block_q,
        "BLOCK_D": block_d,
    }
    return sizes, (triton.cdiv(queries, block_q), batch * heads), warps


@lru_cache(maxsize=1024)
def _level_table(shapes: Shapes, device: torch.device) -> Tensor:
    """(levels, 3) int32: height, width and first cell, uploaded once for each set of shapes."""
    rows, start = [], 0
    for h, w in shapes:
        rows.append((h, w, start))
        start += h * w
    # Kept for later calls, which may run outside of inference mode.
    with torch.inference_mode(False):
        return upload(torch.tensor(rows, dtype=torch.int32), device)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).contiguous()


def _check(value: Tensor) -> None:
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"deformable attention got {value.dtype} values; the Triton kernels sum in float32 and "
            "serve float32, bfloat16 and float16. Use the backend 'torch' for other types."
        )

"""The colour prior as three Triton kernels: logits are read in place, nothing of K maps is kept.

One kernel finds the highest logit and the sum of exponentials of each cell, one the loss of each
pair, and one, in the backward pass, gathers the gradient of a cell from its neighbours; equations
are those of :class:`SlicedColorPrior`. A program serves a row of cells of one map, which lie side
by side in its lanes; channels come in blocks. All sums are float32, none is atomic: results are the
same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.device import on_device, upload
from fdd.modeling.losses.common import PAIR_FLOOR

# Cells and channels of a program, and its warps: one cell a lane, 8 loads under way in each.
BLOCK_CELLS, BLOCK_CHANNELS, WARPS = 128, 8, 4
_BLOCKS: dict[str, Any] = {
    "BLOCK": BLOCK_CELLS,
    "BLOCK_K": BLOCK_CHANNELS,
    "num_warps": WARPS,
}
# Sizes that change with the image or the model: a kernel compiled for one of them serves all.
_ANY_SIZE = ("layer", "image", "channel", "row", "column", "images", "channels", "height", "width")
# Least float32. -inf less -inf is NaN; less this number it stays -inf, whose exponential is 0.
LEAST = -3.4028234663852886e38

_FLOOR = tl.constexpr(PAIR_FLOOR)
_LEAST = tl.constexpr(LEAST)


@triton.jit
def _map_start(logits, layer, image, images):
    """First logit of the program's map; maps are numbered layer * images + image."""
    number = tl.program_id(2)
    start = (number // images).to(tl.int64) * layer + (number % images).to(tl.int64) * image
    return logits + start


@triton.jit
def _exponentials(start, first, channels, place, used, highest, channel, BLOCK_K: tl.constexpr):
    """(BLOCK_K, cells) float32: exp(z - highest), 0 in cells and channels that are not used."""
    k = first + tl.arange(0, BLOCK_K)
    where = start + k.to(tl.int64)[:, None] * channel + place[None, :]
    mask = (k < channels)[:, None] & used[None, :]
    z = tl.load(where, mask=mask, other=float("-inf")).to(tl.float32)
    return tl.exp(z - highest[None, :])


@triton.jit(do_not_specialize=_ANY_SIZE)
def cell_kernel(
    logits,
    highest,
    total,
    layer,
    image,
    channel,
    row,
    column,
    images,
    channels,
    height,
    width,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Highest logit (not below LEAST) and sum of exp(z - highest), at least 1, in one pass."""
    start = _map_start(logits, layer, image, images)
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = cell < height * width
    place = (cell // width).to(tl.int64) * row + (cell % width).to(tl.int64) * column
    high = tl.full((BLOCK_K, BLOCK), _LEAST, tl.float32)
    part = tl.zeros((BLOCK_K, BLOCK), tl.float32)
    for first in range(0, channels, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        where = start + k.to(tl.int64)[:, None] * channel + place[None, :]
        mask = (k < channels)[:, None] & used[None, :]
        z = tl.load(where, mask=mask, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(high, z)
        part = part * tl.exp(high - higher) + tl.exp(z - higher)
        high = higher
    top = tl.max(high, 0)
    s = tl.sum(part * tl.exp(high - top[None, :]), 0)
    out = tl.program_id(2).to(tl.int64) * height * width + cell
    tl.store(highest + out, top, mask=used)
    # Not a maximum, which would lose a NaN.
    tl.store(total + out, tl.where(s < 1.0, 1.0, s), mask=used)


@triton.jit(do_not_specialize=_ANY_SIZE)
def pair_kernel(
    logits,
    affinity,
    highest,
    total,
    offsets,
    weights,
    partial,
    layer,
    image,
    channel,
    row,
    column,
    images,
    channels,
    height,
    width,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The program's share of A (log S_i + log S_j - log s_ij), and A / s_ij if to be kept.

    Programs: blocks of cells, offsets, maps. Neighbours that are not affine are not read.
    """
    number, offset, count = tl.program_id(2).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    start = _map_start(logits, layer, image, images)
    cells = height * width
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = cell < cells
    dy, dx = tl.load(offsets + 2 * offset), tl.load(offsets + 2 * offset + 1)
    y, x = cell // width, cell % width
    v, u = y + dy, x + dx
    near = used & (v >= 0) & (v < height) & (u >= 0) & (u < width)
    entry = ((number % images) * count + offset) * cells + cell
    affine = tl.load(affinity + entry, mask=near, other=0) != 0
    own, other = number * cells + cell, number * cells + v * width + u
    high_i = tl.load(highest + own, mask=used, other=0.0)
    high_j = tl.load(highest + other, mask=affine, other=0.0)
    place_i = y.to(tl.int64) * row + x.to(tl.int64) * column
    place_j = v.to(tl.int64) * row + u.to(tl.int64) * column
    sums = tl.zeros((BLOCK_K, BLOCK), tl.float32)
    # No channel at all where the whole block has no pair.
    for first in range(0, channels * tl.max(affine.to(tl.int32), 0), BLOCK_K):
        e = _exponentials(start, first, channels, place_i, affine, high_i, channel, BLOCK_K)
        sums += e * _exponentials(start, first, channels, place_j, affine, high_j, channel, BLOCK_K)
    s = tl.sum(sums, 0)
    s = tl.where(s < _FLOOR, _FLOOR, s)
    total_i = tl.load(total + own, mask=used, other=1.0)
    total_j = tl.load(total + other, mask=affine, other=1.0)
    a = affine.to(tl.float32)
    share = tl.sum(a * (tl.log(total_i) + tl.log(total_j) - tl.log(s)), 0)
    tl.store(partial + (number * count + offset) * tl.num_programs(0) + tl.program_id(0), share)
    if KEEP:
        tl.store(weights + (number * count + offset) * cells + cell, a / s, mask=used)


@triton.jit(do_not_specialize=_ANY_SIZE)
def gradient_kernel(
    logits,
    highest,
    total,
    offsets,
    weights,
    scale,
    grad,
    layer,
    image,
    channel,
    row,
    column,
    images,
    channels,
    height,
    width,
    OFFSETS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """grad = scale e_ik (deg_i / S_i - sum_j (A / s)_ij e_jk) of a block of cells and of channels.

    The pair of i and j is kept at whichever has the other at a half-plane offset, so each offset
    is looked up both ways. The degree is the number of weights that are not 0: A / s is at least
    1 / K.
    """
    number, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BLOCK_K
    start = _map_start(logits, layer, image, images)
    cells = height * width
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = cell < cells
    y, x = cell // width, cell % width
    degree = tl.zeros((BLOCK,), tl.float32)
    pull = tl.zeros((BLOCK_K, BLOCK), tl.float32)
    for offset in tl.static_range(OFFSETS):
        for back in tl.static_range(2):
            dy, dx = tl.load(offsets + 2 * offset), tl.load(offsets + 2 * offset + 1)
            v, u = (y - dy, x - dx) if back else (y + dy, x + dx)
            near = used & (v >= 0) & (v < height) & (u >= 0) & (u < width)
            j = v * width + u
            owner = j if back else cell
            entry = (number * OFFSETS + offset) * cells + owner
            weight = tl.load(weights + entry, mask=near, other=0.0)
            bound = weight != 0.0
            high = tl.load(highest + number * cells + j, mask=bound, other=0.0)
            place = v.to(tl.int64) * row + u.to(tl.int64) * column
            e = _exponentials(start, first, channels, place, bound, high, channel, BLOCK_K)
            degree += bound.to(tl.float32)
            pull += weight[None, :] * e
    own = number * cells + cell
    high = tl.load(highest + own, mask=used, other=0.0)
    s = tl.load(total + own, mask=used, other=1.0)
    place = y.to(tl.int64) * row + x.to(tl.int64) * column
    e = _exponentials(start, first, channels, place, used, high, channel, BLOCK_K)
    out = tl.load(scale + number) * e * ((degree / s)[None, :] - pull)
    k = first + tl.arange(0, BLOCK_K)
    where = (number * channels + k.to(tl.int64))[:, None] * cells + cell[None, :]
    mask = (k < channels)[:, None] & used[None, :]
    tl.store(grad + where, out.to(grad.dtype.element_ty), mask=mask)


class FusedColorPrior(torch.autograd.Function):
    """``SlicedColorPrior`` by the kernels: (layers, B) float32 losses.

    Kept for the backward pass: the logits themselves, two numbers a cell and one a pair, all of
    which the gradient is made from; it is written once, in the logits' dtype.

    Raises:
        ValueError: logits of a dtype that float32 sums do not serve, or of several.
    """

    @staticmethod
    def forward(
        ctx: Any,
        affinity: Tensor,
        offsets: list[tuple[int, int]],
        needs_grad: bool,
        *layers: Tensor,
    ) -> Tensor:
        _check(layers)
        z = stacked(layers)
        (count, batch, _), (height, width) = z.shape[:3], z.shape[3:]
        maps, pairs, device = count * batch, len(offsets), z.device
        highest = torch.empty((maps, height, width), dtype=torch.float32, device=device)
        total = torch.empty_like(highest)
        blocks = triton.cdiv(height * width, BLOCK_CELLS)
        partial = highest.new_empty((maps, pairs, blocks))
        weights = highest.new_empty((maps, pairs, height, width) if needs_grad else (1,))
        table = _offset_table(tuple(offsets), device)
        sizes = _sizes(z)
        with on_device(device):
            cell_kernel[(blocks, 1, maps)](z, highest, total, *sizes, **_BLOCKS)
            if pairs:
                pair_kernel[(blocks, pairs, maps)](
                    z,
                    affinity.contiguous().view(torch.uint8),
                    highest,
                    total,
                    table,
                    weights,
                    partial,
                    *sizes,
                    KEEP=needs_grad,
                    **_BLOCKS,
                )
        number = affinity.sum((1, 2, 3), dtype=torch.float32).clamp_(min=1)
        dead = highest.amax((1, 2)) == LEAST
        loss = partial.sum((1, 2)).masked_fill_(dead, 0).view(count, batch)
        if needs_grad:
            ctx.save_for_backward(highest, total, weights, number, table, *layers)
        return loss.div_(number)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        highest, total, weights, number, table, *layers = ctx.saved_tensors
        z = stacked(layers)
        count, batch, channels, height, width = z.shape
        out = z.new_empty(z.shape)
        scale = (grad / number).contiguous()
        blocks = triton.cdiv(height * width, BLOCK_CELLS)
        with on_device(z.device):
            gradient_kernel[(blocks, triton.cdiv(channels, BLOCK_CHANNELS), count * batch)](
                z,
                highest,
                total,
                table,
                weights,
                scale,
                out,
                *_sizes(z),
                OFFSETS=weights.shape[1],
                **_BLOCKS,
            )
        return (None, None, None, *out.unbind(0))


def stacked(layers: Sequence[Tensor]) -> Tensor:
    """(layers, B, K, h, w): a view where they lie evenly spaced in one storage, else a copy."""
    first = layers[0]
    if len(layers) == 1:
        return first.unsqueeze(0)
    starts = [z.storage_offset() for z in layers]
    step = starts[1] - starts[0]
    one = all(
        z.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and z.stride() == first.stride()
        for z in layers
    )
    if one and step >= 0 and starts == [starts[0] + i * step for i in range(len(layers))]:
        return first.as_strided((len(layers), *first.shape), (step, *first.stride()), starts[0])
    return torch.stack(tuple(layers))


def _sizes(z: Tensor) -> tuple[int, ...]:
    """Strides of (layers, B, K, h, w) logits, and B, K, h, w."""
    return (*z.stride(), *z.shape[1:])


@lru_cache(maxsize=64)
def _offset_table(offsets: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(offsets, 2) int32 of (dy, dx), uploaded once."""
    # Kept for later calls, which may run outside of inference mode.
    with torch.inference_mode(False):
        return upload(torch.tensor(offsets, dtype=torch.int32).view(-1, 2), device)


def _check(layers: Sequence[Tensor]) -> None:
    dtypes = {z.dtype for z in layers}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.bfloat16, torch.float16}:
        raise ValueError(
            f"the colour prior got logits of {sorted(map(str, dtypes))}; its Triton kernels sum in "
            "float32 and serve one of float32, bfloat16 and float16. Use the backend 'slices'."
        )

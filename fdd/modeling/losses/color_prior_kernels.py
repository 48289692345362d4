"""Triton kernels of the colour prior; the equations are those of ``SlicedColorPrior``.

A program serves a row of cells of one map, which lie side by side in its lanes; channels come in
blocks, so that any number of them works. All sums are float32, none is atomic: results are the same
in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fdd.modeling.losses.color_prior_slices import FLOOR

# Sizes that change with the image or the model: a kernel compiled for one of them serves all.
_ANY_SIZE = ("layer", "image", "channel", "row", "column", "images", "channels", "height", "width")
# Least float32. -inf less -inf is NaN; less this number it stays -inf, whose exponential is 0.
LEAST = -3.4028234663852886e38

_FLOOR = tl.constexpr(FLOOR)
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

"""Deformable attention as products with a sparse matrix: PyTorch and SciPy only, deterministic.

Bilinear sampling is a sparse matrix M: out = M value, where a query's row of M has four entries a
sample. M is made and used block by block, so that its entries stay in the cache and never exist all
at once. Three parts: the entries of M and their gradients (arithmetic that reads no values), the
products M V, M^T G and G V^T (PyTorch's embedding bag and sampled products, SciPy's CSR), and the
passes over the blocks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import scipy.sparse
import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn.reference import Shapes


class Levels(NamedTuple):
    """Constants of the level of each of a query's S = levels * points samples.

    Attributes:
        size: (2, 1, S) float, w and h.
        last: (2, 1, S) float, w - 1 and h - 1.
        width: (S,) int32, w.
        start: (S,) int32, the level's first cell among the cells of all levels.
    """

    size: Tensor
    last: Tensor
    width: Tensor
    start: Tensor


class Corners(NamedTuple):
    """The entries of M, and what their gradients need.

    A sample at cell coordinate t reads cells floor(t) and floor(t) + 1 along each axis, with the
    weights ("taps") 1 - frac(t) and frac(t), or 0 off the map.

    Attributes:
        rows: (..., 4, S) int32 rows of the value table, never out of range: M's columns. Corners in
            the order (y, x) = (0, 0), (0, 1), (1, 0), (1, 1).
        scale: (..., 4, S) attention weight times both taps.
        taps: of the lower and the upper cell, each (2, ..., S) for x and y.
        inside: as taps, 1 where the cell is on the map, else 0.
    """

    rows: Tensor
    scale: Tensor
    taps: tuple[Tensor, ...]
    inside: tuple[Tensor, ...]


@lru_cache(maxsize=1024)
def level_table(
    shapes: Shapes, points: int, dtype: torch.dtype, device: torch.device | str
) -> Levels:
    """Constants of the levels, uploaded once for each set of shapes."""
    columns, start = [], 0
    for h, w in shapes:
        columns += [(w, h, start)] * points
        start += h * w
    # Kept for later calls, which may run outside of inference mode.
    with torch.inference_mode(False):
        table = torch.tensor(columns, dtype=torch.int32).t().contiguous().to(device)
        size = table[:2, None]
        return Levels(size.to(dtype), (size - 1).to(dtype), table[0], table[2])


def sample_corners(
    locations: Tensor, weights: Tensor, levels: Levels, step: int, offset: Tensor
) -> Corners:
    """The four table rows of every sample, and their weights.

    Off-map cells keep a legal row and get the weight 0, so the table needs no padding. The row of a
    cell is ``cell * step + offset``.

    Args:
        locations: (..., S, 2) in [0, 1] of each level, (x, y); any stride, any finite value.
        weights: (..., S), any stride.
        levels: of :func:`level_table`.
        step: table rows between neighbouring cells.
        offset: int32, broadcastable to (..., S).
    """
    shape = weights.shape
    size, last = (t.view(2, *[1] * (len(shape) - 1), -1) for t in (levels.size, levels.last))
    part = weights.new_empty((2, *shape)).copy_(locations.movedim(-1, 0))
    part.mul_(size).sub_(0.5)
    low = part.floor()
    part.sub_(low)
    cells, inside = [], []
    for place in (low, low + 1):
        nearest = place.clamp(min=0)
        torch.minimum(nearest, last, out=nearest)
        # A NaN location reads some cell, with the weight NaN.
        cells.append(nearest.to(torch.int32).clamp_(min=0))
        inside.append(place.eq_(nearest))
    taps = torch.addcmul(inside[0], inside[0], part, value=-1), part.mul_(inside[1])
    first = levels.start * step + offset
    columns = [cell[0] * step if step > 1 else cell[0] for cell in cells]
    rows = torch.empty((*shape[:-1], 4, shape[-1]), dtype=torch.int32, device=part.device)
    scale = weights.new_empty(rows.shape)
    for v in (0, 1):
        row = (cells[v][1] * (levels.width * step)).add_(first)
        by_y = taps[v][1] * weights
        for u in (0, 1):
            rows[..., 2 * v + u, :] = row + columns[u]
            scale[..., 2 * v + u, :] = by_y * taps[u][0]
    return Corners(rows, scale, taps, (inside[0], inside[1]))


def sample_gradients(
    entries: Tensor, locations: Tensor, weights: Tensor, corners: Corners, levels: Levels
) -> tuple[Tensor, Tensor]:
    """Gradients of locations and attention weights from those of the matrix's entries.

    With e_vu the gradient of corner (v, u)'s entry and a the attention weight,
    da = sum_vu tap_v tap_u e_vu and dx = a * w * sum_v tap_v (e_v1 - e_v0), where an e_vu off the
    map is left out (its tap is 0 for good); dy likewise.

    Args:
        entries: (..., 4, S).
        locations, weights: of the forward pass, (..., S, 2) and (..., S).
        corners, levels: of the forward pass.

    Returns:
        (..., S, 2) for the locations, (..., S) for the weights.
    """
    e00, e01, e10, e11 = entries.unbind(-2)
    (x0, y0), (x1, y1) = (tap.unbind(0) for tap in corners.taps)
    (in_x0, in_y0), (in_x1, in_y1) = (tap.unbind(0) for tap in corners.inside)
    left, right = (y0 * e00).addcmul_(y1, e10), (y0 * e01).addcmul_(y1, e11)
    top, bottom = (x0 * e00).addcmul_(x1, e01), (x0 * e10).addcmul_(x1, e11)
    grad_weights = (x0 * left).addcmul_(x1, right)
    width, height = levels.size[:, 0]
    slope_x = (right.mul_(in_x1)).addcmul_(in_x0, left, value=-1).mul_(weights)
    slope_y = (bottom.mul_(in_y1)).addcmul_(in_y0, top, value=-1).mul_(weights)
    grad_locations = weights.new_empty((*weights.shape, 2))
    grad_locations[..., 0] = slope_x.mul_(width)
    grad_locations[..., 1] = slope_y.mul_(height)
    return grad_locations, grad_weights


# Products: M is given by ``columns`` and ``entries``, both (R, K), K entries in every row.

_SUM = 0  # mode of the embedding bag


def matrix_product(columns: Tensor, entries: Tensor, table: Tensor) -> Tensor:
    """M V, (R, d): row r is the sum of ``entries[r, k] * table[columns[r, k]]``.

    Args:
        columns: (R, K) int32, contiguous.
        entries: (R, K), contiguous, of the table's dtype.
        table: V, (C, d), contiguous.
    """
    return torch.ops.aten._embedding_bag_forward_only(
        table,
        columns.view(-1),
        _row_starts(columns),
        False,
        _SUM,
        False,
        entries.view(-1),
        include_last_offset=True,
    )[0]


def entry_gradient(columns: Tensor, entries: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """G V^T at the entries of M, (R, K): ``grad[r] . table[columns[r, k]]``.

    On the CPU it overwrites ``entries``, which are not needed any more and as large as all else.

    Args:
        columns, entries, table: as of :func:`matrix_product`.
        grad: G, (R, d), contiguous.
    """
    if columns.device.type == "cpu":
        _silence_beta_warning()
        matrix = _csr(columns, entries, table.shape[0])
        torch.sparse.sampled_addmm(matrix, grad, table.t(), beta=0.0, out=matrix)
        return entries
    bags = torch.arange(columns.shape[0], dtype=torch.int32, device=columns.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad,
        table,
        columns.view(-1),
        _row_starts(columns)[:-1],
        bags.repeat_interleave(columns.shape[1]),
        _SUM,
    ).view(columns.shape)


def transposed_product(columns: Tensor, entries: Tensor, grad: Tensor, size: int) -> Tensor:
    """M^T G, (C, d): row c is the sum of ``entries[r, k] * grad[r]`` over all entries in column c.

    Sums are taken in a fixed order: the result is the same in every run.

    Args:
        columns, entries, grad: as of :func:`entry_gradient`.
        size: C, columns of M.
    """
    if columns.device.type == "cpu":
        matrix = scipy.sparse.csr_array(
            (entries.view(-1).numpy(), columns.view(-1).numpy(), _row_starts(columns).numpy()),
            shape=(columns.shape[0], size),
        )
        # A transposed CSR is a CSC without any copy, and its product one pass over the entries.
        return torch.from_numpy(matrix.T @ grad.numpy())
    return sorted_transposed_product(columns, entries, grad, size)


def sorted_transposed_product(columns: Tensor, entries: Tensor, grad: Tensor, size: int) -> Tensor:
    """:func:`transposed_product` by sorting the entries by column: any device, no atomics."""
    by_column, order = columns.view(-1).sort(stable=True)
    bounds = torch.arange(size + 1, dtype=torch.int32, device=columns.device)
    starts = torch.searchsorted(by_column, bounds, out_int32=True)
    return torch.ops.aten._embedding_bag_forward_only(
        grad,
        (order // columns.shape[1]).to(torch.int32),
        starts,
        False,
        _SUM,
        False,
        entries.view(-1)[order],
        include_last_offset=True,
    )[0]


def in_threads(function: Callable[[int], Tensor], count: int) -> list[Tensor]:
    """``function(0), function(1), ...`` on as many threads as PyTorch uses.

    For functions that spend their time in SciPy, which releases the interpreter's lock.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return [function(i) for i in range(count)]
    return list(_pool(threads, os.getpid()).map(function, range(count)))


@lru_cache(maxsize=4)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Kept between calls; a forked process needs its own (threads do not survive a fork)."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"deform_attn_{pid}")


def _row_starts(columns: Tensor) -> Tensor:
    rows, length = columns.shape
    return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=columns.device)


def _csr(columns: Tensor, entries: Tensor, size: int) -> Tensor:
    return torch.sparse_csr_tensor(
        _row_starts(columns),
        columns.view(-1),
        entries.view(-1),
        (columns.shape[0], size),
        check_invariants=False,
    )


@lru_cache(maxsize=1)
def _silence_beta_warning() -> None:
    """Use up PyTorch's warning, given once a process, that CSR tensors are in beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _csr(torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1), 1)


# Passes over the blocks.

# Samples (queries x heads x levels x points) of one block: what fits a CPU's cache, and elsewhere
# what is worth a kernel.
_CPU_BLOCK, _OTHER_BLOCK = 1 << 17, 1 << 22


class Arithmetic(NamedTuple):
    """:func:`sample_corners` and :func:`sample_gradients`, as written or compiled."""

    corners: Callable[[Tensor, Tensor, Levels, int, Tensor], Corners]
    gradients: Callable[[Tensor, Tensor, Tensor, Corners, Levels], tuple[Tensor, Tensor]]


EAGER = Arithmetic(sample_corners, sample_gradients)


@dataclass(frozen=True)
class _Block:
    """Some images with all their heads, or some heads of one image.

    The first reads the values as they lie in memory (few queries: a copy would cost more than the
    sampling). The second copies each head's values together (many queries: the copy is small and
    stays in the cache).
    """

    images: slice
    heads: slice
    all_heads: bool

    def cut(self, tensor: Tensor) -> Tensor:
        """This block of a (B, Q, H, ...) tensor, a view: (b, Q, H, ...) or (h, Q, ...)."""
        if self.all_heads:
            return tensor[self.images]
        return tensor[self.images.start, :, self.heads].transpose(0, 1)

    def table(self, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, int, Tensor]:
        """Rows of values (C, d), rows between neighbouring cells, and each query's first row."""
        part = self.cut(value)
        count, cells, heads = (*part.shape[:2], value.shape[2])
        first = torch.arange(count, dtype=torch.int32, device=value.device).view(-1, 1, 1) * cells
        if not self.all_heads:
            return part.reshape(-1, part.shape[-1]).to(dtype), 1, first
        head = torch.arange(heads, dtype=torch.int32, device=value.device).view(1, 1, -1, 1)
        return part.reshape(-1, part.shape[-1]).to(dtype), heads, first[..., None] * heads + head


def _blocks(weights: Tensor) -> Iterator[_Block]:
    """Blocks that cover (B, Q, H, S) samples; heads in groups of one a thread."""
    batch, queries, heads, samples = weights.shape
    limit = _CPU_BLOCK if weights.device.type == "cpu" else _OTHER_BLOCK
    images = limit // (queries * heads * samples)
    if images:
        for i in range(0, batch, images):
            yield _Block(slice(i, min(i + images, batch)), slice(0, heads), True)
        return
    group = min(torch.get_num_threads(), heads)
    for i in range(batch):
        for h in range(0, heads, group):
            yield _Block(slice(i, i + 1), slice(h, min(h + group, heads)), False)


def forward(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, how: Arithmetic = EAGER
) -> Tensor:
    """(B, L, H, d) values -> (B, Q, H * d), in the values' dtype; sums in that of the weights."""
    batch, _, heads, dim = value.shape
    dtype, points = weights.dtype, weights.shape[-1]
    levels = level_table(shapes, points, dtype, value.device)
    locations, weights = locations.flatten(3, 4), weights.flatten(3)
    out = value.new_empty((batch, weights.shape[1], heads, dim))
    for block in _blocks(weights):
        table, step, first = block.table(value, dtype)
        matrix = how.corners(block.cut(locations), block.cut(weights), levels, step, first)
        target = block.cut(out)
        target.copy_(matrix_product(*_rows(matrix), table).view(target.shape))
    return out.flatten(2)


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    how: Arithmetic = EAGER,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in its tensor's shape and dtype."""
    dtype, points = weights.dtype, weights.shape[-1]
    levels = level_table(shapes, points, dtype, value.device)
    grad = grad.unflatten(-1, value.shape[2:])
    grad_value = value.new_empty(value.shape, dtype=dtype)
    grad_locations = torch.empty_like(locations, memory_format=torch.contiguous_format)
    grad_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    places, places_out = locations.flatten(3, 4), grad_locations.flatten(3, 4)
    scores, scores_out = weights.flatten(3), grad_weights.flatten(3)
    for block in _blocks(scores):
        table, step, first = block.table(value, dtype)
        samples = block.cut(places), block.cut(scores)
        matrix = how.corners(*samples, levels, step, first)
        part = block.cut(grad).to(dtype).reshape(-1, grad.shape[-1])
        columns, entries = _rows(matrix)
        grad_value = _put_value_gradient(grad_value, block, columns, entries, part)
        entries = entry_gradient(columns, entries, part, table).view(matrix.rows.shape)
        result = how.gradients(entries, *samples, matrix, levels)
        block.cut(places_out).copy_(result[0])
        block.cut(scores_out).copy_(result[1])
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _rows(matrix: Corners) -> tuple[Tensor, Tensor]:
    """Columns and entries as (R, 4 * S), one row a query and head."""
    shape = (-1, 4 * matrix.rows.shape[-1])
    return matrix.rows.view(shape), matrix.scale.view(shape)


def _put_value_gradient(
    grad_value: Tensor, block: _Block, columns: Tensor, entries: Tensor, grad: Tensor
) -> Tensor:
    """Fill this block's part of the value gradient; every value lies in exactly one block."""
    target = block.cut(grad_value)
    if block.all_heads:
        product = transposed_product(columns, entries, grad, target.shape[:3].numel())
        if target.shape == grad_value.shape:
            return product.view(target.shape)  # the only block: spare the copy
        target.copy_(product.view(target.shape))
        return grad_value
    count, cells = target.shape[:2]
    first = torch.arange(count, dtype=torch.int32, device=grad.device)[:, None, None] * cells
    columns = columns.view(count, -1, columns.shape[-1]) - first
    entries, grad = (t.view(count, -1, t.shape[-1]) for t in (entries, grad))

    def one_head(h: int) -> Tensor:
        return transposed_product(columns[h], entries[h], grad[h], cells)

    for h, product in enumerate(in_threads(one_head, count)):
        target[h].copy_(product)
    return grad_value

"""Deformable attention as products with a sparse matrix: PyTorch and SciPy only, deterministic.

The matrix is made and used block by block, so that its entries stay in the cache and never exist
all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fdd.modeling.layers.deform_attn import arithmetic
from fdd.modeling.layers.deform_attn.arithmetic import Levels, Shapes
from fdd.modeling.layers.deform_attn.products import (
    entry_gradient,
    in_threads,
    matrix_product,
    transposed_product,
)

# Samples (queries x heads x levels x points) of one block: what fits a CPU's cache, and elsewhere
# what is worth a kernel.
_CPU_BLOCK, _OTHER_BLOCK = 1 << 17, 1 << 22


class Arithmetic(NamedTuple):
    """The two pure functions between the products, as written or compiled."""

    corners: Callable[[Tensor, Tensor, Levels, int, Tensor], arithmetic.Corners]
    gradients: Callable[[Tensor, Tensor, Tensor, arithmetic.Corners, Levels], tuple[Tensor, Tensor]]


EAGER = Arithmetic(arithmetic.sample_corners, arithmetic.sample_gradients)


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
    value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes, how: Arithmetic = EAGER
) -> Tensor:
    """(B, L, H, d) values -> (B, Q, H * d), in the values' dtype; sums in that of the weights."""
    batch, _, heads, dim = value.shape
    dtype, points = weights.dtype, weights.shape[-1]
    levels = arithmetic.level_table(shapes, points, dtype, value.device)
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
    locations: Tensor,
    weights: Tensor,
    shapes: Shapes,
    how: Arithmetic = EAGER,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in its tensor's shape and dtype."""
    dtype, points = weights.dtype, weights.shape[-1]
    levels = arithmetic.level_table(shapes, points, dtype, value.device)
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


def _rows(matrix: arithmetic.Corners) -> tuple[Tensor, Tensor]:
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

"""The colour prior as three Triton kernels: logits are read in place, nothing of K maps is kept.

One kernel finds the highest logit and the sum of exponentials of each cell, one the loss of each
pair, and one, in the backward pass, gathers the gradient of a cell from its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.device import upload
from fdd.modeling.losses.color_prior_kernels import LEAST, cell_kernel, gradient_kernel, pair_kernel

# Cells and channels of a program, and its warps: one cell a lane, 8 loads under way in each.
BLOCK_CELLS, BLOCK_CHANNELS, WARPS = 128, 8, 4
_BLOCKS: dict[str, Any] = {
    "BLOCK": BLOCK_CELLS,
    "BLOCK_K": BLOCK_CHANNELS,
    "num_warps": WARPS,
}


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
        with _on(device):
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
        with _on(z.device):
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


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _check(layers: Sequence[Tensor]) -> None:
    dtypes = {z.dtype for z in layers}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.bfloat16, torch.float16}:
        raise ValueError(
            f"the colour prior got logits of {sorted(map(str, dtypes))}; its Triton kernels sum in "
            "float32 and serve one of float32, bfloat16 and float16. Use the backend 'slices'."
        )

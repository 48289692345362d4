"""The colour prior by tensor operators on slices of the map: any device, any precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.losses.affinity import Window, pair_windows

# Floor of a pair's probability. 1e-12 would already be wrong for logit gaps above 28; this holds to
# 69.
FLOOR = 1e-30
# On a CPU, logits handled at a time: their product with a neighbour's should stay in the cache.
_CPU_CHUNK = 1 << 19

Pairs = list[tuple[Window, Window]]


def _chunks(layers: Sequence[Tensor]) -> Iterator[tuple[slice, slice]]:
    """Slices of layers and of images to be handled together.

    All of them, to launch few kernels; on a CPU no more than fits into its cache, or one image.
    """
    batch, step = len(layers[0]), len(layers)
    images = batch
    if layers[0].device.type == "cpu":
        room = max(_CPU_CHUNK // layers[0][0].numel(), 1)
        images, step = min(batch, room), max(room // batch, 1)
    for layer in range(0, len(layers), step):
        for image in range(0, batch, images):
            yield slice(layer, layer + step), slice(image, image + images)


def _at(x: Tensor, window: Window) -> Tensor:
    """View of (n, h, K, w) ``x`` at the rows and columns of a window: ``x[:, rows, :, columns]``.

    In one step: with five views a pair, indexing would cost as much as the arithmetic of a small
    map.
    """
    rows, columns = window
    count, _, channels, _ = x.shape
    stride = x.stride()
    size = (count, rows.stop - rows.start, channels, columns.stop - columns.start)
    start = x.storage_offset() + rows.start * stride[1] + columns.start * stride[3]
    return x.as_strided(size, stride, start)


def _degree(affinity: Tensor, pairs: Pairs) -> Tensor:
    """(B, h, 1, w) float32: in how many pairs of (B, offsets, h, 1, w) uint8 a cell is."""
    degree = affinity.sum(1, dtype=torch.float32)
    for (first, second), affine in zip(pairs, affinity.unbind(1), strict=True):
        _at(degree, second).add_(_at(affine, first))
    return degree


def _exponentials(layers: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """exp(z - max_k z), and which maps have no channel at all.

    Args:
        layers: (B, K, h, w) logits.

    Returns:
        (n, h, K, w) with n = layers * B, and (n,) bool. Rows come first, so that operators over
        channels and over cells are cut into the same parts for the threads: no core has to fetch
        what another one wrote.
    """
    batch, channels, height, width = layers[0].shape
    e = layers[0].new_empty((len(layers) * batch, height, channels, width), dtype=dtype)
    for part, layer in zip(e.split(batch), layers, strict=True):
        part.copy_(layer.transpose(1, 2))
    highest = e.amax(2, keepdim=True)
    dead = highest.amax((1, 2, 3)) == -math.inf
    # -inf less -inf is NaN; less the least number it stays -inf, and e is 0.
    e.sub_(highest.clamp_(min=torch.finfo(dtype).min)).exp_()
    return e, dead


def _pair_sums(e: Tensor, pairs: Pairs, work: Tensor) -> Tensor:
    """(n, offsets, h, 1, w): sum_k e_ik e_jk of each pair, not below the floor.

    ``work``, as large as ``e`` and contiguous, is overwritten.
    """
    count, height, _, width = e.shape
    sums = e.new_zeros((count, len(pairs), height, 1, width))
    products = work.view(-1)
    for (first, second), out in zip(pairs, sums.unbind(1), strict=True):
        a, b = _at(e, first), _at(e, second)
        product = torch.mul(a, b, out=products[: a.numel()].view(a.shape))
        torch.sum(product, 2, keepdim=True, out=_at(out, first))
    return sums.clamp_(min=FLOOR)


def _pull(grad: Tensor, e: Tensor, weights: Tensor, pairs: Pairs) -> None:
    """Take sum_j weights_ij e_jk, over both directions of each pair, off (n, h, K, w) ``grad``."""
    for (first, second), weight in zip(pairs, weights.unbind(1), strict=True):
        weight = _at(weight, first)
        _at(grad, first).addcmul_(weight, _at(e, second), value=-1)
        _at(grad, second).addcmul_(weight, _at(e, first), value=-1)


def _loss_and_grad(
    layers: Sequence[Tensor], affinity: Tensor, degree: Tensor, pairs: Pairs, grad: Tensor | None
) -> Tensor:
    """-sum A log(sum_k p_ik p_jk) of each map, and into ``grad`` its gradient.

    Args:
        layers: (B, K, h, w) logits.
        affinity: (B, offsets, h, 1, w) uint8.
        degree: (B, h, 1, w) in the dtype to compute in.
        grad: (layers * B, h, K, w) or None.

    Returns:
        (layers * B,)
    """
    e, dead = _exponentials(layers, degree.dtype)
    weights = affinity.to(degree.dtype)
    if len(layers) > 1:
        weights, degree = (x.repeat(len(layers), *[1] * (x.dim() - 1)) for x in (weights, degree))
    total = e.sum(2, keepdim=True).clamp_(min=1)
    # Nothing stands in the gradient yet: it holds the products as long as they are needed.
    sums = _pair_sums(e, pairs, torch.empty_like(e) if grad is None else grad)
    loss = (total.log() * degree).sum((1, 2, 3))
    if grad is None:
        logs = sums.log_().mul_(weights)
    else:
        grad.copy_(degree / total)
        ratio = weights.div_(sums)
        _pull(grad, e, ratio, pairs)
        grad.mul_(e)
        del e  # makes room for the logarithms; A log s is (A / s) s log s
        logs = sums.log().mul_(sums).mul_(ratio)
    loss -= logs.sum((1, 2, 3, 4))
    return loss.masked_fill_(dead, 0)


class SlicedColorPrior(torch.autograd.Function):
    """-sum A log(sum_k p_ik p_jk) / max(sum A, 1) per layer and image, its gradient in closed form.

    With e = exp(z - max z), S = sum_k e and s_ij = sum_k e_ik e_jk the softmax need not be divided
    out: -log(sum_k p_ik p_jk) = log S_i + log S_j - log s_ij, and

        dL/dz_ik = e_ik (deg_i / S_i - sum_j A_ij e_jk / s_ij) / Z,

    where deg_i counts the affine neighbours of i. It is linear in what comes from above, so the
    forward pass makes it, and it is all that is kept: K values a cell, where the unfolded form
    keeps five maps per neighbour and channel. Below the floor of s the cell's own confident channel
    still gets its push down: such pairs do not go dead.
    """

    @staticmethod
    def forward(
        ctx: Any,
        affinity: Tensor,
        offsets: list[tuple[int, int]],
        needs_grad: bool,
        *layers: Tensor,
    ) -> Tensor:
        batch, channels, height, width = layers[0].shape
        pairs = [pair_windows(height, width, *offset) for offset in offsets]
        affinity = affinity.view(torch.uint8).unsqueeze(3)
        degree = _degree(affinity, pairs).to(torch.promote_types(layers[0].dtype, torch.float32))
        loss = degree.new_empty((len(layers), batch))
        shape = (len(layers), batch, height, channels, width)
        grads = degree.new_empty(shape) if needs_grad else None
        for layer, image in _chunks(layers):
            part = _loss_and_grad(
                [z[image] for z in layers[layer]],
                affinity[image],
                degree[image],
                pairs,
                None if grads is None else grads[layer, image].flatten(0, 1),
            )
            loss[layer, image] = part.view(loss[layer, image].shape)
        count = degree.sum((1, 2, 3)).div_(2).clamp_(min=1)
        ctx.save_for_backward(grads, count)
        ctx.dtypes = [z.dtype for z in layers]
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads, count = ctx.saved_tensors
        scale = (grad / count)[:, :, None, None, None]
        out = []
        for part, factor, dtype in zip(grads.transpose(2, 3), scale, ctx.dtypes, strict=True):
            like = torch.empty(part.shape, dtype=dtype, device=part.device)
            out.append(torch.mul(part, factor, out=like))
        return (None, None, None, *out)

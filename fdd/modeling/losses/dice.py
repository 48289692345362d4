"""Dice of soft masks with label maps at a finer stride, without up-sampling a single mask.

Let U be bilinear up-sampling of a coarse mask m (``align_corners=False``), K the known pixels
(0 or 1) and t a target on the fine grid. U is linear, so the sums of the dice loss of K U m with
K t are, exactly,

    sum K t (U m)   = sum m U^T(K t)        the *adjoint* of the target: one coarse map
    sum K (U m)^2   = sum m A m,            A = U^T K U: a cell and its eight neighbours

Adjoint and A depend on the labels only. They are made once a step, from the label map, and serve
all layers; nothing has the size (masks) x (fine pixels).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.device import no_autocast
from fdd.modeling.losses.common import full_precision


class FineTargets(NamedTuple):
    """What the dice of coarse masks needs to know of B fine label maps with N instances.

    Attributes:
        adjoint: (B, N, h, w) float, U^T(K t_n).
        stencil: (B, 4, h, w) float, entries of A = U^T K U: of a cell with itself, with its right
            and its lower neighbour, and (equal numbers) of the two diagonals of the square of
            cells that begins here.
        areas: (B, N) float, sum K t_n in fine pixels.
    """

    adjoint: Tensor
    stencil: Tensor
    areas: Tensor


def _taps(cells: int, factor: int, like: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """The two coarse cells, and their weights, of which each fine pixel along a side is made."""
    place = (torch.arange(cells * factor, device=like.device, dtype=like.dtype) + 0.5) / factor
    place = (place - 0.5).clamp_(min=0)
    low = place.floor()
    share = place - low
    first = low.long()
    return (first, 1 - share), ((first + 1).clamp_(max=cells - 1), share)


def _products(cells: int, factor: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(fine, cells) matrices U[y, v] U[y, v] and U[y, v] U[y, v + 1] of a side."""
    matrix = like.new_zeros(cells * factor, cells)
    for cell, weight in _taps(cells, factor, like):
        matrix.scatter_add_(1, cell[:, None], weight[:, None])
    shifted = torch.nn.functional.pad(matrix[:, 1:], (0, 1))
    return matrix * matrix, matrix * shifted


@torch.no_grad()
def fine_targets(
    labels: Tensor,
    known: Tensor,
    num_instances: int,
    grid: tuple[int, int],
    dtype: torch.dtype = torch.float32,
) -> FineTargets:
    """Everything that the dice losses and costs need to know of the labels.

    Args:
        labels: (B, H, W) integer instance map, -1 where no instance is.
        known: (B, H, W) bool, pixels that count.
        num_instances: N.
        grid: (h, w) of the masks; H / h and W / w are the same whole number.

    Raises:
        ValueError: grids that do not fit.
    """
    batch, height, width = labels.shape
    rows, columns = grid
    factor = height // rows
    if (rows * factor, columns * factor) != (height, width):
        raise ValueError(
            f"labels of {height} x {width} are not a whole multiple of masks of {grid}"
        )
    inside = known.to(dtype)
    stencil = _stencil(inside, grid, factor)
    slots = num_instances + 1  # the last takes the pixels that are unknown or of no instance
    slot = torch.where(known & (labels >= 0), labels.long(), num_instances)
    slot = slot + torch.arange(batch, device=labels.device).view(-1, 1, 1) * slots
    areas = inside.new_zeros(batch * slots)
    areas.scatter_add_(0, slot.flatten(), torch.ones_like(inside).flatten())
    adjoint = inside.new_zeros(batch * slots * rows * columns)
    start = slot * (rows * columns)
    # Sums of multiples of 1 / (2 factor)^2: exact, whatever order a device adds them in.
    for row, down in _taps(rows, factor, inside):
        for column, across in _taps(columns, factor, inside):
            cell = start + (row * columns)[:, None] + column
            weight = (down[:, None] * across).expand(batch, -1, -1)
            adjoint.scatter_add_(0, cell.flatten(), weight.flatten())
    adjoint = adjoint.view(batch, slots, rows, columns)
    return FineTargets(adjoint[:, :-1], stencil, areas.view(batch, slots)[:, :-1])


def _stencil(inside: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """(B, 4, h, w) entries of A: sums over pixels of K times products of their weights, which are
    products of a row's and a column's."""
    across = _products(grid[1], factor, inside)
    down = _products(grid[0], factor, inside)
    with no_autocast(inside.device):
        own, right = (inside @ m for m in across)
        parts = [down[0].T @ own, down[0].T @ right, down[1].T @ own, down[1].T @ right]
    return torch.stack(parts, 1)


def _quadratic(masks: Tensor, stencil: Tensor) -> Tensor:
    """A m: (..., h, w) masks times the (..., 4, h, w) stencil, each neighbour pair both ways."""
    own, right, below, diagonal = stencil.unbind(-3)
    out = own * masks
    pairs = (
        (right[..., :-1], (slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        (below[..., :-1, :], (slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        (diagonal[..., :-1, :-1], (slice(None, -1), slice(None, -1)), (slice(1, None),) * 2),
        (
            diagonal[..., :-1, :-1],
            (slice(None, -1), slice(1, None)),
            (slice(1, None), slice(None, -1)),
        ),
    )
    for weight, a, b in pairs:
        out[(..., *a)].addcmul_(weight, masks[(..., *b)])
        out[(..., *b)].addcmul_(weight, masks[(..., *a)])
    return out


def _sum_product(a: Tensor, b: Tensor) -> Tensor:
    """sum over the last two axes of a * b, without the product."""
    return torch.einsum("...yx,...yx->...", a, b)


class _UpsampledDice(torch.autograd.Function):
    """1 - 2 o / D with o = sum m adj, D = sum m A m + area + 2 eps, and its gradient

    dL/dm = -2 adj / D + (4 o / D^2) A m.
    """

    @staticmethod
    def forward(
        ctx: Any, masks: Tensor, adjoint: Tensor, stencil: Tensor, areas: Tensor, eps: float
    ) -> Tensor:
        spread = _quadratic(masks, stencil)
        overlap = _sum_product(masks, adjoint)
        size = _sum_product(masks, spread) + areas + 2 * eps
        ctx.save_for_backward(spread, adjoint, overlap, size)
        return 1 - 2 * overlap / size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        spread, adjoint, overlap, size = ctx.saved_tensors
        toward = (4 * grad * overlap / size.square())[..., None, None] * spread
        return toward.sub_((2 * grad / size)[..., None, None] * adjoint), None, None, None, None


def upsampled_dice_loss(
    masks: Tensor, adjoint: Tensor, stencil: Tensor, areas: Tensor, eps: float = 1e-3
) -> Tensor:
    """1 - 2 sum(p t) / (sum p^2 + sum t^2 + 2 eps), p the up-sampled masks, over known pixels.

    Args:
        masks: (layers, R, h, w) float in [0, inf), used as they are.
        adjoint: (R, h, w), stencil: (R, 4, h, w), areas: (R,) of each mask's target: rows of
            :class:`FineTargets`.
        eps: half of the constant in the denominator.

    Returns:
        (layers, R) float. 1 with gradient 0 where the target is empty.

    Raises:
        ValueError: shapes that do not fit.
    """
    if masks.dim() != 4 or masks.shape[1:] != adjoint.shape or len(areas) != masks.shape[1]:
        raise ValueError(
            f"masks, adjoint and areas have shapes {tuple(masks.shape)}, {tuple(adjoint.shape)} "
            f"and {tuple(areas.shape)}; expected (layers, R, h, w), (R, h, w) and (R,)"
        )
    masks = full_precision(masks)
    rows = (x.to(masks.dtype) for x in (adjoint, stencil, areas))
    with no_autocast(masks.device):
        return _UpsampledDice.apply(masks, *rows, eps)


@torch.no_grad()
def pairwise_dice_cost(masks: Tensor, targets: FineTargets, eps: float = 1e-3) -> Tensor:
    """The dice loss of every mask with every instance of its image, as a matching cost.

    Args:
        masks: (B, M, h, w) float in [0, inf).
        targets: of the same B images.
        eps: as in :func:`upsampled_dice_loss`.

    Returns:
        (B, M, N) float.
    """
    masks = full_precision(masks)
    adjoint, stencil, areas = (x.to(masks.dtype) for x in targets)
    with no_autocast(masks.device):
        overlap = masks.flatten(2) @ adjoint.flatten(2).transpose(1, 2)
        own = _sum_product(masks, _quadratic(masks, stencil[:, None]))
    return 1 - 2 * overlap / (own[..., None] + areas[:, None] + 2 * eps)

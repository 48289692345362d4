"""Shares of the area: a segment's share of an image is not its share of the points. Ours, not the
paper's.

Points are laid by the segment, few or many of each, whatever its size. A branch that learns from
them expects every place to belong to each segment as often as points do: a window is then as likely
as the wall around it, and its label too large. That is known as prior shift, and has a remedy that
asks for nothing new (Saerens, Latinne and Decaestecker, Neural Computation 2002). With z the
logits, q_n the share of the points and p_n that of the area, what belongs to instance n is

    softmax_n(z_n(i) + log(p_n / q_n)),

and p_n its mean over the image: a fixed point, found by repeating the two (EM). Things of a class
share theirs evenly, lest of two that touch the larger takes all. A thing whose extent is known
(:mod:`fdd.modeling.extents`) is as large as its points say, and is left as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fdd.modeling.device import no_autocast
from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.structures import PointBatch

# Shares change by less than a hundredth after a handful.
_ROUNDS = 10


@torch.no_grad()
def with_shares(
    output: BranchOutput, points: PointBatch, valid: Tensor, num_things: int
) -> BranchOutput:
    """The output whose last layer's logits are of the shares of the area.

    Args:
        output: of the label branch; without instance logits it is given back.
        points: those that the queries are made of.
        valid: (B, h, w) bool, stride-8 cells inside the image.
        num_things: classes below it are things.
    """
    if not output.instance:
        return output
    logits, classes = output.instance[-1], points.classes
    place = points.point_image * classes.shape[1] + points.point_instance
    number = torch.bincount(place, minlength=classes.numel()).view_as(classes)
    held = torch.zeros_like(classes, dtype=torch.bool)
    if output.extents is not None:
        held = output.extents.extents.known & (classes < num_things)
    with no_autocast(logits.device):
        added = share_offsets(logits.float(), classes, number, held, valid, num_things)
    balanced = logits + added[..., None, None].to(logits)
    return replace(output, instance=[*output.instance[:-1], balanced])


def share_offsets(
    logits: Tensor, classes: Tensor, number: Tensor, held: Tensor, valid: Tensor, num_things: int
) -> Tensor:
    """log(p_n / q_n), up to a constant: what is to be added to the logits.

    q_n follows from the mean number of points of things, and of stuff classes: who clicks a segment
    once more does not mean it to be smaller. No share is below one cell's. Where there are held
    instances, the constant is such that they keep, on the whole, their logits against the others.

    Args:
        logits: (B, N, h, w) float32; -inf for padded instances.
        classes: (B, N) int64, things first, -1 where padded.
        number: (B, N) int64, points of each instance.
        held: (B, N) bool, instances whose logits are to stay.
        valid: (B, h, w) bool, cells to look at.
        num_things: classes below it are things.

    Returns:
        (B, N) float32, 0 for held and padded instances.
    """
    real = classes >= 0
    thing = real & (classes < num_things)
    free = real & ~held
    cells = valid.flatten(1)
    # exp(z) of the valid cells, scaled to at most 1 in each; of padded instances 0.
    z = logits.flatten(2).masked_fill(~real[..., None], -torch.inf)
    likely = (z - z.amax(1, keepdim=True).nan_to_num(neginf=0.0)).exp() * cells[:, None]
    usual = torch.where(thing, _mean_of(number, thing), _mean_of(number, real & ~thing))
    log_q = usual.clamp(min=1.0).log()
    count = cells.sum(1, keepdim=True).clamp(min=1).to(likely)
    # Members of a class share what it has, (B, N, N) averages.
    alike = (classes[:, :, None] == classes[:, None]) & (free[:, :, None] & free[:, None])
    average = alike / alike.sum(2, keepdim=True).clamp(min=1)
    # Held things cannot change: the others must not grow or shrink against them as a whole.
    anchors = free & torch.where((free & ~thing).any(1, keepdim=True), ~thing, thing)
    offset = torch.zeros_like(log_q)
    for _ in range(_ROUNDS):
        weight = offset.exp() * real
        total = torch.einsum("bn,bni->bi", weight, likely)
        inverse = cells / total.clamp(min=torch.finfo(total.dtype).tiny)
        share = weight * torch.einsum("bni,bi->bn", likely, inverse) / count
        share = torch.einsum("bnk,bk->bn", average, share).maximum(1 / count)
        offset = (share.log() - log_q).masked_fill(~free, 0.0)
        known = share * anchors
        mean = (known * offset).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1e-6)
        offset = (offset - mean).masked_fill(~free, 0.0)
    return offset


def _mean_of(number: Tensor, chosen: Tensor) -> Tensor:
    """(B, 1) float32 mean of the chosen."""
    chosen = chosen.float()
    return (number * chosen).sum(1, keepdim=True) / chosen.sum(1, keepdim=True).clamp(min=1)

"""Shares of the area: a segment's share of an image is not its share of the points. Ours, not the
paper's.

Points are laid by the segment, few or many of each, whatever its size. A branch that learns from
them expects every place to belong to each segment as often as points do: a window is then as likely
as the wall around it, and its label too large. That is known as prior shift, and has a remedy that
asks for nothing new (Saerens, Latinne and Decaestecker, Neural Computation 2002). With z the
logits, q_n the share of the points and p_n that of the area, what belongs to instance n is

    softmax_n(z_n(i) + log(p_n / q_n)),

and p_n its mean over the image: a fixed point, approached by repeating the two (EM). Things of a
class share theirs evenly; otherwise, of two that touch, the larger would take everything. A thing
whose extent is known (:mod:`fdd.modeling.extents`) is as large as its points say; it, and others of
its class, are left as they are. Logits that say too little, such as those of a training that has
just begun, end with nothing for the stuff: there everything is left as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fdd.modeling.device import no_autocast
from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.structures import PointBatch

# With logits that separate the segments, shares then change by less than a hundredth.
_ROUNDS = 10
# An image whose stuff would lose more of its cells than this is left as it is.
_MOST_LOST = 0.5
_TINY = 1e-6


@torch.no_grad()
def with_shares(
    output: BranchOutput, points: PointBatch, valid: Tensor, num_things: int
) -> BranchOutput:
    """The output, its last layer's logits corrected for shares of the area.

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
    # Not bincount: a device would be waited for.
    number = torch.zeros(classes.numel(), dtype=torch.long, device=classes.device)
    number = number.scatter_add_(0, place, torch.ones_like(place)).view_as(classes)
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
    once more does not mean it to be smaller. No share is below one cell's. Where instances are left
    as they are, the constant is such that the stuff (or, without any, the other things) keeps its
    probability against them as a whole.

    Args:
        logits: (B, N, h, w) float32; -inf for padded instances.
        classes: (B, N) int64, things first, -1 where padded.
        number: (B, N) int64, points of each instance.
        held: (B, N) bool, things whose logits are to stay, and with them those of their class.
        valid: (B, h, w) bool, cells to look at.
        num_things: classes below it are things.

    Returns:
        (B, N) float32, 0 for what stays and for padded instances.
    """
    real = classes >= 0
    thing = real & (classes < num_things)
    alike = (classes[:, :, None] == classes[:, None]) & (real[:, :, None] & real[:, None])
    stays = (alike & held[:, None]).any(2)
    free = real & ~stays
    cells = valid.flatten(1)
    z = logits.flatten(2).masked_fill(~real[..., None], -torch.inf)
    # exp(z) of the valid cells, scaled to at most 1 in each; of padded instances 0.
    likely = (z - z.amax(1, keepdim=True).nan_to_num(neginf=0.0)).exp_().mul_(cells[:, None])
    usual = torch.where(thing, _mean_of(number, thing), _mean_of(number, real & ~thing))
    log_q = usual.clamp(min=1.0).log()
    count = cells.sum(1, keepdim=True).clamp(min=1).to(likely)
    alike &= free[:, :, None] & free[:, None]
    average = alike / alike.sum(2, keepdim=True).clamp(min=1)
    stuff = free & ~thing
    anchors = torch.where(stuff.any(1, keepdim=True), stuff, free)
    offset = torch.zeros_like(log_q)
    lift = torch.zeros_like(count)
    share = _mean_share(offset, likely, cells, count, real)
    whole = _log_odds(share, anchors)
    for _ in range(_ROUNDS):
        pooled = torch.einsum("bnk,bk->bn", average, share).maximum(1 / count)
        offset = (pooled.log() - log_q).masked_fill(~free, 0.0)
        known = share * anchors
        mean = (known * offset).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=_TINY)
        offset = (offset - mean + lift).masked_fill(~free, 0.0)
        share = _mean_share(offset, likely, cells, count, real)
        gain = whole - _log_odds(share, anchors)
        lift = lift + gain.masked_fill(~stays.any(1, keepdim=True), 0.0)
    before, after = (_stuff_cells(maps, stuff, cells) for maps in (z, z + offset[..., None]))
    return offset.masked_fill((after < _MOST_LOST * before)[:, None], 0.0)


def _mean_share(
    offset: Tensor, likely: Tensor, cells: Tensor, count: Tensor, real: Tensor
) -> Tensor:
    """(B, N) mean probability over the cells, of logits with an offset."""
    weight = offset.exp() * real
    total = torch.einsum("bn,bni->bi", weight, likely)
    inverse = cells / total.clamp(min=torch.finfo(total.dtype).tiny)
    return weight * torch.einsum("bni,bi->bn", likely, inverse) / count


def _log_odds(share: Tensor, chosen: Tensor) -> Tensor:
    """(B, 1) log-odds of what the chosen have together."""
    return (share * chosen).sum(1, keepdim=True).clamp(_TINY, 1 - _TINY).logit()


def _stuff_cells(maps: Tensor, stuff: Tensor, cells: Tensor) -> Tensor:
    """(B,) cells whose largest value, of (B, N, h * w), is that of stuff."""
    return (stuff.gather(1, maps.argmax(1)) & cells).sum(1)


def _mean_of(number: Tensor, chosen: Tensor) -> Tensor:
    """(B, 1) float32 mean over those of the chosen that have any."""
    chosen = (chosen & (number > 0)).float()
    return (number * chosen).sum(1, keepdim=True) / chosen.sum(1, keepdim=True).clamp(min=1)

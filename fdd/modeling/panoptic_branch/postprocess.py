"""Mask-wise merging of thing and stuff masks into one panoptic map (Panoptic SegFormer's rule)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Values of an up-sampled map that may exist at once, in float32: 32 MiB.
_CHUNK_VALUES = 1 << 23
# Up-sampling rounds; masks this close to a bound are up-sampled and judged by their real values.
_SLACK = 1e-4


def resize_masks(
    masks: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Tensor:
    """Bilinear twice, as PSPS: to the padded input, cut to the image, to the original size.

    Args:
        masks: (Q, h, w) float over the padded input.
        padded_size: (H, W) of the padded input in px.
        image_size: (H, W) of the input without padding.
        output_size: (H, W) of the original image.

    Returns:
        (Q, *output_size) float.
    """
    maps = F.interpolate(masks[None], size=padded_size, mode="bilinear", align_corners=False)
    maps = maps[..., : image_size[0], : image_size[1]]
    if tuple(output_size) != tuple(image_size):
        maps = F.interpolate(maps, size=output_size, mode="bilinear", align_corners=False)
    return maps[0]


def _check_inputs(masks: Tensor, scores: Tensor, classes: Tensor, kind: str) -> None:
    shapes = tuple(masks.shape), tuple(scores.shape), tuple(classes.shape)
    if masks.dim() != 3 or scores.shape != masks.shape[:1] or classes.shape != masks.shape[:1]:
        raise ValueError(
            f"{kind} masks, scores and classes have shapes {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]}; expected (Q, h, w), (Q,) and (Q,)"
        )
    if not bool(masks.isfinite().all() & scores.isfinite().all()):
        raise ValueError(
            f"{kind} masks or scores hold NaN or infinity; the model has diverged, or its "
            "checkpoint is damaged"
        )


def _score_masks(
    masks: Tensor,
    scores: Tensor,
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    score_threshold: float,
    mask_threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Full-size binary masks of the queries that reach the score threshold, best first.

    Returns:
        kept: (K,) int64 query; final: (K,) float score; binary: (K, H, W) bool.
    """
    # A bilinear value never exceeds the coarse maximum (masks may exceed 1), so neither the mask
    # score nor the binary mask can: most queries go here, before anything is made full size.
    peak = masks.flatten(1).amax(1)
    alive = peak > mask_threshold - _SLACK
    alive &= scores * peak.clamp(min=0).square() * (1 + _SLACK) >= score_threshold
    candidates = alive.nonzero().squeeze(1)
    kept: list[Tensor] = [candidates[:0]]
    final: list[Tensor] = [scores[:0]]
    binary: list[Tensor] = [masks.new_zeros((0, *sizes[2]), dtype=torch.bool)]
    pixels = max(h * w for h, w in sizes)
    step = max(1, _CHUNK_VALUES // pixels)
    for start in range(0, len(candidates), step):
        part = candidates[start : start + step]
        maps = resize_masks(masks[part], *sizes)
        inside = maps > mask_threshold
        area = inside.sum((1, 2))
        mask_score = maps.mul_(inside).sum((1, 2)) / (area + 1)
        score = scores[part] * mask_score.square()
        good = (score >= score_threshold) & (area > 0)
        kept.append(part[good])
        final.append(score[good])
        binary.append(inside[good])
    order = torch.cat(final).sort(descending=True, stable=True).indices
    return torch.cat(kept)[order], torch.cat(final)[order], torch.cat(binary)[order]


def _paint(binary: Tensor, max_overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Paint masks in order, each where nothing is yet, unless too much of it is covered.

    Returns:
        (H, W) int32, 1 + position of the mask that owns the pixel, 0 for none; (K,) int64 painted
        area. Nothing is read back from the device on the way.
    """
    owner = torch.zeros(binary.shape[1:], dtype=torch.int32, device=binary.device)
    painted = []
    for position, (mask, limit) in enumerate(zip(binary, max_overlap, strict=True), start=1):
        fresh = mask & (owner == 0)
        area, left = mask.sum(), fresh.sum()
        keep = (area - left) / area <= limit
        owner.masked_fill_(fresh & keep, position)
        painted.append(left * keep)
    return owner, torch.stack(painted) if painted else owner.new_zeros(0, dtype=torch.long)


@torch.no_grad()
def merge_masks(
    thing_masks: Tensor,
    thing_scores: Tensor,
    thing_classes: Tensor,
    stuff_masks: Tensor,
    stuff_scores: Tensor,
    *,
    num_things: int,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    score_threshold: float = 0.25,
    mask_threshold: float = 0.5,
    thing_overlap: float = 0.4,
    stuff_overlap: float = 0.2,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """One panoptic map from scored soft masks.

    The score of a mask is class score * mask score^2, where the mask score is its mean value over
    its own pixels, sum(m [m > t]) / (area + 1). Best first, a mask is dropped if more than its
    share of overlap is taken, and else painted where nothing is yet.

    Args:
        thing_masks: (Q, h, w) float over the padded input (stride 8), values in [0, inf).
        thing_scores: (Q,) float class scores in [0, 1]. A query may occur with several classes.
        thing_classes: (Q,) int64 contiguous class, below ``num_things``.
        stuff_masks: (S, h, w) float, the k-th belongs to stuff class k.
        stuff_scores: (S,) float in [0, 1].
        num_things: number of thing classes; stuff class k is category ``num_things + k``.
        padded_size: (H, W) px of the padded input.
        image_size: (H, W) px of the input without padding.
        output_size: (H, W) px of the original image.
        score_threshold: masks with a lower score are dropped.
        mask_threshold: a pixel belongs to a mask above (strictly) this value.
        thing_overlap, stuff_overlap: largest share of a mask that may be taken already.

    Returns:
        panoptic: (H, W) int32 of the original size, 0 void, segments from 1 in order of score.
        segments_info: one ``{"id", "category_id", "isthing", "score", "area"}`` a segment, score
            in [0, 1], area in px of the map.

    Raises:
        ValueError: NaN or infinity in masks or scores, or shapes that do not fit.
    """
    stuff_classes = torch.arange(len(stuff_scores), device=stuff_scores.device) + num_things
    _check_inputs(thing_masks, thing_scores, thing_classes, "thing")
    _check_inputs(stuff_masks, stuff_scores, stuff_classes, "stuff")
    masks = torch.cat((thing_masks, stuff_masks)).float()
    scores = torch.cat((thing_scores, stuff_scores)).float()
    classes = torch.cat((thing_classes.to(stuff_classes), stuff_classes))

    sizes = (padded_size, image_size, output_size)
    kept, final, binary = _score_masks(masks, scores, sizes, score_threshold, mask_threshold)
    is_stuff = kept >= len(thing_masks)
    limits = torch.where(is_stuff, final.new_tensor(stuff_overlap), thing_overlap)
    owner, areas = _paint(binary, limits)

    # Dropped masks leave gaps in the positions; ids have none.
    shown = areas > 0
    ids = (shown.cumsum(0) * shown).to(torch.int32)
    panoptic = torch.cat((ids.new_zeros(1), ids))[owner.long()]
    segments = [
        {"id": i, "category_id": c, "isthing": not stuff, "score": score, "area": area}
        for i, c, stuff, score, area in zip(
            ids.tolist(),
            classes[kept].tolist(),
            is_stuff.tolist(),
            # Masks have no upper bound: beyond 1 a score is for the order, not for readers.
            final.clamp(max=1).tolist(),
            areas.tolist(),
            strict=True,
        )
        if i > 0
    ]
    return panoptic, segments

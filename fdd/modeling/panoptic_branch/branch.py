"""Panoptic segmentation branch: location decoder, mask decoders, classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdd.modeling.layers import MaskStack, Memory
from fdd.modeling.losses.dice import pairwise_dice_cost
from fdd.modeling.matcher import Matches, assign, matching_cost
from fdd.modeling.panoptic_branch import criterion
from fdd.modeling.panoptic_branch.location_decoder import Detections, LocationDecoder
from fdd.modeling.panoptic_branch.targets import PanopticTargets

# Cost factors of Panoptic SegFormer's second matching, beside those of boxes.
_SECOND_CLASS_COST, _SECOND_DICE_COST = 4.0, 2.0
# Cost of a padded row: worse than any real pair, small enough for exact sums.
_NEVER = 1e6


@dataclass(frozen=True)
class PanopticPrediction:
    """Candidates of B images, before merging.

    Attributes:
        thing_masks: (B, K, h, w) in [0, inf) at stride 8 of the padded image.
        thing_scores, thing_classes: (B, K), class probability and class.
        stuff_masks: (B, Cst, h, w). stuff_scores: (B, Cst).
    """

    thing_masks: Tensor
    thing_scores: Tensor
    thing_classes: Tensor
    stuff_masks: Tensor
    stuff_scores: Tensor


@dataclass(frozen=True)
class LossSettings:
    """Weights and constants of the branch's losses (``MODEL.FDD.PAN``)."""

    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    dice_weight: float = 2.0
    stuff_class_weight: float = 4.0
    alpha: float = 0.25
    gamma: float = 2.0
    dice_eps: float = 1e-3
    ratio_weighting: bool = True
    max_pos: int = 1


class PanopticBranch(nn.Module):
    """Panoptic SegFormer's head, in its own form or in PSPS's simplified one."""

    def __init__(
        self,
        *,
        dim: int,
        num_things: int,
        num_stuff: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        num_queries: int,
        location_layers: int,
        thing_layers: int,
        stuff_layers: int,
        ffn_dim: int,
        dropout: float,
        attn_tail: bool,
        fuse_init: str,
        max_detections: int,
        losses: LossSettings,
        mask_levels: int = 3,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.num_things, self.num_stuff = num_things, num_stuff
        self.max_detections, self.losses, self.mask_levels = max_detections, losses, mask_levels
        common: dict[str, Any] = {
            "dim": dim,
            "num_heads": num_heads,
            "ffn_dim": 4 * dim,
            "num_levels": mask_levels,
            "tail": attn_tail,
            "init": fuse_init,
            "use_checkpoint": use_checkpoint,
        }
        if num_things:
            self.location = LocationDecoder(
                dim=dim,
                num_things=num_things,
                num_queries=num_queries,
                num_heads=num_heads,
                ffn_dim=ffn_dim,
                num_layers=location_layers,
                num_levels=num_levels,
                num_points=num_points,
                dropout=dropout,
            )
            self.thing_stack = MaskStack(num_layers=thing_layers, self_attention=False, **common)
        if num_stuff:
            self.stuff_query = nn.Embedding(num_stuff, dim)
            self.stuff_pos = nn.Embedding(num_stuff, dim)
            self.stuff_stack = MaskStack(
                num_layers=stuff_layers, self_attention=True, update_last=True, **common
            )
            self.stuff_class_heads = nn.ModuleList(nn.Linear(dim, 1) for _ in range(stuff_layers))

    def losses_of(
        self, memory: Memory, targets: PanopticTargets, num_things: Tensor, num_stuff: Tensor
    ) -> dict[str, Tensor]:
        """Weighted training losses.

        Args:
            memory: encoder output, all levels.
            targets: see :class:`PanopticTargets`.
            num_things, num_stuff: scalars, labelled things and stuff classes of the whole step.

        Returns:
            Scalars by name; every parameter of the branch is in their graph.
        """
        ratio = num_things / (num_things + num_stuff).clamp(min=1)
        if not self.losses.ratio_weighting:
            ratio = torch.ones_like(ratio)
        share = 1 - ratio if self.losses.ratio_weighting else ratio
        out: dict[str, Tensor] = {}
        if self.num_things:
            things = self._thing_losses(memory, targets)
            out |= {k: v * ratio / num_things.clamp(min=1) for k, v in things.items()}
        if self.num_stuff:
            stuff = self._stuff_losses(memory, targets)
            out |= {k: v * share / num_stuff.clamp(min=1) for k, v in stuff.items()}
        return out

    def _thing_losses(self, memory: Memory, targets: PanopticTargets) -> dict[str, Tensor]:
        s = self.losses
        detections = self.location(memory)
        cost = matching_cost(
            detections.logits,
            detections.boxes,
            targets.classes.clamp(0, self.num_things - 1),
            targets.boxes,
            class_weight=s.class_weight,
            l1_weight=s.l1_weight,
            giou_weight=s.giou_weight,
            alpha=s.alpha,
            gamma=s.gamma,
        )
        matches = assign(cost, targets.is_thing, rounds=s.max_pos)
        focal, l1, giou = criterion.location_losses(detections, matches, targets, s.alpha, s.gamma)

        keep = matches.layer >= len(detections.logits) - 1
        image, query = matches.image[keep], matches.query[keep]
        order = image.sort(stable=True).indices
        image, query, target = image[order], query[order], matches.target[keep][order]
        slot, content = _pack(image, query, detections.queries)
        masks, _ = self.thing_stack(content, None, memory.finest(self.mask_levels))
        if s.max_pos > 1:
            image, slot, target = self._second_match(
                detections, masks[-1], image, query, slot, targets
            )
        dice = criterion.thing_mask_loss(masks, image, slot, target, targets, s.dice_eps)
        return {
            "loss_thing_class": s.class_weight * focal,
            "loss_box_l1": s.l1_weight * l1,
            "loss_box_giou": s.giou_weight * giou,
            "loss_thing_dice": s.dice_weight * dice,
        }

    @torch.no_grad()
    def _second_match(
        self,
        detections: Detections,
        masks: Tensor,
        image: Tensor,
        query: Tensor,
        slot: Tensor,
        targets: PanopticTargets,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One of the up to ``max_pos`` queries of each thing keeps its mask loss: the one whose
        class, box and mask fit best. Returns (image, slot, target) of the kept pairs."""
        s = self.losses
        batch, most = masks.shape[:2]
        packed = query.new_zeros(batch, most)
        packed[image, slot] = query
        rows = torch.arange(batch, device=query.device)[:, None]
        cost = matching_cost(
            detections.logits[-1][rows, packed],
            detections.boxes[-1][rows, packed],
            targets.classes.clamp(0, self.num_things - 1),
            targets.boxes,
            class_weight=_SECOND_CLASS_COST,
            l1_weight=s.l1_weight,
            giou_weight=s.giou_weight,
            alpha=s.alpha,
            gamma=s.gamma,
        )
        for b in range(batch):
            cost[b] += _SECOND_DICE_COST * self._dice_cost(masks[b], b, targets)
        real = torch.zeros(batch, most, dtype=torch.bool, device=query.device)
        real[image, slot] = True
        cost = cost.masked_fill(~real[..., None], _NEVER)
        found: Matches = assign(cost[None], targets.is_thing)
        return found.image, found.query, found.target

    def _dice_cost(self, masks: Tensor, image: int, targets: PanopticTargets) -> Tensor:
        """(M, h, w) masks of one image against its instances at the masks' resolution: (M, N)."""
        labels, known = targets.labels[image], targets.known[image]
        step = labels.shape[0] // masks.shape[1]
        index = torch.arange(targets.classes.shape[1], device=labels.device)
        wanted = ((labels == index[:, None, None]) & known).float()
        wanted = F.avg_pool2d(wanted[:, None], step)[:, 0]
        masks = masks.relu() * F.avg_pool2d(known[None].float(), step)
        return pairwise_dice_cost(masks.flatten(1), wanted.flatten(1), self.losses.dice_eps)

    def _decode_stuff(
        self, memory: Memory, last_only: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of each layer and class logits (B, Cst) of each refining layer."""
        batch = memory.tokens.shape[0]
        query = self.stuff_query.weight.expand(batch, -1, -1)
        pos = self.stuff_pos.weight.expand(batch, -1, -1)
        finest = memory.finest(self.mask_levels)
        masks, queries = self.stuff_stack(query, pos, finest, last_only=last_only)
        heads = zip(self.stuff_class_heads, queries, strict=False)
        return masks, [head(q)[..., 0].float() for head, q in heads]

    def _stuff_losses(self, memory: Memory, targets: PanopticTargets) -> dict[str, Tensor]:
        s = self.losses
        masks, logits = self._decode_stuff(memory)
        dice = criterion.stuff_mask_loss(masks, targets, s.dice_eps)
        focal = criterion.stuff_class_loss(torch.stack(logits), targets, s.alpha, s.gamma)
        return {
            "loss_stuff_dice": s.dice_weight * dice,
            "loss_stuff_class": s.stuff_class_weight * focal,
        }

    @torch.no_grad()
    def predict(self, memory: Memory) -> PanopticPrediction:
        """Candidates of the highest scoring (query, class) pairs and of every stuff class."""
        batch, (h, w) = memory.tokens.shape[0], memory.shapes[0]
        empty = memory.tokens.new_zeros(batch, 0, dtype=torch.float32)
        thing_masks = stuff_masks = empty[..., None, None].expand(batch, 0, h, w)
        scores, classes, stuff_scores = empty, empty.long(), empty
        if self.num_things:
            detections = self.location(memory)
            flat = detections.logits[-1].sigmoid().flatten(1)
            scores, index = flat.topk(min(self.max_detections, flat.shape[1]))
            query, classes = index // self.num_things, index % self.num_things
            rows = torch.arange(batch, device=query.device)[:, None]
            content = detections.queries[rows, query]
            finest = memory.finest(self.mask_levels)
            thing_masks = self.thing_stack(content, None, finest, last_only=True)[0][-1].relu()
        if self.num_stuff:
            masks, logits = self._decode_stuff(memory, last_only=True)
            stuff_masks, stuff_scores = masks[-1].relu(), logits[-1].sigmoid()
        return PanopticPrediction(thing_masks, scores, classes, stuff_masks, stuff_scores)


def _pack(image: Tensor, query: Tensor, contents: Tensor) -> tuple[Tensor, Tensor]:
    """Put the chosen queries of each image side by side.

    Args:
        image, query: (R,) sorted by image. contents: (B, Q, D).

    Returns:
        (R,) slot of each, and (B, M, D) contents, zero where padded, M >= 1.
    """
    batch = contents.shape[0]
    counts = torch.bincount(image, minlength=batch)
    slot = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    most = max(1, int(counts.max())) if batch else 1
    packed = contents.new_zeros(batch, most, contents.shape[-1])
    return slot, packed.index_put((image, slot), contents[image, query])

"""Panoptic segmentation branch: location decoder, mask decoders, classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdd.modeling.device import upload
from fdd.modeling.layers import MaskStack, Memory
from fdd.modeling.losses.dice import pairwise_dice_cost
from fdd.modeling.panoptic_branch import criterion
from fdd.modeling.panoptic_branch.location_decoder import Detections, LocationDecoder
from fdd.modeling.panoptic_branch.matcher import Matches, assign, matching_cost
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
    point_eps: float = 1e-2
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
        matches = assign(cost, targets.is_thing, targets.listed_things, rounds=s.max_pos)
        focal, l1, giou = criterion.location_losses(detections, matches, targets, s.alpha, s.gamma)

        chosen = _by_image(matches.of_layers(len(detections.logits) - 1))
        content, slot = _pack(chosen, detections.queries)
        masks, _ = self.thing_stack(content, None, memory.finest(self.mask_levels))
        kept = Matches(np.stack([chosen.table[0], chosen.table[1], slot, chosen.table[3]]))
        if s.max_pos > 1:
            kept = self._second_match(detections, masks[-1], chosen, slot, targets)
        _, image, slots, target = kept.on(content.device)
        kind, eps = self._mask_loss(targets)
        mask = criterion.thing_mask_loss(masks, image, slots, target, targets, eps)
        return {
            "loss_thing_class": s.class_weight * focal,
            "loss_box_l1": s.l1_weight * l1,
            "loss_box_giou": s.giou_weight * giou,
            f"loss_thing_{kind}": s.dice_weight * mask,
        }

    def _mask_loss(self, targets: PanopticTargets) -> tuple[str, float]:
        """Name and epsilon of the loss that these targets give masks."""
        if targets.cells is not None:
            return "point", self.losses.point_eps
        return "dice", self.losses.dice_eps

    @torch.no_grad()
    def _second_match(
        self,
        detections: Detections,
        masks: Tensor,
        chosen: Matches,
        slot: np.ndarray,
        targets: PanopticTargets,
    ) -> Matches:
        """One of the up to ``max_pos`` queries of each thing keeps its mask loss: the one whose
        class, box and mask fit best.

        Args:
            masks: (B, M, h, w), of the ``chosen`` pairs' queries at their ``slot``.

        Returns:
            The kept pairs, with slots in place of queries.
        """
        s = self.losses
        batch, most = masks.shape[:2]
        _, image, query, _ = chosen.table
        packed, real = np.zeros((batch, most), np.int64), np.zeros((batch, most), bool)
        packed[image, slot], real[image, slot] = query, True
        rows = torch.arange(batch, device=masks.device)[:, None]
        index = upload(packed, masks.device)
        cost = matching_cost(
            detections.logits[-1][rows, index],
            detections.boxes[-1][rows, index],
            targets.classes.clamp(0, self.num_things - 1),
            targets.boxes,
            class_weight=_SECOND_CLASS_COST,
            l1_weight=s.l1_weight,
            giou_weight=s.giou_weight,
            alpha=s.alpha,
            gamma=s.gamma,
        )
        dice = pairwise_dice_cost(masks.relu(), targets.dense(), s.dice_eps)
        cost = cost + _SECOND_DICE_COST * dice
        padding = ~upload(real, masks.device)[..., None]
        cost = cost.masked_fill(padding, _NEVER)
        return assign(cost[None], targets.is_thing, targets.listed_things)

    def _decode_stuff(
        self, memory: Memory, rows: Tensor | None = None, last_only: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of each layer (of the classes ``rows``) and class logits (B, Cst) of each refining
        layer."""
        batch = memory.tokens.shape[0]
        query = self.stuff_query.weight.expand(batch, -1, -1)
        pos = self.stuff_pos.weight.expand(batch, -1, -1)
        finest = memory.finest(self.mask_levels)
        masks, queries = self.stuff_stack(query, pos, finest, last_only=last_only, rows=rows)
        heads = zip(self.stuff_class_heads, queries, strict=False)
        return masks, [head(q)[..., 0].float() for head, q in heads]

    def _stuff_losses(self, memory: Memory, targets: PanopticTargets) -> dict[str, Tensor]:
        s = self.losses
        # Absent classes have no mask loss, so nobody reads their masks.
        masks, logits = self._decode_stuff(memory, targets.stuff.packed)
        kind, eps = self._mask_loss(targets)
        mask = criterion.stuff_mask_loss(masks, targets, eps)
        focal = criterion.stuff_class_loss(torch.stack(logits), targets, s.alpha, s.gamma)
        return {
            f"loss_stuff_{kind}": s.dice_weight * mask,
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


def _by_image(matches: Matches) -> Matches:
    """The pairs in order of their images."""
    return Matches(matches.table[:, np.argsort(matches.table[1], kind="stable")])


def _pack(pairs: Matches, contents: Tensor) -> tuple[Tensor, np.ndarray]:
    """Put the chosen queries of each image side by side.

    Args:
        pairs: R of them, sorted by image. contents: (B, Q, D).

    Returns:
        (B, M, D) contents, zero where padded, M >= 1; and the (R,) slot of each pair.
    """
    batch = contents.shape[0]
    _, image, _, _ = pairs.table
    counts = np.bincount(image, minlength=batch)
    slot = np.arange(len(image)) - (counts.cumsum() - counts)[image]
    packed = contents.new_zeros(batch, max(1, *counts.tolist(), 0), contents.shape[-1])
    _, rows, query, _ = pairs.on(contents.device)
    index = (rows, upload(slot, contents.device))
    return packed.index_put(index, contents[rows, query]), slot

"""Panoptic segmentation branch: location decoder, mask decoders, classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from fdd.modeling.layers import MaskStack, Memory
from fdd.modeling.panoptic_branch.box_prior import BoxPrior
from fdd.modeling.panoptic_branch.center_decoder import CenterDecoder, CenterMaps
from fdd.modeling.panoptic_branch.location_decoder import LocationDecoder


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


class PanopticBranch(nn.Module):
    """Panoptic SegFormer's head, in its own form or in PSPS's simplified one."""

    @configurable
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
        detector: str = "queries",
        mask_levels: int = 3,
        use_checkpoint: bool = False,
    ):
        """
        Args:
            detector: what finds things: "queries", the published location decoder, or "centers",
                :class:`CenterDecoder` with :class:`BoxPrior`, which ``num_queries`` and
                ``location_layers`` mean nothing to.
            max_detections: candidates of an image at most.
        """
        super().__init__()
        self.num_things, self.num_stuff = num_things, num_stuff
        self.max_detections, self.mask_levels = max_detections, mask_levels
        common: dict[str, Any] = {
            "dim": dim,
            "num_heads": num_heads,
            "ffn_dim": 4 * dim,
            "num_levels": mask_levels,
            "tail": attn_tail,
            "init": fuse_init,
            "use_checkpoint": use_checkpoint,
        }
        self.location: LocationDecoder | None = None
        self.centers: CenterDecoder | None = None
        self.box_prior: BoxPrior | None = None
        if num_things and detector == "centers":
            self.centers = CenterDecoder(dim=dim, num_things=num_things)
            self.box_prior = BoxPrior(num_things=num_things)
        elif num_things:
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
        if num_things:
            self.thing_stack = MaskStack(num_layers=thing_layers, self_attention=False, **common)
        if num_stuff:
            self.stuff_query = nn.Embedding(num_stuff, dim)
            self.stuff_pos = nn.Embedding(num_stuff, dim)
            self.stuff_stack = MaskStack(
                num_layers=stuff_layers, self_attention=True, update_last=True, **common
            )
            self.stuff_class_heads = nn.ModuleList(nn.Linear(dim, 1) for _ in range(stuff_layers))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        fdd, pan = cfg.MODEL.FDD, cfg.MODEL.FDD.PAN
        return {
            "dim": fdd.HIDDEN_DIM,
            "num_things": fdd.NUM_THINGS,
            "num_stuff": fdd.NUM_STUFF,
            "num_heads": fdd.NUM_HEADS,
            "num_levels": len(fdd.IN_FEATURES) + 1,
            "num_points": fdd.ENCODER.NUM_POINTS,
            "num_queries": pan.NUM_QUERIES,
            "location_layers": pan.LOCATION_LAYERS,
            "thing_layers": pan.THING_LAYERS,
            "stuff_layers": pan.STUFF_LAYERS,
            "ffn_dim": pan.FFN_DIM,
            "dropout": pan.DROPOUT,
            "attn_tail": pan.ATTN_TAIL,
            "fuse_init": pan.FUSE_INIT,
            "max_detections": pan.TEST.MAX_QUERIES,
            "detector": pan.DETECTOR,
            "use_checkpoint": fdd.CHECKPOINT,
        }

    def thing_masks(self, memory: Memory, queries: Tensor, last_only: bool = False) -> list[Tensor]:
        """Masks of each layer, (B, K, h, w) without final ReLU.

        Args:
            memory: encoder output, all levels.
            queries: (B, K, D), refined by the location decoder, or of the centre decoder.
        """
        finest = memory.finest(self.mask_levels)
        return self.thing_stack(queries, None, finest, last_only=last_only)[0]

    def center_masks(
        self,
        memory: Memory,
        maps: CenterMaps,
        cells: Tensor,
        classes: Tensor,
        last_only: bool = False,
    ) -> list[Tensor]:
        """As :meth:`thing_masks`, of the things whose centres are at some cells; each stays in the
        box that its cell says. Masks do not train boxes.

        Args:
            maps: of the centre decoder.
            cells: (B, K) int64, row * w + column.
            classes: (B, K) int64 contiguous thing classes.
        """
        assert self.centers is not None and self.box_prior is not None
        queries, boxes = self.centers.queries(maps, cells)
        prior = self.box_prior(boxes.detach(), classes, memory.shapes[0])
        return [mask + prior for mask in self.thing_masks(memory, queries, last_only)]

    def stuff_masks(
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

    @torch.no_grad()
    def predict(self, memory: Memory) -> PanopticPrediction:
        """Candidates of the highest scoring (query, class) pairs and of every stuff class."""
        batch, (h, w) = memory.tokens.shape[0], memory.shapes[0]
        empty = memory.tokens.new_zeros(batch, 0, dtype=torch.float32)
        thing_masks = stuff_masks = empty[..., None, None].expand(batch, 0, h, w)
        scores, classes, stuff_scores = empty, empty.long(), empty
        if self.centers is not None:
            maps = self.centers(memory)
            peaks = self.centers.peaks(maps, self.max_detections)
            scores, classes = peaks.scores, peaks.classes
            masks = self.center_masks(memory, maps, peaks.cells, classes, last_only=True)
            thing_masks = masks[-1].relu()
        elif self.location is not None:
            detections = self.location(memory)
            flat = detections.logits[-1].sigmoid().flatten(1)
            scores, index = flat.topk(min(self.max_detections, flat.shape[1]))
            query, classes = index // self.num_things, index % self.num_things
            rows = torch.arange(batch, device=query.device)[:, None]
            chosen = detections.queries[rows, query]
            thing_masks = self.thing_masks(memory, chosen, last_only=True)[-1].relu()
        if self.num_stuff:
            masks, logits = self.stuff_masks(memory, last_only=True)
            stuff_masks, stuff_scores = masks[-1].relu(), logits[-1].sigmoid()
        return PanopticPrediction(thing_masks, scores, classes, stuff_masks, stuff_scores)

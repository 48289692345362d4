"""The embedding that label maker "distance" compares neighbours by, and what it learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from fdd.modeling.device import no_autocast
from fdd.modeling.encoder import finest_map
from fdd.modeling.label_branch import BranchOutput
from fdd.modeling.label_makers import available_sources, get_label_maker
from fdd.modeling.label_maps import POINT_STRIDE, own_cells
from fdd.modeling.layers import Memory
from fdd.modeling.losses.contrastive import region_info_nce
from fdd.modeling.losses.cross_entropy import LabelledCells
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels
from fdd.modeling.structures import PointBatch, StepContext


class DistanceEmbedding(nn.Module):
    """Two 1x1 convolutions on the detached tokens of the three finest levels (PSPS's form).

    Its loss trains it alone: nothing reaches encoder or backbone.
    """

    @configurable
    def __init__(self, *, dim: int, out_dim: int = 128):
        """
        Args:
            dim: of the tokens. out_dim: of the embedding.
        """
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, out_dim, 1))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"dim": cfg.MODEL.FDD.HIDDEN_DIM}

    @classmethod
    def build(cls, cfg: CfgNode) -> DistanceEmbedding | None:
        """None unless :meth:`is_used`."""
        return cls(cfg) if cls.is_used(cfg) else None

    @staticmethod
    def is_used(cfg: CfgNode) -> bool:
        """Whether the config has the embedding, and the label maker or a baseline uses it."""
        fdd, settings = cfg.MODEL.FDD, LabelSettings.from_config(cfg)
        available = available_sources(
            get_label_maker(settings.maker),
            fdd.LAMBDA_SEM,
            fdd.DISTANCE.EMBEDDING,
            fdd.LOCATION_PRIOR.ENABLED,
        )
        return "embedding" in available and settings.looks_at("embedding")

    def forward(self, memory: Memory) -> Tensor:
        """Unit vectors at stride 8, (B, out_dim, h, w) float32."""
        flat = (memory.tokens + memory.pos).detach()
        return F.normalize(self.proj(finest_map(memory, flat, 3)).float(), dim=1)


def count_contrasted_images(
    batched_inputs: list[dict[str, Any]], num_things: int, num_stuff: int
) -> Tensor:
    """Images whose labelled points have two keys or more (see :func:`embedding_loss`): this batch's
    share of the loss's normaliser, (1,) float32 on the CPU."""
    total = 0
    for x in batched_inputs:
        classes = x["classes"]
        total += int(len(classes) > 0 and int((classes < num_things).sum()) + num_stuff >= 2)
    return torch.tensor([float(total)])


def embedding_loss(
    embedding: Tensor,
    labels: Tensor,
    points: PointBatch,
    image_sizes: list[tuple[int, int]],
    num_images: Tensor | float,
    *,
    num_things: int,
    num_stuff: int,
) -> Tensor:
    """InfoNCE (temperature 0.07) of every labelled point, of things and of stuff.

    Keys are the means of the embedding over the dense label of each thing, and over that of each
    stuff class; stuff classes that are not labelled in the image have a key of zeros, as in PSPS.
    Divided by the points of an image, then by the images that have two keys or more, globally
    (``num_images``); an image with a single key has no loss.

    Args:
        embedding: (B, D, h, w) float at stride 8.
        labels: (B, H, W) integer instance map at a stride that divides 8, -1 for none: those of
            label maker "distance" from the same step.
        points: of the batch.
        image_sizes: un-padded (H, W) of each image in px.
        num_images: of :func:`count_contrasted_images`, over all processes and accumulated batches.
        num_things, num_stuff: contiguous classes, things first.

    Returns:
        0-d tensor.
    """
    classes = points.classes
    batch, most = classes.shape
    is_thing = (classes >= 0) & (classes < num_things)
    slots = torch.arange(most, device=classes.device).expand(batch, -1)
    # Things have a key each, behind them come the stuff classes.
    key = torch.where(is_thing, slots, (most + classes - num_things).clamp(min=0))
    image = torch.arange(batch, device=classes.device).view(-1, 1, 1)
    regions = torch.where(labels >= 0, key[image, labels.clamp(min=0)], -1)
    every_stuff = torch.ones(batch, num_stuff, dtype=torch.bool, device=classes.device)
    height, width = embedding.shape[-2:]
    cell = own_cells(points.point_image, points.coords, image_sizes, width, height)
    cell = cell - points.point_image * (height * width)
    row = torch.div(cell, width, rounding_mode="floor")
    queries = LabelledCells(
        points.point_image, row, cell % width, key[points.point_image, points.point_instance]
    )
    valid = torch.cat([is_thing, every_stuff], 1)
    return region_info_nce(embedding, queries, regions, valid, num_images)


class EmbeddingCriterion:
    """:func:`embedding_loss` of a training step, on the labels of "distance", whichever maker the
    panoptic branch learns from."""

    @configurable
    def __init__(self, *, weight: float, settings: LabelSettings, num_stuff: int):
        self.weight, self.settings, self.num_stuff = weight, settings, num_stuff

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "weight": cfg.MODEL.FDD.DISTANCE.EMBEDDING_WEIGHT,
            "settings": LabelSettings.from_config(cfg),
            "num_stuff": cfg.MODEL.FDD.NUM_STUFF,
        }

    def __call__(
        self, output: BranchOutput | None, labels: Tensor | None, step: StepContext
    ) -> dict[str, Tensor]:
        """The weighted loss by name; none without an embedding.

        Args:
            labels: of the step, by ``settings.maker``; None where none were made.
        """
        if output is None or output.embedding is None:
            return {}
        points, sizes, settings = step.points, step.image_sizes, self.settings
        with no_autocast(output.embedding.device):
            if labels is None or settings.maker != "distance":
                distance = replace(settings, maker="distance", stride=POINT_STRIDE)
                labels, _ = dense_labels(output, points, sizes, step.padded_size, distance)
            loss = embedding_loss(
                output.embedding,
                labels,
                points,
                sizes,
                step.counts["contrasted_images"],
                num_things=settings.num_things,
                num_stuff=self.num_stuff,
            )
        return {"loss_embedding": self.weight * loss}

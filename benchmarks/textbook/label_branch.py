"""Query generator, pseudo label branch and auxiliary semantic branch, image by image.

Published: FDD, sections "Query Generator", "Pseudo Label Branch" and "Auxiliary Semantic Branch",
Eq. 1 to 9: two branches, so two passes of the shared stack.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.textbook.color import ColorSettings
from benchmarks.textbook.decoders import decode_masks
from benchmarks.textbook.dense_labels import force_own_cells
from benchmarks.textbook.features import Features
from benchmarks.textbook.parts import Arrangement


class ImagePoints(NamedTuple):
    """Labels of one image on the padded stride-8 grid.

    Attributes:
        classes: (N,) int64. coords: (P, 2) pixels. owner: (P,) int64.
        cells: (M, 3) int64 (instance, row, column).
        instance_map, semantic_map: (h, w) int64, -1 unlabelled.
        size: un-padded (H, W).
    """

    classes: Tensor
    coords: Tensor
    owner: Tensor
    cells: Tensor
    instance_map: Tensor
    semantic_map: Tensor
    size: tuple[int, int]


def image_points(x: dict[str, Any], grid: tuple[int, int], device: torch.device) -> ImagePoints:
    """Read one of the mapper's dicts."""

    def padded(label: Tensor) -> Tensor:
        rows, columns = label.shape
        room = (0, grid[1] - columns, 0, grid[0] - rows)
        return F.pad(label.long(), room, value=-1).to(device)

    return ImagePoints(
        classes=x["classes"].to(device),
        coords=x["point_coords"].to(device),
        owner=x["point_index"].to(device),
        cells=x["point_cells"].to(device),
        instance_map=padded(x["point_instance_map"]),
        semantic_map=padded(x["point_semantic_map"]),
        size=(int(x["image"].shape[1]), int(x["image"].shape[2])),
    )


class BranchLogits(NamedTuple):
    """Logits of one image a layer: (1, N, h, w) instances and (1, C, h, w) classes."""

    instance: list[Tensor]
    semantic: list[Tensor]


def project(generator: nn.Module, memory: Features, levels: int = 3) -> Tensor:
    """F^proj of one image (FDD, "Query Generator"; PSPS's ``_MemoryProj``), (1, D, h, w)."""
    start, total = 0, None
    tokens = memory.tokens + memory.pos
    for h, w in memory.shapes[:levels]:
        level = tokens[:, start : start + h * w].transpose(1, 2).unflatten(2, (h, w))
        start += h * w
        level = F.interpolate(level, size=memory.shapes[0], mode="bilinear", align_corners=False)
        total = level if total is None else total + level
    first, activation, second = generator.proj
    return second(activation(first(total)))


def generate_queries(
    generator: nn.Module, memory: Features, points: ImagePoints, parts: Arrangement
) -> Tensor:
    """Q^g (Eq. 1), (1, N, D): the channel-wise maximum over each instance's own dilated cells."""
    feature = project(generator, memory)[0]
    masks = parts.own_masks(points.cells, len(points.classes), memory.shapes[0])
    return torch.stack([feature[:, mask].amax(1) for mask in masks])[None]


def branch_logits(
    model: nn.Module, memory: Features, points: ImagePoints, parts: Arrangement
) -> BranchLogits:
    """Both branches: one pass of the stack for the instances and one for the classes."""
    branch = model.label_branch
    keys: dict[int, tuple[Tensor, Tensor]] | None = {} if parts.share_keys else None
    queries = generate_queries(model.query_generator, memory, points, parts)
    scale, bias = branch.affine.scale[:, None, None], branch.affine.bias[:, None, None]

    pos = branch.position.weight[points.classes][None]
    masks, _ = decode_masks(branch.stack, queries, pos, memory, parts, keys)
    instance = [(m * scale[points.classes] + bias[points.classes])[None] for m in masks]

    content, pos = branch.semantic_query.weight[None], branch.position.weight[None]
    masks, _ = decode_masks(branch.stack, content, pos, memory, parts, keys)
    return BranchLogits(instance, [(m * scale + bias)[None] for m in masks])


class LabelSettings(NamedTuple):
    """Weights of L_pse and L_sem (Eq. 7, 9, 10)."""

    lambda_sem: float
    self_train_weight: float
    color_weight: float
    force_points: bool
    color: ColorSettings


def label_losses(
    logits: BranchLogits,
    points: ImagePoints,
    rgb: Tensor,
    valid: Tensor,
    counts: dict[str, float],
    settings: LabelSettings,
    parts: Arrangement,
) -> dict[str, Tensor]:
    """L_pse and L_sem of one image, every layer (without the warm-up of Eq. 10).

    Args:
        rgb: (1, 3, h, w) image at stride 8 in [0, 1].
        valid: (h, w) bool, cells inside the image.
        counts: global normalisers.
    """
    count, classes = len(points.classes), logits.semantic[0].shape[1]
    instance_map = parts.point_maps(points.instance_map, count)
    semantic_map = parts.point_maps(points.semantic_map, classes)
    with torch.no_grad():
        pseudo = logits.instance[-1][0].argmax(0)
        pseudo = torch.where(valid, pseudo, -1)
        if settings.force_points:
            pseudo = force_own_cells(pseudo, points.coords, points.owner, points.size, 8)
    cache: dict[str, Any] = {}
    names = ("pse_point", "pse_color", "pse_self", "sem_point", "sem_color")
    out = dict.fromkeys((f"loss_{name}" for name in names), rgb.new_zeros(()))
    images, labelled = counts["images"], (counts["instance_cells"], counts["semantic_cells"])
    for instance, semantic in zip(logits.instance, logits.semantic, strict=True):
        color = [
            parts.color(z, rgb, valid[None], settings.color, cache) for z in (instance, semantic)
        ]
        out["loss_pse_point"] = (
            out["loss_pse_point"] + parts.partial_ce(instance, instance_map) / labelled[0]
        )
        out["loss_sem_point"] = (
            out["loss_sem_point"] + parts.partial_ce(semantic, semantic_map) / labelled[1]
        )
        out["loss_pse_color"] = out["loss_pse_color"] + color[0] / images
        out["loss_sem_color"] = out["loss_sem_color"] + color[1] / images
        self_ce = parts.self_training(instance, pseudo[None])
        out["loss_pse_self"] = out["loss_pse_self"] + self_ce / counts["valid_cells"]
    weights = {
        "loss_pse_point": 1.0,
        "loss_pse_color": settings.color_weight,
        "loss_pse_self": settings.self_train_weight,
        "loss_sem_point": settings.lambda_sem,
        "loss_sem_color": settings.lambda_sem * settings.color_weight,
    }
    return {name: weights[name] * loss for name, loss in out.items()}

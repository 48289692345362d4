"""A training step of the same model in the arrangement that earlier code uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from benchmarks.textbook.color import ColorSettings
from benchmarks.textbook.features import encode, normalise_and_pad
from benchmarks.textbook.label_branch import (
    LabelSettings,
    branch_logits,
    image_points,
    label_losses,
)
from benchmarks.textbook.matching import LocationSettings
from benchmarks.textbook.panoptic import (
    DenseTargets,
    PanopticSettings,
    dense_targets,
    panoptic_losses,
)
from benchmarks.textbook.parts import arrange
from fdd.modeling.label_maps import valid_cells

# What the textbook step does; other values are other models.
_NEEDED: dict[str, Any] = {
    "PAN_SUPERVISION": "pseudo",
    "LABEL_MAKER": "learned",
    "SHARE_LAYERS": True,
    "SHARE_POS": True,
    "INJECT": "query",
    "QUERY_SOURCE": "feature",
    "SELF_TRAIN_PSE": True,
    "SELF_TRAIN_SEM": False,
    "COLOR_PSE": True,
    "COLOR_SEM": True,
    "QUERY_GEN.FEATURES": "sum3",
    "QUERY_GEN.ADD_POS": True,
    "QUERY_GEN.NORM": "none",
    "PSEUDO.LOGIT_HEAD": "linear_affine",
    "PSEUDO.LABEL_MIN_PROB": 0.0,
    "PSEUDO.LABEL_STRIDE": 1,
    "PAN.ATTN_TAIL": False,
    "PAN.QUERY_FILTER_MAX_POS": 1,
}


class TextbookStep:
    """The losses of an ``FDD`` model, computed plainly from its weights.

    The weights are the model's own, so that a backward pass leaves its gradients in the model.
    Nothing of the model's arithmetic is used but backbone, box heads and single layers (linear,
    convolution, norm). With dropout the losses differ, since the draws do.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, cheap: Iterable[str] = ()):
        """
        Args:
            model: an ``FDD`` meta-architecture built from ``cfg``.
            cfg: its config; ``MODEL.FDD.PSEUDO.LABEL_STRIDE`` must be 1.
            cheap: parts to take in their cheap variant; see
                :data:`benchmarks.textbook.parts.CHEAP`.

        Raises:
            ValueError: for a model that this arrangement does not cover, or an unknown part.
        """
        _check(cfg)
        fdd = cfg.MODEL.FDD
        self.model, self.parts = model, arrange(cheap)
        self.warmup_iters, self.dropout = model.warmup_iters, fdd.ENCODER.DROPOUT
        self.labels = LabelSettings(
            lambda_sem=fdd.LAMBDA_SEM,
            self_train_weight=fdd.PSEUDO.SELF_TRAIN_WEIGHT,
            color_weight=fdd.PSEUDO.COLOR_WEIGHT,
            force_points=fdd.PSEUDO.FORCE_POINTS,
            color=ColorSettings(
                fdd.PSEUDO.COLOR_KERNEL, fdd.PSEUDO.COLOR_DILATION, fdd.PSEUDO.COLOR_THRESHOLD
            ),
        )
        self.panoptic = PanopticSettings(
            location=LocationSettings(
                class_weight=fdd.PAN.CLASS_WEIGHT,
                l1_weight=fdd.PAN.L1_WEIGHT,
                giou_weight=fdd.PAN.GIOU_WEIGHT,
                alpha=fdd.PAN.FOCAL_ALPHA,
                gamma=fdd.PAN.FOCAL_GAMMA,
            ),
            dice_weight=fdd.PAN.DICE_WEIGHT,
            stuff_class_weight=fdd.PAN.STUFF_CLASS_WEIGHT,
            dice_eps=fdd.PAN.DICE_EPS,
            ratio_weighting=fdd.PAN.RATIO_WEIGHTING,
            num_things=fdd.NUM_THINGS,
            num_stuff=fdd.NUM_STUFF,
            mask_levels=len(fdd.IN_FEATURES),
            dropout=fdd.PAN.DROPOUT,
        )
        # Full-size logits that the published code keeps alive until the next step.
        self.kept: list[Tensor] = []

    def __call__(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """
        Args:
            batched_inputs: the mapper's dicts.

        Returns:
            Weighted losses with the names of the model's own.
        """
        self.kept = []
        model, device = self.model, self.model.device
        images, sizes = normalise_and_pad(model, batched_inputs)
        memory = encode(model, images, sizes, self.parts, self.dropout)
        counts = count(batched_inputs, self.panoptic.num_things)
        warmup = self._warmup()
        losses: dict[str, Tensor] = {}
        targets: list[DenseTargets | None] = []
        for i, x in enumerate(batched_inputs):
            if len(x["classes"]) == 0:
                targets.append(None)
                continue
            points = image_points(x, memory.shapes[0], device)
            logits = branch_logits(model, memory.finest(3, i), points, self.parts)
            with torch.autocast(device.type, enabled=False):
                rgb = small_rgb(model, images[i : i + 1], memory.shapes[0])
                valid = valid_cells([sizes[i]], 8, memory.shapes[0]).to(device)[0]
                found = label_losses(logits, points, rgb, valid, counts, self.labels, self.parts)
                for name, loss in found.items():
                    losses[name] = losses.get(name, 0.0) + loss
                full_size = [
                    self.parts.full_size_logits(layers, tuple(images.shape[-2:]))
                    for layers in (logits.instance, logits.semantic)
                ]
                self.kept += full_size
                targets.append(
                    dense_targets(
                        full_size[0], points, self.labels.force_points, self.panoptic, self.parts
                    )
                )
        for name in ("pse_point", "pse_color", "pse_self", "sem_point", "sem_color"):
            losses.setdefault(f"loss_{name}", images.new_zeros(()))
        losses["loss_pse_self"] = warmup * losses["loss_pse_self"]
        panoptic = panoptic_losses(
            model.panoptic_branch, memory, targets, counts, self.panoptic, self.parts
        )
        return losses | {name: warmup * loss for name, loss in panoptic.items()}

    def _warmup(self) -> float:
        """w(t) of Eq. 10."""
        if self.warmup_iters <= 0:
            return 1.0
        return min(get_event_storage().iter / self.warmup_iters, 1.0)


def small_rgb(model: nn.Module, image: Tensor, grid: tuple[int, int]) -> Tensor:
    """The normalised, padded image at stride 8, un-normalised (PSPS), RGB in [0, 1]."""
    small = F.interpolate(image, size=grid, mode="bilinear", align_corners=False)
    small = (small * model.pixel_std + model.pixel_mean) / 255.0
    return small if model.input_format == "RGB" else small.flip(1)


def count(batched_inputs: list[dict[str, Any]], num_things: int) -> dict[str, float]:
    """The normalisers of this package: global counts, at least 1 where they divide."""
    labelled = [x for x in batched_inputs if len(x["classes"])]
    classes = [x["classes"] for x in labelled]

    def total(values: Iterable[Tensor | int]) -> float:
        return float(sum(int(v) for v in values))

    return {
        "instance_cells": max(1.0, total((x["point_instance_map"] >= 0).sum() for x in labelled)),
        "semantic_cells": max(1.0, total((x["point_semantic_map"] >= 0).sum() for x in labelled)),
        "valid_cells": max(1.0, total(x["point_instance_map"].numel() for x in labelled)),
        "images": max(1.0, float(len(labelled))),
        "things": total((c < num_things).sum() for c in classes),
        "stuff": total(len(c[c >= num_things].unique()) for c in classes),
    }


def _check(cfg: CfgNode) -> None:
    wrong = []
    for key, needed in _NEEDED.items():
        node = cfg.MODEL.FDD
        for part in key.split("."):
            node = node[part]
        if node != needed:
            wrong.append(f"MODEL.FDD.{key} is {node!r}, not {needed!r}")
    if cfg.MODEL.FDD.LAMBDA_SEM <= 0:
        wrong.append(f"MODEL.FDD.LAMBDA_SEM is {cfg.MODEL.FDD.LAMBDA_SEM}, not above 0")
    if len(cfg.MODEL.FDD.IN_FEATURES) != 3:
        wrong.append(f"MODEL.FDD.IN_FEATURES is {cfg.MODEL.FDD.IN_FEATURES}, not three maps")
    if wrong:
        raise ValueError(f"the textbook step does not cover this model: {'; '.join(wrong)}")

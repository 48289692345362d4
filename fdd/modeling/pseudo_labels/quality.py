"""Quality of dense labels, measured without masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.layers import Memory
from fdd.modeling.losses.cross_entropy import LabelledCells
from fdd.modeling.pseudo_labels.estimation import LabelSettings, estimate_image
from fdd.modeling.pseudo_labels.leave_one_out import leave_one_out
from fdd.modeling.structures import PointBatch, batch_points

#: A thing with more of the image than this, beside other labelled instances, dominates it.
SWALLOW_SHARE = 0.9


@dataclass(frozen=True)
class InstanceQuality:
    """Of every instance of B images, (B, N) each; padded instances are never empty or dominating.

    Attributes:
        area: int64, pixels of its label.
        share: float32, these as a share of the image.
        confidence: float32, mean probability over these; nan without a pixel (or probabilities).
        empty: bool, no pixel.
        swallowing: bool, dominating: a thing with almost the whole image though others are
            labelled, or the largest stuff of an image whose things are all empty.
        points, points_held: int64, its points, and those that lie on its own label.
    """

    area: Tensor
    share: Tensor
    confidence: Tensor
    empty: Tensor
    swallowing: Tensor
    points: Tensor
    points_held: Tensor


@torch.no_grad()
def instance_quality(
    labels: Tensor,
    classes: Tensor,
    points: LabelledCells,
    *,
    num_things: int,
    prob: Tensor | None = None,
    valid: Tensor | None = None,
    swallow_share: float = SWALLOW_SHARE,
) -> InstanceQuality:
    """Measure label maps that were made without forcing points; does not wait for the device.

    Args:
        labels: (B, H, W) integer instance map, values below N, -1 for none.
        classes: (B, N) int64 contiguous classes, things first, -1 where padded.
        points: image, row, column and instance of each point on the map.
        num_things: classes below it are things.
        prob: (B, H, W) float probability of the label.
        valid: (B, H, W) bool, what belongs to the image; None: everything. Elsewhere ``labels``
            must be -1.
        swallow_share: a thing that covers more than this share of the image dominates it.
    """
    batch, most = classes.shape
    device = labels.device
    real = classes >= 0
    thing = real & (classes < num_things)
    # Slot 0 takes the pixels without a label.
    first = torch.arange(batch, device=device).view(-1, 1, 1) * (most + 1)
    slot = (labels.long() + 1 + first).flatten()

    def sums(index: Tensor, values: Tensor, slots: int) -> Tensor:
        total = torch.zeros(batch * slots, dtype=values.dtype, device=device)
        return total.scatter_add_(0, index, values).view(batch, slots)

    area = sums(slot, torch.ones_like(slot), most + 1)[:, 1:]
    if prob is None:
        confidence = torch.full(area.shape, torch.nan, device=device)
    else:
        confidence = sums(slot, prob.float().flatten(), most + 1)[:, 1:] / area
    pixels = labels[0].numel() if valid is None else valid.flatten(1).sum(1, keepdim=True)
    share = area / pixels

    alone = real.sum(1, keepdim=True) < 2
    swallowing = thing & (share > swallow_share) & ~alone
    if most:
        things_gone = thing.any(1) & ~(thing & (area > 0)).any(1)
        stuff_area = area.masked_fill(thing | ~real, 0)
        largest = stuff_area.argmax(1, keepdim=True) == torch.arange(most, device=device)
        swallowing = swallowing | (largest & (stuff_area > 0) & things_gone[:, None])

    held = labels[points.image, points.row, points.column] == points.label
    owner = points.image * most + points.label
    return InstanceQuality(
        area=area,
        share=share,
        confidence=confidence,
        empty=real & (area == 0),
        swallowing=swallowing,
        points=sums(owner, torch.ones_like(owner), most),
        points_held=sums(owner, held.long(), most),
    )


@torch.no_grad()
def image_quality(
    x: dict[str, Any],
    index: int,
    images: ImageList,
    memory: Memory | None,
    estimate: Callable[..., BranchOutput | None],
    settings: LabelSettings,
    num_things: int,
    max_rounds: int = 10,
    swallow_share: float = SWALLOW_SHARE,
) -> dict[str, Any]:
    """Quality of every maker's label of one image at its original size, points not forced.

    The encoder has run; query generator and label branch run once with all points and once for
    each round of :func:`fdd.modeling.pseudo_labels.leave_one_out.leave_one_out`.

    Args:
        x: mapper output of image ``index``.
        images: the padded batch; only its sizes are used.
        memory: of the batch; None where only rules make labels.
        estimate: ``estimate`` of the meta-architecture.
        num_things, swallow_share: see :func:`instance_quality`.
        max_rounds: bound on the rounds.

    Returns:
        Tensors on the CPU: ``classes``, ``points`` and ``left_out`` (N,) int64, and ``makers``, the
        configured one first: name -> ``share`` and ``confidence`` (N,) float32 (nan where nothing
        has a probability), ``empty`` and ``swallowing`` (N,) bool, ``points_held`` and
        ``left_out_right`` (N,) int64.
    """
    image_size = tuple(images.image_sizes[index])
    padded_size = tuple(images.tensor.shape[-2:])
    device = images.tensor.device

    def from_points(points: PointBatch) -> BranchOutput | None:
        if memory is None:
            return None
        return estimate(memory.repeat(index, len(points.counts)), points)

    output = from_points(batch_points([x], padded_size, device))
    result = estimate_image(x, 0, output, image_size, settings)
    maps = _unforced(result["pseudo_labels"], settings.maker)
    left_out, right = leave_one_out(
        x, image_size, padded_size, from_points, list(maps), settings, device, max_rounds
    )
    makers, count = {}, torch.zeros_like(left_out)
    for name, (label, learned) in maps.items():
        quality = instance_quality(
            label[None],
            x["classes"][None],
            point_pixels(x, image_size, tuple(label.shape)),
            num_things=num_things,
            prob=result["confidence"][None] if learned else None,
            swallow_share=swallow_share,
        )
        count = quality.points[0]
        makers[name] = {
            "share": quality.share[0],
            "confidence": quality.confidence[0],
            "empty": quality.empty[0],
            "swallowing": quality.swallowing[0],
            "points_held": quality.points_held[0],
            "left_out_right": right[name],
        }
    return {"classes": x["classes"], "points": count, "left_out": left_out, "makers": makers}


def _unforced(labels: dict[str, Tensor], first: str) -> dict[str, tuple[Tensor, bool]]:
    """Label of each maker, free of forced points where there is such a form, and whether it is the
    learned one; the maker ``first`` at the front."""
    names = [name for name in labels if not name.endswith("_free")]
    names.sort(key=lambda name: name != first)
    return {name: (labels.get(f"{name}_free", labels[name]), name == "learned") for name in names}


def point_pixels(
    x: dict[str, Any], image_size: tuple[int, int], size: tuple[int, ...]
) -> LabelledCells:
    """Pixels of an (H, W) map of the original image on which its points lie."""
    scale = torch.tensor([size[1] / image_size[1], size[0] / image_size[0]])
    limit = torch.tensor([size[1] - 1, size[0] - 1])
    pixel = (x["point_coords"].float() * scale).floor().long().clamp(min=0)
    column, row = torch.minimum(pixel, limit).unbind(1)
    return LabelledCells(torch.zeros_like(row), row, column, x["point_index"])

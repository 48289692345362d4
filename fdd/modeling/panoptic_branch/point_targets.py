"""Targets of the panoptic branch from points alone, without any dense label (paper Table 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.losses.boxes import box_xyxy_to_cxcywh
from fdd.modeling.panoptic_branch.targets import PanopticTargets, PointCells, stuff_targets
from fdd.modeling.structures import PointBatch


@dataclass(frozen=True)
class PointBoxes:
    """How large the box of a thing is of which only points are known.

    Attributes:
        lone_side: side in pixels of a lone point's square, at a short side of ``reference`` pixels.
        dilate_side: likewise of a point's dilated square, the least that any box measures.
        reference: short side in pixels at which both are meant: they scale with the image.
    """

    lone_side: float = 400.0
    dilate_side: float = 17.0
    reference: float = 600.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PointBoxes:
        points = cfg.INPUT.POINTS
        side = cfg.MODEL.FDD.PAN.POINT_BOX_SIDE
        return cls(side, points.DILATE_SIDE, points.DILATE_REFERENCE)

    def least_sides(self, image_size: tuple[int, int]) -> tuple[float, float]:
        """Least side in input pixels of the box of one point, and of two or more."""
        scale = min(image_size) / self.reference
        square = max(float(POINT_STRIDE), self.dilate_side * scale)
        return max(square, self.lone_side * scale), square


@torch.no_grad()
def boxes_from_points(
    coords: Tensor,
    image: Tensor,
    instance: Tensor,
    shape: tuple[int, int],
    image_sizes: Sequence[tuple[int, int]],
    settings: PointBoxes,
) -> tuple[Tensor, Tensor]:
    """Boxes of instances from their points (paper: "Supervision for the Panoptic Branch").

    Two or more points have their bounding box, a lone one a square around it; which of them holds
    is decided for each instance. A side shorter than the least one grows to it on both ends. All of
    it is clipped to the image.

    Args:
        coords: (P, 2) float (x, y) in input pixels.
        image, instance: (P,) int64, whose point it is.
        shape: (B, N).
        image_sizes: (H, W) in pixels of each un-padded image.

    Returns:
        boxes: (B, N, 4) float32 (x0, y0, x1, y1) in input pixels, with an area unless there is no
            point; zeros then.
        counts: (B, N) int64, points of each instance.
    """
    batch, most = shape
    device, slots = coords.device, batch * most
    limits = torch.tensor([(w, h) for h, w in image_sizes], dtype=torch.float32).view(-1, 1, 2)
    sides = [settings.least_sides(size) for size in image_sizes]
    lone, several = torch.tensor(sides, dtype=torch.float32).view(-1, 1, 2).unbind(2)
    limits, lone, several = (upload(x, device) for x in (limits, lone, several))

    slot = image * most + instance
    counts = torch.zeros(slots, dtype=torch.long, device=device)
    counts = counts.scatter_add_(0, slot, torch.ones_like(slot)).view(batch, most)
    index, nothing = slot[:, None].expand(-1, 2), coords.new_zeros(slots, 2, dtype=torch.float32)
    low, high = (
        nothing.scatter_reduce(0, index, coords.float(), how, include_self=False)
        for how in ("amin", "amax")
    )
    low, high = (torch.minimum(x.view(batch, most, 2).clamp(min=0), limits) for x in (low, high))
    least = torch.where(counts > 1, several, lone)[..., None]
    grow = (least - (high - low)).clamp(min=0) / 2
    boxes = torch.cat(((low - grow).clamp(min=0), torch.minimum(high + grow, limits)), 2)
    return torch.where((counts > 0)[..., None], boxes, 0), counts


@torch.no_grad()
def build_point_targets(
    points: PointBatch,
    image_sizes: list[tuple[int, int]],
    settings: PointBoxes,
    *,
    num_things: int,
    num_stuff: int,
) -> PanopticTargets:
    """Boxes, and cells instead of masks.

    A thing's mask is 1 at the cells of S^ins that it owns and 0 at all others that anybody owns; a
    stuff class's likewise, with S^sem. Cells that instances (classes) claim alike are nobody's. A
    thing that owns no cell keeps its box and has no mask loss.

    Args:
        points: of B images.
        image_sizes: un-padded (H, W) in pixels.
        settings: of the boxes.
        num_things, num_stuff: contiguous classes, things first.
    """
    classes = points.classes
    boxes, counts = boxes_from_points(
        points.coords,
        points.point_image,
        points.point_instance,
        (classes.shape[0], classes.shape[1]),
        image_sizes,
        settings,
    )
    sizes = torch.tensor([(w, h, w, h) for h, w in image_sizes], dtype=boxes.dtype)
    present, stuff, stuff_of = stuff_targets(classes, points.host_classes, num_things, num_stuff)
    semantic = points.semantic_cells
    return PanopticTargets(
        classes=classes,
        is_thing=(classes >= 0) & (classes < num_things) & (counts > 0),
        boxes=box_xyxy_to_cxcywh(boxes / upload(sizes, boxes.device)[:, None]),
        stuff_present=present,
        labelled=points.labelled,
        fine=None,
        listed_things=(points.host_classes >= 0) & (points.host_classes < num_things),
        stuff=stuff,
        stuff_of=stuff_of,
        cells=PointCells(
            things=points.instance_cells,
            stuff=semantic._replace(label=semantic.label - num_things),
        ),
    )

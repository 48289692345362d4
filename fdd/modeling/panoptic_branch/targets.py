"""Targets of the panoptic branch: from a dense label an image, or from points alone (Table 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.label_maps import POINT_STRIDE, boxes_from_labels
from fdd.modeling.losses.boxes import box_xyxy_to_cxcywh
from fdd.modeling.losses.cross_entropy import LabelledCells
from fdd.modeling.losses.dice import FineTargets, fine_targets
from fdd.modeling.structures import PointBatch


@dataclass(frozen=True)
class StuffRows:
    """The R stuff classes that are labelled in an image, listed on the host.

    Attributes:
        table: (2, R) int64: image, and index of the stuff class (0 is the first one).
        packed: (B, M) int64 on the device, the classes of each image side by side, filled up with
            0; M >= 1. slot: (R,) int64 on the host, where each row stands there.
    """

    table: np.ndarray
    packed: Tensor
    slot: np.ndarray


class PointCells(NamedTuple):
    """What masks learn from where there are points and no dense labels: labelled stride-8 cells.

    Attributes:
        things: S^ins; ``label`` is the instance.
        stuff: S^sem; ``label`` is the index of the stuff class, negative for things.
    """

    things: LabelledCells
    stuff: LabelledCells


@dataclass(frozen=True)
class PanopticTargets:
    """What the panoptic branch learns from (B images, N instances at most).

    Masks learn from dense labels (``fine``) or from points (``cells``); the other one is None.

    Attributes:
        classes: (B, N) int64, -1 where padded.
        is_thing: (B, N) bool, things with a non-empty mask (with points alone: with a point).
        boxes: (B, N, 4) float32 cxcywh in [0, 1] of the un-padded image.
        stuff_present: (B, Cst) bool, stuff classes among the labelled instances.
        labelled: (B,) bool; the other images train nothing.
        fine: the instances' label maps at the label stride, as the dice loss sees them.
        listed_things: (B, N) bool on the host: labelled things, whether or not their mask is empty.
        stuff: the rows of ``stuff_present`` that are set, listed.
        stuff_of: (B, N) int64, for a stuff instance the row of its class in ``stuff``, else R.
        cells: the labelled cells, as the points' loss sees them.
        void: (B, h, w) bool, stride-8 cells to be ignored; None: there are none.
    """

    classes: Tensor
    is_thing: Tensor
    boxes: Tensor
    stuff_present: Tensor
    labelled: Tensor
    fine: FineTargets | None
    listed_things: np.ndarray
    stuff: StuffRows
    stuff_of: Tensor
    cells: PointCells | None = None
    void: Tensor | None = None

    def dense(self) -> FineTargets:
        """``fine``, for losses and costs that cannot do without."""
        if self.fine is None:
            raise ValueError(
                "points alone give no dense masks to compare with: dice losses, and the second "
                "matching of MODEL.FDD.PAN.QUERY_FILTER_MAX_POS above 1, need dense labels"
            )
        return self.fine

    def stuff_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Adjoint (R, h, w), stencil (R, 4, h, w) and area (R,) of each present stuff class: a
        class is the union of its instances, so its adjoint is the sum of theirs."""
        rows = self.stuff.table.shape[1]
        owner = self.stuff_of.flatten()
        fine = self.dense()
        adjoint, areas = fine.adjoint.flatten(0, 1), fine.areas.flatten()
        image = upload(self.stuff.table[0], self.classes.device)
        return (
            adjoint.new_zeros(rows + 1, *adjoint.shape[1:]).index_add_(0, owner, adjoint)[:rows],
            fine.stencil[image],
            areas.new_zeros(rows + 1).index_add_(0, owner, areas)[:rows],
        )


@torch.no_grad()
def build_targets(
    labels: Tensor,
    known: Tensor,
    classes: Tensor,
    host_classes: np.ndarray,
    image_sizes: list[tuple[int, int]],
    *,
    stride: int,
    num_things: int,
    num_stuff: int,
    void: Tensor | None = None,
) -> PanopticTargets:
    """Boxes, thing and stuff targets of dense labels (paper: "Panoptic Segmentation Branch").

    Boxes are those of the labels. A thing whose label is empty has no box and is dropped.

    Args:
        labels: (B, H, W) int64 instance index at ``stride``, -1 for none.
        known: (B, H, W) bool, cells that enter the dice losses.
        classes: (B, N) int64 contiguous classes, -1 where padded; ``host_classes``: the same.
        image_sizes: un-padded (H, W) in pixels.
        void: (B, h, w) bool, as the targets have it.
    """
    boxes, areas = boxes_from_labels(labels, classes.shape[1], stride, image_sizes)
    sizes = torch.tensor([(w, h, w, h) for h, w in image_sizes], dtype=boxes.dtype)
    boxes = boxes / upload(sizes, boxes.device)[:, None]
    present, stuff, stuff_of = _stuff_targets(classes, host_classes, num_things, num_stuff)
    factor = POINT_STRIDE // stride
    grid = labels.shape[1] // factor, labels.shape[2] // factor
    return PanopticTargets(
        classes=classes,
        is_thing=(classes >= 0) & (classes < num_things) & (areas > 0),
        boxes=box_xyxy_to_cxcywh(boxes),
        stuff_present=present,
        labelled=(classes >= 0).any(1),
        fine=fine_targets(labels, known, classes.shape[1], grid),
        listed_things=(host_classes >= 0) & (host_classes < num_things),
        stuff=stuff,
        stuff_of=stuff_of,
        void=void,
    )


def _stuff_targets(
    classes: Tensor, host_classes: np.ndarray, num_things: int, num_stuff: int
) -> tuple[Tensor, StuffRows, Tensor]:
    """``stuff_present``, ``stuff`` and ``stuff_of`` of :class:`PanopticTargets`."""
    present = classes.new_zeros((len(classes), num_stuff + 1), dtype=torch.bool)
    index = torch.where(classes >= num_things, classes - num_things, num_stuff)
    # A tensor, not a Python number: that would be copied to the device now.
    present.scatter_(1, index, torch.ones_like(index, dtype=torch.bool))
    return present[:, :num_stuff], *_list_stuff(host_classes, num_things, classes.device)


def _list_stuff(
    classes: np.ndarray, num_things: int, device: torch.device
) -> tuple[StuffRows, Tensor]:
    """Present stuff classes by image, and which of these rows each instance belongs to."""
    present = [np.unique(row[row >= num_things]) - num_things for row in classes]
    packed = np.zeros((len(classes), max(1, *map(len, present), 0)), dtype=np.int64)
    rows = sum(map(len, present))
    owner = np.full(classes.shape, rows, dtype=np.int64)
    table, slot, start = [np.zeros((2, 0), np.int64)], [np.zeros(0, np.int64)], 0
    for image, ks in enumerate(present):
        packed[image, : len(ks)] = ks
        table.append(np.stack([np.full_like(ks, image), ks]))
        slot.append(np.arange(len(ks)))
        is_stuff = classes[image] >= num_things
        owner[image, is_stuff] = start + np.searchsorted(ks, classes[image, is_stuff] - num_things)
        start += len(ks)
    listed = StuffRows(np.concatenate(table, 1), upload(packed, device), np.concatenate(slot))
    return listed, upload(owner, device)


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
    present, stuff, stuff_of = _stuff_targets(classes, points.host_classes, num_things, num_stuff)
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

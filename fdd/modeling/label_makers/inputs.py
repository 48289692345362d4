"""Inputs of the label makers: the points of an image, and what a network gives for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_branch.location_prior import ExtentPrior
from fdd.modeling.label_maps import upsampled_argmax
from fdd.modeling.structures import PointBatch
from fdd.points.raster import num_valid_cells

#: Of the network's maps.
NETWORK_STRIDE = 8


@dataclass(frozen=True)
class MakerInputs:
    """One image's points, the canvas that its label is painted on, and outputs of the network.

    The canvas is a map of (h, w) cells; its pixels are those of the network's input in training,
    those of the original image in an evaluation. A cell (v, u) stands for the point
    (stride x * (u + 0.5), stride y * (v + 0.5)).

    Attributes:
        coords: (P, 2) float points (x, y) in canvas px.
        index: (P,) integer instance of each point, in [0, N).
        classes: (N,) integer contiguous class of each instance, things first.
        grid: (h, w) of the canvas.
        stride: canvas px of a cell, (along y, along x).
        square_side: canvas px, side of the square that a point stands for.
        num_things: classes below it are things.
        scale: canvas px of an input px, (along y, along x).
        image_size: (H, W) in px of the input without padding; None: the canvas is the whole image.
        instance: (max(N, 1), h8, w8) float logits of the pseudo label branch, at stride 8 of the
            padded input.
        residual: (max(N, 1), h8, w8) float, added to ``instance`` for a label that obeys its
            points, if asked for.
        semantic: (C, h8, w8) float logits of the semantic branch.
        embedding: (D, h8, w8) float unit vectors of the embedding head.
        prior: (max(N, 1), h8, w8) float logits of the location prior alone.
        extents: the part of it that is known between the cells, too; in pixels of the input.
        features: the backbone's maps, (C_i, h_i, w_i) float each, at strides 8, 16, 32, ... of the
            padded input.
        image: (3, H, W) RGB in [0, 255], the input without padding.
        masks: (h4, w4) integer instance map at stride 4 of the input, -1 void.
        min_prob: learned labels below this probability are left out.
        refine: learned labels are drawn to the colours of ``image``
            (:mod:`fdd.modeling.refinement`).

    Raises:
        ValueError: points of wrong shape, not finite, or of an unknown instance.
    """

    coords: Tensor
    index: Tensor
    classes: Tensor
    grid: tuple[int, int]
    stride: tuple[float, float]
    square_side: float = 17.0
    num_things: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    image_size: tuple[int, int] | None = None
    instance: Tensor | None = None
    residual: Tensor | None = None
    semantic: Tensor | None = None
    embedding: Tensor | None = None
    prior: Tensor | None = None
    extents: ExtentPrior | None = None
    features: tuple[Tensor, ...] | None = None
    image: Tensor | None = None
    masks: Tensor | None = None
    min_prob: float = 0.0
    refine: bool = False

    def __post_init__(self) -> None:
        coords, index = self.coords, self.index
        if coords.dim() != 2 or coords.shape[1] != 2 or index.shape != coords.shape[:1]:
            raise ValueError(
                f"coords and index have shapes {tuple(coords.shape)} and {tuple(index.shape)}; "
                "expected (P, 2) and (P,)"
            )
        if len(index) == 0:
            return
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= len(self.classes) or not bool(coords.isfinite().all()):
            raise ValueError(
                f"point coordinates must be finite, and instances (from {low} to {high}) in "
                f"0 ... {len(self.classes) - 1}"
            )

    @property
    def valid_grid(self) -> tuple[int, int]:
        """Rows and columns of the canvas whose centre is inside the image; at least 1 each."""
        if self.image_size is None:
            return self.grid
        rows, columns = (
            max(1, min(cells, math.ceil(side * scale / step - 0.5)))
            for cells, side, scale, step in zip(
                self.grid, self.image_size, self.scale, self.stride, strict=True
            )
        )
        return rows, columns

    def valid_maps(self, maps: Tensor, stride: int = NETWORK_STRIDE) -> Tensor:
        """(K, h, w) maps at a stride of the padded input, without the cells on padding."""
        size = self.image_size or tuple(
            round(cells * step / scale)
            for cells, step, scale in zip(self.grid, self.stride, self.scale, strict=True)
        )
        rows, columns = (num_valid_cells(side, stride) for side in size)
        return maps[:, :rows, :columns]

    def on_canvas(self, labels: Tensor) -> Tensor:
        """A map of :attr:`valid_grid` as one of the whole canvas: (h, w) int32, -1 on padding."""
        below, right = (n - k for n, k in zip(self.grid, labels.shape, strict=True))
        return F.pad(labels.to(self.coords.device, torch.int32), (0, right, 0, below), value=-1)


@dataclass(frozen=True)
class BatchMakerInputs:
    """The same for a batch in training, whose canvases are the padded inputs at one stride.

    Attributes:
        output: of the branches; None where none runs.
        points: the batch's labels.
        image_sizes: un-padded (H, W) of each image in px.
        grid: (h, w) of the padded canvas; stride: px of a cell.
        square_sides: px, one an image.
        num_things, min_prob: as in :class:`MakerInputs`.
        image_format: "RGB" or "BGR", of the images in ``points``.
    """

    output: BranchOutput | None
    points: PointBatch
    image_sizes: Sequence[tuple[int, int]]
    grid: tuple[int, int]
    stride: int
    square_sides: Sequence[float]
    num_things: int
    min_prob: float
    image_format: str

    def images(self) -> list[MakerInputs]:
        """Those of each image. Makes the host wait for the device."""
        return [self._image(i) for i in range(len(self.image_sizes))]

    def _image(self, i: int) -> MakerInputs:
        points, count = self.points, self.points.counts[i]
        mine = points.point_image == i
        dense = points.dense_map
        return MakerInputs(
            coords=points.coords[mine],
            index=points.point_instance[mine],
            classes=points.classes[i, :count],
            grid=self.grid,
            stride=(self.stride, self.stride),
            square_side=self.square_sides[i],
            num_things=self.num_things,
            image_size=self.image_sizes[i],
            image=as_rgb(points.images[i], self.image_format) if points.images else None,
            masks=None if dense is None else dense[i],
            min_prob=self.min_prob,
            **network_maps(self.output, i, count),
        )


def network_maps(output: BranchOutput | None, index: int, count: int) -> dict[str, Any]:
    """The maps of one image of a batch, last layer, as fields of :class:`MakerInputs`.

    Args:
        output: of the branches.
        index: of the image.
        count: its instances.
    """
    if output is None:
        return {}
    return {
        "instance": output.instance[-1][index, : max(1, count)] if output.instance else None,
        "residual": None if output.residual is None else output.residual[index, : max(1, count)],
        "semantic": output.semantic[-1][index] if output.semantic else None,
        "embedding": None if output.embedding is None else output.embedding[index],
        "prior": None if output.prior is None else output.prior[index, : max(1, count)],
        "extents": None if output.extents is None else output.extents[index][: max(1, count)],
        "features": tuple(maps[index] for maps in output.features) or None,
    }


def argmax_on_canvas(
    inputs: MakerInputs,
    maps: Tensor,
    grid: tuple[int, int],
    count: int,
    *,
    instances: bool = False,
) -> tuple[Tensor, Tensor]:
    """The argmax of up-sampled maps in the canvas' first cells.

    Args:
        maps: (K, h8, w8) float logits at the network's stride.
        grid: (h, w) cells of the canvas.
        count: maps that are real, the first ones.
        instances: these are logits of the instances: what is by extents is not up-sampled, but
            taken at the cells of the canvas.

    Returns:
        (h, w) int32, the lowest index among equals, -1 where ``count`` is 0; and (h, w) float32,
        its softmax probability. On the device of the points.
    """
    down, across = (
        NETWORK_STRIDE * scale / step
        for scale, step in zip(inputs.scale, inputs.stride, strict=True)
    )
    added = None
    if instances and inputs.extents is not None:
        fine = (inputs.stride[0] / inputs.scale[0], inputs.stride[1] / inputs.scale[1])
        maps = inputs.extents.without(maps)
        added = inputs.extents[None].to_add(grid, fine)
    labels, prob = upsampled_argmax(maps[None], grid, [count], scale=(down, across), added=added)
    assert prob is not None
    device = inputs.coords.device
    return labels[0].to(device), prob[0].to(device)


def as_rgb(image: Tensor, image_format: str) -> Tensor:
    """A (3, H, W) image of the format "RGB" or "BGR" as RGB."""
    return image if image_format == "RGB" else image.flip(0)


def cell_centres(
    grid: tuple[int, int], stride: tuple[float, float], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows' y (h,) and columns' x (w,) of the cell centres, in the dtype of ``like``."""
    y, x = (
        (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) * step
        for n, step in zip(grid, stride, strict=True)
    )
    return y, x

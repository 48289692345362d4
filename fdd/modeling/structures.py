"""The points of a batch, as tensors on the model's device, and what the losses of a step share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.device import upload
from fdd.modeling.layers.memory import Memory
from fdd.modeling.losses.cross_entropy import LabelledCells

#: Entries of a normaliser vector, in order (see :func:`count_normalizers`).
NORMALIZERS = ("instance_cells", "semantic_cells", "images", "valid_cells", "things", "stuff")
# Stride of void, and of the masks of full supervision.
_FINE = 4


@dataclass(frozen=True)
class PointBatch:
    """Point labels of B images, padded to the largest number of instances (at least 1).

    Everything that the host knows without asking the device is kept there too: what is labelled
    decides the shapes of the step's tensors.

    Attributes:
        classes: (B, N) int64 contiguous class of each instance, -1 where padded.
        host_classes: the same as a numpy array.
        counts: number of instances of each image.
        cells: (M, 4) int64, one row a labelled stride-8 cell of an instance's own dilated points:
            image, instance, row, column.
        instance_cells: S^ins, the cells (of the stride-8 grid) that an instance owns, and which.
        semantic_cells: S^sem, those that a class owns.
        coords: (P, 2) float32 points (x, y) in input pixels.
        point_image, point_instance: (P,) int64, image and instance of each point.
        dense_map: (B, h4, w4) int64 instance index at stride 4, -1 void; full masks only.
        void: (B, h4, w4) bool, cells at stride 4 that are to be ignored; None: no image has any.
        host_points: of each image the same points on the host, (P_i, 2) float32 (x, y) and (P_i,)
            int64 instance.
        diagonals: (B,) float32, diagonal in input pixels of each whole image: without padding, and
            without the crop that the input may be. host_diagonals: the same as a numpy array.
        images: (3, H, W) as the mapper gave them, on the host: for label makers that look at
            colours. Empty where an input has no image.
    """

    classes: Tensor
    host_classes: np.ndarray
    counts: list[int]
    cells: Tensor
    instance_cells: LabelledCells
    semantic_cells: LabelledCells
    coords: Tensor
    point_image: Tensor
    point_instance: Tensor
    dense_map: Tensor | None
    host_points: tuple[tuple[np.ndarray, np.ndarray], ...]
    diagonals: Tensor
    host_diagonals: np.ndarray
    images: tuple[Tensor, ...] = ()
    void: Tensor | None = None

    def void_at(self, stride: int) -> Tensor | None:
        """Where images are to be ignored, (B, h, w) bool: cells of this stride (1, 2 or a multiple
        of 4) of which at least half is."""
        if self.void is None or stride == _FINE:
            return self.void
        if stride > _FINE:
            return _coarser(self.void, stride // _FINE)
        finer = _FINE // stride
        return self.void.repeat_interleave(finer, 1).repeat_interleave(finer, 2)

    @property
    def labelled(self) -> Tensor:
        """(B,) bool: images with at least one labelled instance; the others train nothing."""
        return (self.classes >= 0).any(1)


@dataclass(frozen=True)
class ReadyMemory:
    """What the pseudo label branch makes of images before it knows their points.

    Attributes:
        memory: the encoder's tokens of the levels that masks are made of.
        image_sizes: un-padded (H, W) of each image in px.
        feature: F^proj of the query generator, (B, D, h, w).
        projected: keys, and values where a layer has them, of each layer of the branch.
        looks: what the clicks' residual compares, (B, h, w, D) unit vectors; None without it.
    """

    memory: Memory
    image_sizes: list[tuple[int, int]]
    feature: Tensor
    projected: list[list[Tensor]]
    looks: Tensor | None


@dataclass(frozen=True)
class StepContext:
    """What all losses of a training step share; made once a step.

    Attributes:
        points: of the batch.
        image_sizes: un-padded (H, W) of each image in px.
        padded_size: (H, W) of the padded batch in px.
        rgb: (B, 3, h, w) float32, the images at stride 8, RGB in [0, 255].
        counts: 0-d tensors, the losses' normalisers by name (see :data:`NORMALIZERS`), summed over
            processes and accumulated batches.
        iteration: of the training.
        warmup: w(t) in [0, 1], weight of the losses that use M^pse.
    """

    points: PointBatch
    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]
    rgb: Tensor
    counts: dict[str, Tensor]
    iteration: int
    warmup: float


def _pad_map(label: Tensor, height: int, width: int) -> Tensor:
    rows, cols = label.shape
    return F.pad(label.long(), (0, width - cols, 0, height - rows), value=-1)


def _pad_void(void: Tensor, height: int, width: int) -> Tensor:
    rows, cols = void.shape
    return F.pad(void, (0, width - cols, 0, height - rows), value=False)


def _coarser(void: Tensor, factor: int) -> Tensor:
    """(B, h, w) bool at stride 4 as cells ``factor`` times as large; what is cut off counts as
    labelled."""
    missing = (-void.shape[2] % factor, -void.shape[1] % factor)
    padded = F.pad(void.float(), (0, missing[0], 0, missing[1]))
    return F.avg_pool2d(padded[:, None], factor)[:, 0] >= 0.5


def count_void(x: dict[str, Any]) -> int:
    """Number of stride-8 cells of a mapper output that are to be ignored."""
    if "void_map" not in x:
        return 0
    rows, columns = x["point_instance_map"].shape
    return int(_coarser(x["void_map"][None], 2)[0, :rows, :columns].sum())


def _diagonal(x: dict[str, Any]) -> float:
    """As the mapper says; of the input itself where somebody else made it."""
    if "diagonal" in x:
        return float(x["diagonal"])
    if "image" in x:
        return float(np.hypot(*x["image"].shape[-2:]))
    return float(8 * np.hypot(*x["point_instance_map"].shape))


def _list_cells(maps: list[Tensor], device: torch.device) -> LabelledCells:
    """The labelled cells of the images' own (un-padded) maps, found on the host."""
    rows = []
    for image, label in enumerate(maps):
        host = label.numpy()
        row, column = np.nonzero(host >= 0)
        rows.append(np.stack([np.full_like(row, image), row, column, host[row, column]]))
    table = np.concatenate(rows, 1).astype(np.int64)
    return LabelledCells(*upload(table, device).unbind(0))


def batch_points(
    batched_inputs: list[dict[str, Any]], padded_size: tuple[int, int], device: torch.device
) -> PointBatch:
    """Pad and stack the mapper's labels.

    Args:
        batched_inputs: mapper outputs; see :class:`fdd.data.FDDDatasetMapper` for keys and shapes.
        padded_size: (H, W) of the padded batch in pixels, multiples of 8.

    Raises:
        KeyError: when an input has no point labels.
    """
    for x in batched_inputs:
        if "classes" not in x:
            raise KeyError(
                f"image {x.get('image_id')!r} ({x.get('file_name')}) carries no point labels; "
                "train on a data set registered with points, and keep FDDDatasetMapper as mapper"
            )
    height, width = padded_size
    counts = [len(x["classes"]) for x in batched_inputs]
    most = max(1, *counts)
    classes = torch.stack(
        [
            F.pad(x["classes"], (0, most - n), value=-1)
            for x, n in zip(batched_inputs, counts, strict=True)
        ]
    )
    cells = [F.pad(x["point_cells"], (1, 0), value=i) for i, x in enumerate(batched_inputs)]
    owner = [torch.full((len(x["point_index"]),), i) for i, x in enumerate(batched_inputs)]
    dense = None
    if all("instance_map" in x for x in batched_inputs):
        maps = [_pad_map(x["instance_map"], height // 4, width // 4) for x in batched_inputs]
        dense = upload(torch.stack(maps), device)

    void = None
    if any("void_map" in x for x in batched_inputs):
        cells_of = (height // _FINE, width // _FINE)
        rows = [x.get("void_map", torch.zeros(1, 1, dtype=torch.bool)) for x in batched_inputs]
        void = upload(torch.stack([_pad_void(row, *cells_of) for row in rows]), device)

    diagonals = np.array([_diagonal(x) for x in batched_inputs], np.float32)

    def concat(key: str) -> Tensor:
        return upload(torch.cat([x[key] for x in batched_inputs]), device)

    return PointBatch(
        classes=upload(classes, device),
        host_classes=classes.numpy(),
        counts=counts,
        cells=upload(torch.cat(cells), device),
        instance_cells=_list_cells([x["point_instance_map"] for x in batched_inputs], device),
        semantic_cells=_list_cells([x["point_semantic_map"] for x in batched_inputs], device),
        coords=concat("point_coords"),
        point_image=upload(torch.cat(owner), device),
        point_instance=concat("point_index"),
        dense_map=dense,
        host_points=tuple(
            (x["point_coords"].numpy(), x["point_index"].numpy()) for x in batched_inputs
        ),
        diagonals=upload(torch.from_numpy(diagonals), device),
        host_diagonals=diagonals,
        images=tuple(x["image"] for x in batched_inputs if "image" in x),
        void=void,
    )


def count_normalizers(batched_inputs: list[dict[str, Any]], num_things: int) -> Tensor:
    """This batch's share of every normaliser of the losses.

    All of them follow from the labels alone, so they are known before the first forward pass, and a
    sum over processes and over accumulated batches makes them global (one small all-reduce a step).

    Args:
        batched_inputs: mapper outputs.
        num_things: classes below it are things.

    Returns:
        (6,) float32 in the order of ``NORMALIZERS``: labelled cells of S^ins and S^sem, labelled
        images, valid stride-8 cells of these (but for void), labelled things,
        stuff classes present (per image).
    """
    total = torch.zeros(len(NORMALIZERS), dtype=torch.float32)
    for x in batched_inputs:
        classes = x["classes"]
        if len(classes) == 0:
            continue
        things = int((classes < num_things).sum())
        total += torch.tensor(
            [
                float((x["point_instance_map"] >= 0).sum()),
                float((x["point_semantic_map"] >= 0).sum()),
                1.0,
                float(x["point_instance_map"].numel() - count_void(x)),
                float(things),
                float(len(classes[classes >= num_things].unique())),
            ]
        )
    return total

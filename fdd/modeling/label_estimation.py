"""Dense labels M^pse from whatever makes them: the learned branch, a rule, or full masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdd.modeling.label_makers import get_label_maker
from fdd.modeling.pseudo_label_branch import BranchOutput
from fdd.modeling.structures import PointBatch
from fdd.modeling.targets import force_points, num_valid_cells, upsampled_argmax, valid_cells

_CELL = 8


@dataclass(frozen=True)
class LabelSettings:
    """How labels are made.

    Attributes:
        maker: "learned", "full", or the name of a rule in ``fdd.modeling.label_makers``.
        stride: of the labels in training, in input pixels.
        force_points: labelled points win over the argmax in their own stride-8 cell.
        min_prob: learned labels below this probability are ignored (self-training keeps them).
        dilate_side, dilate_reference: a lone point's square is ``dilate_side * short side /
            dilate_reference`` pixels wide where a rule paints it.
        yardsticks: rules that :func:`estimate_image` adds.
    """

    maker: str = "learned"
    stride: int = 4
    force_points: bool = True
    min_prob: float = 0.0
    dilate_side: float = 17.0
    dilate_reference: float = 600.0
    yardsticks: tuple[str, ...] = ("nearest", "polygon")

    def __post_init__(self) -> None:
        for name in self.rules:
            get_label_maker(name)  # raises for an unknown one, now and not after an epoch

    @property
    def rules(self) -> list[str]:
        """Rules that :func:`estimate_image` applies."""
        rule = () if self.maker in ("learned", "full") else (self.maker,)
        return sorted({*self.yardsticks, *rule})

    def square_side(self, image_size: tuple[int, int]) -> float:
        """Side in input pixels of a point's dilated square."""
        return max(float(_CELL), self.dilate_side * min(image_size) / self.dilate_reference)


def rule_labels(
    name: str,
    coords: Tensor,
    index: Tensor,
    grid: tuple[int, int],
    stride: tuple[float, float],
    side: float,
) -> Tensor:
    """(h, w) int32 labels of one image by the rule ``name``; ``side`` is for rules that paint."""
    return get_label_maker(name)(coords, index, grid, stride, square_side=side)


@torch.no_grad()
def dense_labels(
    output: BranchOutput | None,
    points: PointBatch,
    image_sizes: list[tuple[int, int]],
    padded_size: tuple[int, int],
    settings: LabelSettings,
) -> tuple[Tensor, Tensor]:
    """Training labels of a batch (paper Eq. 2; section "Pseudo Label Branch").

    Returns:
        labels: (B, H, W) int64 instance index at ``settings.stride``, -1 where there is none.
        known: (B, H, W) bool, where the dice losses look. Ignored pixels of a label are unknown;
            void pixels of a full mask are known to be none of its segments.
    """
    stride = settings.stride
    grid = (padded_size[0] // stride, padded_size[1] // stride)
    inside = valid_cells(image_sizes, stride, grid, points.classes.device)
    if settings.maker == "full":
        if points.dense_map is None:
            raise ValueError(
                "MODEL.FDD.PAN_SUPERVISION is 'full' but the batch holds no masks; train on a "
                "data set registered with panoptic masks"
            )
        return points.dense_map.masked_fill(~inside, -1), inside
    if settings.maker == "learned":
        assert output is not None
        labels, prob = upsampled_argmax(
            output.instance[-1], grid, points.counts, return_prob=settings.min_prob > 0
        )
        if prob is not None:
            labels = labels.masked_fill(prob < settings.min_prob, -1)
    else:
        labels = torch.stack(
            [
                rule_labels(
                    settings.maker,
                    points.coords[points.point_image == i],
                    points.point_instance[points.point_image == i],
                    grid,
                    (stride, stride),
                    settings.square_side(size),
                )
                for i, size in enumerate(image_sizes)
            ]
        )
    labels = labels.long()
    if settings.force_points:
        labels = force_points(
            labels, points.point_image, points.point_instance, points.coords, stride, image_sizes
        )
    labels = labels.masked_fill(~inside, -1)
    return labels, labels >= 0


@torch.no_grad()
def estimate_image(
    x: dict[str, Any],
    index: int,
    output: BranchOutput | None,
    image_size: tuple[int, int],
    settings: LabelSettings,
) -> dict[str, Any]:
    """Labels of one image of a batch at its original size; see ``FDD.estimate_labels``.

    Args:
        x: mapper output; its points are in input pixels.
        index: of the image in ``output``.
        image_size: (H, W) of the un-padded input.
    """
    out_size = (int(x.get("height", image_size[0])), int(x.get("width", image_size[1])))
    scale = (out_size[0] / image_size[0], out_size[1] / image_size[1])
    coords, owner = x["point_coords"].float(), x["point_index"]
    moved = coords * torch.tensor([scale[1], scale[0]])
    labels: dict[str, Tensor] = {}
    result: dict[str, Any] = {"pseudo_labels": labels, "classes": x["classes"]}
    result["instance_ids"] = x.get("instance_ids", list(range(len(x["classes"]))))
    if output is not None:
        count = len(x["classes"])
        logits = output.instance[-1][index : index + 1, : max(1, count)]
        free, prob = resized_argmax(logits, [count], scale, out_size)
        free = free.masked_fill(prob < settings.min_prob, -1)  # as in training
        own = force_points(
            torch.full((1, *(num_valid_cells(side, _CELL) for side in image_size)), -1),
            torch.zeros(len(coords), dtype=torch.long),
            owner,
            coords,
            _CELL,
            [image_size],
        )
        forced = _spread_cells(own[0], scale, out_size)
        labels["learned"] = torch.where(forced >= 0, forced.int(), free)
        labels["learned_free"] = free
        result["confidence"] = prob
        if output.semantic:
            semantic = output.semantic[-1][index : index + 1]
            result["semantic"], _ = resized_argmax(semantic, [semantic.shape[1]], scale, out_size)
    side = settings.square_side(image_size) * min(scale)
    for name in settings.rules:
        labels[name] = rule_labels(name, moved, owner, out_size, (1.0, 1.0), side)
    return result


def resized_argmax(
    logits: Tensor, counts: list[int], scale: tuple[float, float], out_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Argmax and its probability of one image's logits at the original size, on the CPU.

    Args:
        logits: (1, K, h, w) at stride 8 of the padded input.
        counts: number of channels that are real.
        scale: original pixels an input pixel, (y, x).
        out_size: original (H, W).

    Returns:
        (H, W) int32 and (H, W) float32.
    """
    factor = (_CELL * scale[0], _CELL * scale[1])
    labels, prob = upsampled_argmax(logits, out_size, counts, scale=factor)
    assert prob is not None
    return labels[0].cpu(), prob[0].cpu()


def _spread_cells(cells: Tensor, scale: tuple[float, float], out_size: tuple[int, int]) -> Tensor:
    """Value of the (nearest valid) stride-8 cell in which each original pixel's centre lies."""
    rows, cols = (
        ((torch.arange(n) + 0.5) / (s * _CELL)).long().clamp(max=c - 1)
        for n, s, c in zip(out_size, scale, cells.shape, strict=True)
    )
    return cells[rows][:, cols]

"""Dense labels by the configured maker: M^pse of the learned branch, a rule, or full masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_makers import (
    NETWORK_STRIDE,
    BatchMakerInputs,
    MakerInputs,
    argmax_on_canvas,
    as_rgb,
    check_label_makers,
    get_label_maker,
    network_maps,
    obedient_labels,
    probable_labels,
)
from fdd.modeling.label_maps import (
    force_points,
    keep_points,
    valid_cells,
)
from fdd.modeling.layers import Memory
from fdd.modeling.pseudo_labels.click_residual import (
    Clicks,
    ClickSettings,
    click_residual,
    gather_clicks,
    rows_at_once,
    sample_cells,
)
from fdd.modeling.structures import PointBatch
from fdd.points.raster import dilated_side, num_valid_cells
from fdd.points.void import void_mask


@dataclass(frozen=True)
class LabelSettings:
    """How labels are made.

    Attributes:
        maker: name in ``fdd.modeling.label_makers``.
        stride: of the labels in training, in input pixels.
        force_points: labelled points win over the label in their own stride-8 cell.
        clicks: of the residual of the clicks, which makes labels obey their points instead; None:
            they need not (Eq. 2), or do by ``force_points``.
        min_prob: learned labels below this probability are ignored (self-training keeps them).
        dilate_side, dilate_reference: a point's square is ``dilate_side * short side /
            dilate_reference`` pixels wide where a maker paints it.
        refine: outside of the joint training, learned labels follow the image's colours.
        shares: outside of the joint training, learned labels are corrected for segments' shares of
            the area (:mod:`fdd.modeling.pseudo_labels.shares`).
        baselines: makers that :func:`estimate_image` adds.
        num_things: classes below it are things.
        image_format: "RGB" or "BGR", of the inputs' images.
    """

    maker: str = "learned"
    stride: int = 4
    force_points: bool = False
    clicks: ClickSettings | None = None
    min_prob: float = 0.0
    dilate_side: float = 17.0
    dilate_reference: float = 600.0
    refine: bool = False
    shares: bool = False
    baselines: tuple[str, ...] = ("nearest", "polygon", "extent")
    num_things: int = 0
    image_format: str = "RGB"

    def __post_init__(self) -> None:
        if self.force_points and self.clicks is not None:
            raise ValueError(
                "MODEL.FDD.PSEUDO.FORCE_POINTS and MODEL.FDD.CLICKS.RESIDUAL are both True; labels "
                "obey their points by one of them: set the other to False"
            )
        for name in self.makers:
            get_label_maker(name)  # raises for an unknown one, now and not after an epoch

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LabelSettings:
        """
        Raises:
            ValueError: a maker is unknown, or needs what the config leaves out.
        """
        fdd, points = cfg.MODEL.FDD, cfg.INPUT.POINTS
        baselines = tuple(cfg.TEST.PSEUDO_LABELS.BASELINES)
        check_label_makers(
            supervision=fdd.PAN_SUPERVISION,
            maker=fdd.LABEL_MAKER,
            baselines=baselines,
            lambda_sem=fdd.LAMBDA_SEM,
            embedding=fdd.DISTANCE.EMBEDDING,
            location_prior=fdd.LOCATION_PRIOR.ENABLED,
        )
        return cls(
            maker="full" if fdd.PAN_SUPERVISION == "full" else fdd.LABEL_MAKER,
            stride=fdd.PSEUDO.LABEL_STRIDE,
            force_points=fdd.PSEUDO.FORCE_POINTS,
            clicks=ClickSettings.from_config(cfg),
            min_prob=fdd.PSEUDO.LABEL_MIN_PROB,
            dilate_side=points.DILATE_SIDE,
            dilate_reference=points.DILATE_REFERENCE,
            refine=fdd.PSEUDO.REFINE,
            shares=fdd.PSEUDO.SHARES,
            baselines=baselines,
            num_things=fdd.NUM_THINGS,
            image_format=cfg.INPUT.FORMAT,
        )

    def free(self) -> LabelSettings:
        """The same for labels that need not obey their points."""
        return replace(self, force_points=False, clicks=None)

    @property
    def makers(self) -> list[str]:
        """The maker, and those that :func:`estimate_image` adds."""
        return [self.maker, *sorted({*self.baselines} - {self.maker})]

    def looks_at(self, source: str) -> bool:
        """Whether any of :attr:`makers` needs or wants this entry of ``label_makers.SOURCES``."""
        return any(
            source in maker.needs | maker.wants for maker in map(get_label_maker, self.makers)
        )

    def square_side(self, image_size: tuple[int, int]) -> float:
        """Side in input pixels of a point's dilated square."""
        return dilated_side(*image_size, self.dilate_side, self.dilate_reference, NETWORK_STRIDE)


@torch.no_grad()
def with_residual(
    output: BranchOutput | None,
    memory: Memory | None,
    points: PointBatch,
    image_sizes: list[tuple[int, int]],
    settings: LabelSettings,
    features: Tensor | None = None,
) -> BranchOutput | None:
    """The output with the residual of the clicks, where it is asked for.

    Args:
        output: of the label branch.
        memory: encoder output of the same images.
        points: those to obey; also ones that the queries were not made of.
        image_sizes: un-padded (H, W) of each image in px.
        features: of :func:`~fdd.modeling.pseudo_labels.click_residual.click_features`, where they
            are known already.
    """
    if settings.clicks is None or output is None or not output.instance:
        return output
    assert memory is not None
    clicks = gather_clicks(points, memory, image_sizes, settings.clicks, features)
    at_points = _logits_at_clicks(output, clicks)
    return replace(output, residual=click_residual(at_points, clicks, settings.clicks))


def _logits_at_clicks(output: BranchOutput, clicks: Clicks) -> Tensor:
    """(P, N) the last layer's logits of the instances at the clicks, as a label has them there."""
    logits, extents = output.instance[-1].detach(), output.extents
    if extents is None:
        return sample_cells(logits, clicks)
    step = rows_at_once(logits.shape[1], logits.device)
    exact = [
        extents[image].logits(*(part * NETWORK_STRIDE).unbind(1)).T
        for image, place in enumerate(clicks.place.split(clicks.counts))
        for part in place.split(step)
    ]
    return sample_cells(extents.without(logits), clicks) + torch.cat(exact)


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
        known: (B, H, W) bool, where the dice losses look. Ignored pixels of a label and void are
            unknown; void pixels of a full mask are known to be none of its segments.
    """
    stride, maker = settings.stride, get_label_maker(settings.maker)
    grid = (padded_size[0] // stride, padded_size[1] // stride)
    inside = valid_cells(image_sizes, stride, grid, points.classes.device)
    inputs = BatchMakerInputs(
        output=output,
        points=points,
        image_sizes=[(int(height), int(width)) for height, width in image_sizes],
        grid=grid,
        stride=stride,
        square_sides=[settings.square_side(size) for size in image_sizes],
        num_things=settings.num_things,
        min_prob=settings.min_prob,
        image_format=settings.image_format,
    )
    labels = maker.of_batch(inputs).long()
    if maker.exact:
        return labels.masked_fill(~inside, -1), inside
    labels = _obeying_cells(labels, points, inputs.image_sizes, settings)
    labels = _without_void(labels.masked_fill(~inside, -1), points, stride)
    return labels, labels >= 0


def _without_void(labels: Tensor, points: PointBatch, stride: int) -> Tensor:
    void = points.void_at(stride)
    return labels if void is None else labels.masked_fill(void, -1)


def _obeying_cells(
    labels: Tensor,
    points: PointBatch,
    image_sizes: Sequence[tuple[int, int]],
    settings: LabelSettings,
) -> Tensor:
    """(B, H, W) training labels at ``settings.stride`` whose points hold their cells, where the
    settings ask for it."""
    stride, image, instance = settings.stride, points.point_image, points.point_instance
    if settings.force_points:
        return force_points(labels, image, instance, points.coords, stride, image_sizes)
    if settings.clicks is None:
        return labels
    cell = (NETWORK_STRIDE / stride, NETWORK_STRIDE / stride)
    sizes = [(num_valid_cells(h, stride), num_valid_cells(w, stride)) for h, w in image_sizes]
    return keep_points(labels, image, instance, points.coords / stride, cell, sizes)[0]


@torch.no_grad()
def final_labels(
    output: BranchOutput | None,
    batched_inputs: list[dict[str, Any]],
    points: PointBatch,
    image_sizes: list[tuple[int, int]],
    padded_size: tuple[int, int],
    settings: LabelSettings,
) -> tuple[Tensor, Tensor]:
    """:func:`dense_labels`, drawn to the image's colours where labels are; too slow for each step.

    Args:
        output: with the residual of the clicks, if the labels have it.
        batched_inputs: mapper outputs, of ``points``.
    """
    labels, known = dense_labels(output, points, image_sizes, padded_size, settings)
    if not settings.refine or settings.maker != "learned":
        return labels, known
    sizes = [(int(height), int(width)) for height, width in image_sizes]
    maker, whole = get_label_maker(settings.maker), (1.0, 1.0)
    for i, (x, size) in enumerate(zip(batched_inputs, sizes, strict=True)):
        label = maker(_maker_inputs(x, i, output, size, size, whole, settings))
        # Of the pixels around a cell's centre the one below and to the right of it.
        rows, columns = (
            (torch.arange(num_valid_cells(side, settings.stride)) * 2 + 1) * settings.stride // 2
            for side in size
        )
        fine = label[rows.clamp(max=size[0] - 1)][:, columns.clamp(max=size[1] - 1)]
        labels[i, : len(rows), : len(columns)] = fine.to(labels)
    labels = _obeying_cells(labels, points, sizes, settings)
    labels = _without_void(labels, points, settings.stride)
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
        x: mapper output; its points are in input pixels. Masks are looked at only as
            ``instance_map``: makers that need them are left out where it is not there.
        index: of the image in ``output``.
        image_size: (H, W) of the un-padded input.
    """
    out_size = (int(x.get("height", image_size[0])), int(x.get("width", image_size[1])))
    scale = (out_size[0] / image_size[0], out_size[1] / image_size[1])
    inputs = _maker_inputs(x, index, output, image_size, out_size, scale, settings)
    labels: dict[str, Tensor] = {}
    result: dict[str, Any] = {"pseudo_labels": labels, "classes": x["classes"]}
    result["instance_ids"] = x.get("instance_ids", list(range(len(x["classes"]))))
    for name in settings.makers:
        maker = get_label_maker(name)
        if "masks" in maker.needs and inputs.masks is None:
            continue
        if name == "learned" and inputs.instance is not None:
            free, result["confidence"] = probable_labels(inputs)
            label = obedient_labels(inputs, free, result["confidence"])
        else:
            label = free = maker(inputs)
        labels[name] = label
        if maker.from_network:
            labels[name] = obey_points(label, x, image_size, scale, settings)
            labels[f"{name}_free"] = free
    labels.update({name: clear_void(label, x) for name, label in labels.items()})
    if inputs.semantic is not None:
        classes = len(inputs.semantic)
        result["semantic"], _ = argmax_on_canvas(inputs, inputs.semantic, out_size, classes)
    return result


def clear_void(label: Tensor, x: dict[str, Any]) -> Tensor:
    """A label (H, W) of an image at its original size, -1 where it is to be ignored.

    Args:
        x: mapper output; its ``void`` is in pixels of the original.
    """
    if not x.get("void"):
        return label
    void = torch.from_numpy(void_mask(x["void"], label.shape[0], label.shape[1]))
    return label.masked_fill(void, -1)


def _maker_inputs(
    x: dict[str, Any],
    index: int,
    output: BranchOutput | None,
    image_size: tuple[int, int],
    out_size: tuple[int, int],
    scale: tuple[float, float],
    settings: LabelSettings,
) -> MakerInputs:
    return MakerInputs(
        coords=x["point_coords"].float() * torch.tensor([scale[1], scale[0]]),
        index=x["point_index"],
        classes=x["classes"],
        grid=out_size,
        stride=(1.0, 1.0),
        square_side=settings.square_side(image_size) * min(scale),
        num_things=settings.num_things,
        scale=scale,
        image_size=image_size,
        image=as_rgb(x["image"], settings.image_format) if "image" in x else None,
        masks=x.get("instance_map"),
        min_prob=settings.min_prob,
        refine=settings.refine,
        **network_maps(output, index, len(x["classes"])),
    )


def obey_points(
    label: Tensor,
    x: dict[str, Any],
    image_size: tuple[int, int],
    scale: tuple[float, float],
    settings: LabelSettings,
) -> Tensor:
    """A label at the original size whose points hold their pixels, where the settings ask for it.

    Args:
        label: (H, W) int32.
        x: mapper output; its points are in input pixels.
        image_size: (H, W) of the un-padded input. scale: original pixels an input pixel, (y, x).
    """
    size = label.shape[0], label.shape[1]
    if settings.force_points:
        forced = forced_points(x, image_size, size, scale)
        return torch.where(forced >= 0, forced.to(label), label)
    if settings.clicks is None:
        return label
    kept, _ = keep_points(
        label[None],
        torch.zeros(len(x["point_coords"]), dtype=torch.long),
        x["point_index"],
        x["point_coords"].float() * torch.tensor([scale[1], scale[0]]),
        (NETWORK_STRIDE * scale[0], NETWORK_STRIDE * scale[1]),
        [size],
    )
    return kept[0]


def forced_points(
    x: dict[str, Any],
    image_size: tuple[int, int],
    out_size: tuple[int, int],
    scale: tuple[float, float],
) -> Tensor:
    """Instance whose point's own stride-8 cell each original pixel lies in, (H, W), else -1.

    Pixels beyond the last valid cell count as in it.
    """
    own = force_points(
        torch.full((1, *(num_valid_cells(side, NETWORK_STRIDE) for side in image_size)), -1),
        torch.zeros(len(x["point_coords"]), dtype=torch.long),
        x["point_index"],
        x["point_coords"].float(),
        NETWORK_STRIDE,
        [image_size],
    )
    rows, columns = (
        ((torch.arange(n) + 0.5) / (s * NETWORK_STRIDE)).long().clamp(max=cells - 1)
        for n, s, cells in zip(out_size, scale, own.shape[1:], strict=True)
    )
    return own[0][rows][:, columns]

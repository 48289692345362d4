"""The paper's own labels: argmax of the pseudo label branch (Eq. 2), with the residual of the
clicks where there is one; and its location prior's."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.label_makers.inputs import BatchMakerInputs, MakerInputs, argmax_on_canvas
from fdd.modeling.label_makers.registry import register_label_maker
from fdd.modeling.label_maps import upsampled_argmax
from fdd.modeling.refinement import HeldPoints, refined_logits


def learned_batch(inputs: BatchMakerInputs) -> Tensor:
    """Labels of a batch, (B, h, w) int32, without waiting for the device."""
    assert inputs.output is not None
    logits, residual = inputs.output.instance[-1], inputs.output.residual
    grid, counts, doubt = inputs.grid, inputs.points.counts, inputs.min_prob > 0
    extents, added = inputs.output.extents, None
    if extents is not None:
        logits = extents.without(logits)
        added = extents.to_add(grid, (inputs.stride, inputs.stride))
    prob = None
    if residual is None or doubt:
        labels, prob = upsampled_argmax(logits, grid, counts, return_prob=doubt, added=added)
    if residual is not None:
        logits = logits + residual
        labels, _ = upsampled_argmax(logits, grid, counts, return_prob=False, added=added)
    return labels if prob is None else labels.masked_fill(prob < inputs.min_prob, -1)


@torch.no_grad()
def probable_labels(inputs: MakerInputs) -> tuple[Tensor, Tensor]:
    """The branch's own labels, without residual, and their probability: (h, w) float32."""
    assert inputs.instance is not None
    labels, prob = _argmax(inputs, inputs.instance, inputs.refine)
    return labels.masked_fill(prob < inputs.min_prob, -1), prob


def _argmax(
    inputs: MakerInputs, logits: Tensor, refine: bool, obey: bool = False
) -> tuple[Tensor, Tensor]:
    """Labels and probabilities on the canvas of logits at stride 8, refined if asked for, with or
    without regard to the points."""
    count = len(inputs.classes)
    if not refine or count == 0:
        return argmax_on_canvas(inputs, logits, inputs.grid, count, instances=True)
    if inputs.image is None:
        raise ValueError("labels are refined by the image's colours, and there is no image")
    points = None
    if obey:
        scale = inputs.coords.new_tensor([inputs.scale[1], inputs.scale[0]])
        points = HeldPoints(inputs.coords / scale, inputs.index)
    maps = refined_logits(logits[:count], inputs.image, points, inputs.extents)
    labels, refined_prob = upsampled_argmax(maps[None], inputs.grid, [count])
    assert refined_prob is not None
    return labels[0], refined_prob[0]


@register_label_maker(needs={"instance"}, batch_rule=learned_batch)
def learned_labels(inputs: MakerInputs) -> Tensor:
    """Instance of the largest up-sampled logit, with the residual of the clicks where there is one.

    -1 without instances, and where the probability (without residual) is below ``min_prob``.
    """
    if inputs.residual is not None and inputs.min_prob == 0:
        return _obedient(inputs)  # nobody asks how probable they are
    return obedient_labels(inputs, *probable_labels(inputs))


@torch.no_grad()
def obedient_labels(inputs: MakerInputs, free: Tensor, prob: Tensor) -> Tensor:
    """The labels with the residual of the clicks.

    Args:
        free, prob: of :func:`probable_labels`, (h, w) each.
    """
    if inputs.residual is None:
        return free
    return _obedient(inputs).masked_fill(prob < inputs.min_prob, -1)


def _obedient(inputs: MakerInputs) -> Tensor:
    assert inputs.instance is not None and inputs.residual is not None
    labels, _ = _argmax(inputs, inputs.instance + inputs.residual, inputs.refine, obey=True)
    return labels


@register_label_maker(needs={"prior"})
@torch.no_grad()
def prior_labels(inputs: MakerInputs) -> Tensor:
    """:func:`learned_labels` of the location prior's logits alone: the baseline that shows what the
    network adds to the prior."""
    assert inputs.prior is not None
    labels, prob = _argmax(inputs, inputs.prior, refine=False)
    return labels.masked_fill(prob < inputs.min_prob, -1)

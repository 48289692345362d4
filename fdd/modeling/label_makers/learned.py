"""The paper's own labels: argmax of the pseudo label branch (Eq. 2), with the residual of the
clicks where there is one; and its location prior's."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.label_makers.inputs import BatchMakerInputs, MakerInputs, argmax_on_canvas
from fdd.modeling.label_makers.registry import register_label_maker
from fdd.modeling.label_maps import upsampled_argmax


def learned_batch(inputs: BatchMakerInputs) -> Tensor:
    """Labels of a batch, (B, h, w) int32, without waiting for the device."""
    assert inputs.output is not None
    logits, residual = inputs.output.instance[-1], inputs.output.residual
    grid, counts, doubt = inputs.grid, inputs.points.counts, inputs.min_prob > 0
    prob = None
    if residual is None or doubt:
        labels, prob = upsampled_argmax(logits, grid, counts, return_prob=doubt)
    if residual is not None:
        labels, _ = upsampled_argmax(logits + residual, grid, counts, return_prob=False)
    return labels if prob is None else labels.masked_fill(prob < inputs.min_prob, -1)


@torch.no_grad()
def probable_labels(inputs: MakerInputs) -> tuple[Tensor, Tensor]:
    """The branch's own labels, without residual, and their probability: (h, w) float32."""
    assert inputs.instance is not None
    return _argmax(inputs, inputs.instance)


def _argmax(inputs: MakerInputs, logits: Tensor) -> tuple[Tensor, Tensor]:
    count = len(inputs.classes)
    labels, prob = argmax_on_canvas(inputs, logits, inputs.grid, count)
    return labels.masked_fill(prob < inputs.min_prob, -1), prob


@register_label_maker(needs={"instance"}, batch_rule=learned_batch)
def learned_labels(inputs: MakerInputs) -> Tensor:
    """Instance of the largest up-sampled logit, with the residual of the clicks where there is one.

    -1 without instances, and where the probability (without residual) is below ``min_prob``.
    """
    return obedient_labels(inputs, *probable_labels(inputs))


@torch.no_grad()
def obedient_labels(inputs: MakerInputs, free: Tensor, prob: Tensor) -> Tensor:
    """The labels with the residual of the clicks.

    Args:
        free, prob: of :func:`probable_labels`, (h, w) each.
    """
    if inputs.residual is None:
        return free
    assert inputs.instance is not None
    logits, count = inputs.instance + inputs.residual, len(inputs.classes)
    labels, _ = argmax_on_canvas(inputs, logits, inputs.grid, count)
    return labels.masked_fill(prob < inputs.min_prob, -1)


@register_label_maker(needs={"prior"})
@torch.no_grad()
def prior_labels(inputs: MakerInputs) -> Tensor:
    """:func:`learned_labels` of the location prior's logits alone: the baseline that shows what the
    network adds to the prior."""
    assert inputs.prior is not None
    return _argmax(inputs, inputs.prior)[0]

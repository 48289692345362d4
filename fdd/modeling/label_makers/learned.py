"""The paper's own labels: argmax of the pseudo label branch (Eq. 2), with the residual of the
clicks where there is one; and its location prior's."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import BatchEvidence, Evidence, argmax_on_canvas
from fdd.modeling.label_makers.registry import register_label_maker
from fdd.modeling.label_maps import upsampled_argmax


def learned_batch(evidence: BatchEvidence) -> Tensor:
    """Labels of a batch, (B, h, w) int32; nobody waits for the device."""
    assert evidence.output is not None
    logits, residual = evidence.output.instance[-1], evidence.output.residual
    grid, counts, doubt = evidence.grid, evidence.points.counts, evidence.min_prob > 0
    prob = None
    if residual is None or doubt:
        labels, prob = upsampled_argmax(logits, grid, counts, return_prob=doubt)
    if residual is not None:
        labels, _ = upsampled_argmax(logits + residual, grid, counts, return_prob=False)
    return labels if prob is None else labels.masked_fill(prob < evidence.min_prob, -1)


@torch.no_grad()
def probable_labels(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The branch's own labels, without residual, and their probability: (h, w) float32."""
    assert evidence.instance is not None
    return _argmax(evidence, evidence.instance)


def _argmax(evidence: Evidence, logits: Tensor) -> tuple[Tensor, Tensor]:
    count = len(evidence.classes)
    labels, prob = argmax_on_canvas(evidence, logits, evidence.grid, count)
    return labels.masked_fill(prob < evidence.min_prob, -1), prob


@register_label_maker(needs={"instance"}, batch_rule=learned_batch)
def learned_labels(evidence: Evidence) -> Tensor:
    """Instance of the largest up-sampled logit, with the residual of the clicks where there is one.

    -1 without instances, and where the probability (without residual) is below ``min_prob``.
    """
    return obedient_labels(evidence, *probable_labels(evidence))


@torch.no_grad()
def obedient_labels(evidence: Evidence, free: Tensor, prob: Tensor) -> Tensor:
    """The labels with the residual of the clicks.

    Args:
        free, prob: of :func:`probable_labels`, (h, w) each.
    """
    if evidence.residual is None:
        return free
    assert evidence.instance is not None
    logits, count = evidence.instance + evidence.residual, len(evidence.classes)
    labels, _ = argmax_on_canvas(evidence, logits, evidence.grid, count)
    return labels.masked_fill(prob < evidence.min_prob, -1)


@register_label_maker(needs={"prior"})
@torch.no_grad()
def prior_labels(evidence: Evidence) -> Tensor:
    """:func:`learned_labels` of a pseudo label branch that says nothing: of the location prior's
    logits alone. What the learned labels have above it, the network has learned."""
    assert evidence.prior is not None
    return _argmax(evidence, evidence.prior)[0]

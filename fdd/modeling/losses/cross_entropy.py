"""Cross-entropies: at labelled cells (paper Eq. 3, 9), against the branch's own argmax (Eq. 6), of
masks at points (Table 8), of class totals against class probabilities, and the focal one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.losses.common import at_least_one, attached_zero, check_label_map, full_precision

# Class totals are clamped to this, without gradient: the logarithm stays finite.
_LEAST = 1e-30


class LabelledCells(NamedTuple):
    """The labelled cells of a (B, h, w) map, listed.

    Listed on the host, where the labels come from it: finding them in a map waits for the device.

    Attributes:
        image, row, column: (M,) int64. label: (M,) int64, channel of the target.
    """

    image: Tensor
    row: Tensor
    column: Tensor
    label: Tensor


def labelled_cells(target: Tensor) -> LabelledCells:
    """List the cells of an integer (B, h, w) map that are not -1."""
    image, row, column = (target >= 0).nonzero(as_tuple=True)
    return LabelledCells(image, row, column, target[image, row, column].long())


def partial_cross_entropy(
    logits: Tensor, target: Tensor | LabelledCells, normalizer: Tensor | float
) -> Tensor:
    """Cross-entropy of the softmax over channels, at labelled cells only (paper Eq. 3).

    Args:
        logits: (B, K, h, w) float. No target may name a padded channel.
        target: (B, h, w) integer map (S^ins or S^sem), -1 where unlabelled, or its
            :class:`LabelledCells`.
        normalizer: number of labelled cells Z to divide by, over all processes and accumulated
            batches.

    Returns:
        0-d tensor, sum of -log p at the target / max(normalizer, 1). Exactly 0, still attached to
        the graph, where nothing is labelled.

    Raises:
        ValueError: ``target`` is not an integer map of the logits' size.
    """
    if isinstance(target, Tensor):
        check_label_map("target", logits, target)
        target = labelled_cells(target)
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    # Labelled cells are some 1 % of the map: gather them before the softmax instead of ignoring the
    # rest after it.
    labelled = full_precision(logits[target.image, :, target.row, target.column])
    loss = F.cross_entropy(labelled, target.label, reduction="sum")
    return loss / at_least_one(normalizer, loss)


class _MaskedCrossEntropy(torch.autograd.Function):
    """Summed -log p at the cells' labels, with the gradient p - 1[k = label].

    The log-softmax is turned into the gradient in place: one map a channel is made, and kept.
    ``F.cross_entropy(ignore_index)`` does not do: in an image whose channels are all padding its
    log-softmax is NaN, and so are the gradients of the ignored cells.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        keep, index = labels >= 0, labels.clamp(min=0).unsqueeze(1)
        work = logits.log_softmax(1)
        loss = work.gather(1, index).squeeze(1).masked_fill_(~keep, 0).sum().neg()
        if ctx.needs_input_grad[0]:
            work.exp_().scatter_add_(1, index, work.new_full((), -1.0).expand(index.shape))
            ctx.save_for_backward(work.masked_fill_(~keep.unsqueeze(1), 0))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (work,) = ctx.saved_tensors
        return work * grad, None


def self_training_ce(logits: Tensor, labels: Tensor, normalizer: Tensor | float) -> Tensor:
    """Cross-entropy of the softmax over channels against a dense label map (paper Eq. 6).

    Args:
        logits: (B, K, h, w) float.
        labels: (B, h, w) integer map (``pseudo_labels`` M^pse at the logits' stride), -1 where
            ignored (padding).
        normalizer: number of cells to divide by.

    Returns:
        0-d tensor: the mean over cells with a label when ``normalizer`` is their number. 0,
        attached, without any.

    Raises:
        ValueError: ``labels`` is not an integer map of the logits' size.
    """
    check_label_map("labels", logits, labels)
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    loss = _MaskedCrossEntropy.apply(full_precision(logits), labels.long())
    return loss / at_least_one(normalizer, loss)


def point_mask_loss(values: Tensor, own: Tensor, labelled: Tensor, eps: float = 1e-2) -> Tensor:
    """Binary cross-entropy of mask values, as if they were probabilities, at labelled cells: masks
    that learn from points (paper Table 8).

    With p the probability that the mask m gives to what the label says (m where it is 1, 1 - m
    where it is 0), a cell costs -log clamp(p, eps, 1 - eps), the partial cross-entropy of the
    paper's "Supervision for the Panoptic Branch" on masks that end in a ReLU. Below eps, where
    clamp and ReLU both end all gradients, the loss goes on along its tangent:

        -log eps + (eps - p) / eps        for p < eps.

    So a mask that is zero at its own points, as many are at the start, is pulled up, and one above
    1 at others' points is pulled down, neither harder than anything inside (1 / eps); the loss is
    convex, its gradient is the stated one's wherever that has one. Its value exceeds the stated
    one's where p < eps. To keep that value and let the gradient straight through the clamp would
    train alike, but be no function's gradient. From p = 1 - eps on a cell is done: no gradient, so
    that masks do not grow without end.

    Args:
        values: (layers, R, M) float: R masks without their final ReLU, at M cells.
        own: (R, M) bool, labels: cells of the mask's own instance or class.
        labelled: (R, M) bool, cells that count for the mask.
        eps: in (0, 1/2).

    Returns:
        (layers, R) float32 (float64 if ``values`` are): the mean over a mask's labelled cells.
        0, attached to the graph, for a mask without an own cell: the others would only teach it
        to be empty.

    Raises:
        ValueError: shapes that do not fit, or an ``eps`` outside (0, 1/2).
    """
    if values.dim() != 3 or values.shape[1:] != own.shape or own.shape != labelled.shape:
        raise ValueError(
            f"values, own and labelled have shapes {tuple(values.shape)}, {tuple(own.shape)} and "
            f"{tuple(labelled.shape)}; expected (layers, R, M), (R, M) and (R, M)"
        )
    if not 0 < eps < 0.5:
        raise ValueError(f"eps is {eps}; expected a number between 0 and 1/2")
    values, own = full_precision(values), own & labelled
    count = labelled.sum(1).clamp(min=1).to(values.dtype)
    counts = labelled & own.any(1, keepdim=True)
    p = torch.where(own, values, 1 - values)
    loss = F.relu(eps - p) / eps - p.clamp(eps, 1 - eps).log()
    return torch.where(counts, loss, 0).sum(2) / count


def present_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Which classes an image has instances of.

    Args:
        classes: (B, N) int64, -1 where padded.

    Returns:
        (B, C) bool.
    """
    present = torch.zeros(len(classes), num_classes + 1, dtype=torch.bool, device=classes.device)
    present.scatter_(1, torch.where(classes >= 0, classes, num_classes), True)
    return present[:, :num_classes]


def class_distribution(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax of (B, C, h, w) class logits over the classes that have an instance in the image.

    Args:
        classes: (B, N) int64, -1 where padded.

    Returns:
        (B, C, h, w); over all classes in an image without instances.
    """
    present = present_classes(classes, logits.shape[1])
    absent = ~present & present.any(1, keepdim=True)
    return full_precision(logits).masked_fill(absent[:, :, None, None], -torch.inf).softmax(1)


def class_agreement_loss(
    logits: Tensor, classes: Tensor, target: Tensor, keep: Tensor, normalizer: Tensor | float
) -> Tensor:
    """Cross-entropy of the instances' class totals against a distribution over classes.

    With P_n(i) the softmax over the instances and T_c(i) the target,

        Q_c(i) = sum of P_n(i) over the instances n of class c,
        L = -1/normalizer * sum over cells i and classes c of T_c(i) log Q_c(i).

    It says nothing of which instance of a class a cell belongs to. (Ours, not the paper's.)

    Args:
        logits: (B, N, h, w) float.
        classes: (B, N) int64 in [0, C), -1 where padded.
        target: (B, C, h, w) of :func:`class_distribution`; without gradient.
        keep: (B, h, w) bool, the cells that count: none of an image without instances.
        normalizer: number of cells to divide by.

    Returns:
        0-d tensor; 0, attached, without instances.
    """
    if logits.shape[1] == 0:
        return attached_zero(full_precision(logits))
    num_classes = target.shape[1]
    member = F.one_hot(torch.where(classes >= 0, classes, num_classes), num_classes + 1)
    member = member[..., :num_classes].to(target.dtype)
    totals = torch.einsum("bnc,bnhw->bchw", member, full_precision(logits).softmax(1))
    entropy = (target.detach() * totals.clamp(min=_LEAST).log()).sum(1).neg()
    return (entropy * keep).sum() / at_least_one(normalizer, entropy)


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al., 2017): -alpha_t (1 - p_t)^gamma log p_t, element by element.

    Args:
        logits: float, any shape.
        targets: same shape, 1 for positives and 0 for negatives (bool, integer or float).
        alpha: weight of positives; negatives have 1 - ``alpha``.
        gamma: focusing exponent, 0 or >= 1.

    Returns:
        Float tensor of the same shape; not reduced, so that the caller owns the normaliser.
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets have shapes {tuple(logits.shape)} and {tuple(targets.shape)}; "
            "expected equal"
        )
    logits = full_precision(logits)
    targets = targets.to(logits.dtype)
    p = logits.sigmoid()
    miss = p + targets - 2 * p * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (
        weight
        * miss.pow(gamma)
        * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    )

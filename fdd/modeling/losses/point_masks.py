"""Cross-entropy of masks at labelled cells only: masks that learn from points (paper Table 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.losses.common import full_precision


def point_mask_loss(values: Tensor, own: Tensor, labelled: Tensor, eps: float = 1e-2) -> Tensor:
    """Binary cross-entropy of mask values, as if they were probabilities, at labelled cells.

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
        labelled: (R, M) bool, cells that count for the mask; the others may hold anything.
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

"""Small helpers shared by the losses."""

from __future__ import annotations

import torch
from torch import Tensor

#: Least probability of a pair in the colour prior. 1e-12 would already be wrong for logit gaps
#: above 28; this holds to 69.
PAIR_FLOOR = 1e-30


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64: half precision underflows in these losses."""
    return x if x.dtype == torch.float64 else x.float()


def at_least_one(count: Tensor | float, like: Tensor) -> Tensor:
    """``max(count, 1)``, 0-d, with the dtype and device of ``like`` and without gradient."""
    if not isinstance(count, Tensor):
        return like.new_full((), max(float(count), 1.0))
    return count.detach().to(like.device, like.dtype).reshape(()).clamp(min=1)


def attached_zero(x: Tensor) -> Tensor:
    """An exact 0 that depends on ``x`` in the autograd graph, even where ``x`` holds infinities."""
    return x.reshape(-1)[:0].sum()


def check_label_map(name: str, logits: Tensor, labels: Tensor) -> None:
    """Raise ``ValueError`` unless integer (B, h, w) ``labels`` fit (B, K, h, w) ``logits``."""
    if logits.dim() != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (B, K, h, w)")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected or labels.is_floating_point():
        raise ValueError(
            f"{name} is {labels.dtype} of shape {tuple(labels.shape)}; "
            f"expected an integer map of shape {expected}"
        )

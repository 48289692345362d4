"""Host and device: copies that nobody waits for, and contexts of autocast and of the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor


def upload(x: Tensor | np.ndarray, device: torch.device | str | None) -> Tensor:
    """``x`` on ``device``.

    ``torch.tensor(..., device="cuda")`` waits until the device has done all its work; a copy from
    page-locked memory is queued behind it instead.
    """
    host = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    device = torch.device("cpu" if device is None else device)
    if device.type == "cuda" and host.device.type == "cpu" and not host.is_pinned():
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Operators in the region keep the types they are given."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device has none
        return nullcontext()
    if not torch.is_autocast_enabled(device.type):  # a region of its own in what is exported
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """On the CPU, numbers too small for the usual form of a float (in float32, below 1.2e-38) are
    zero in the region.

    A cell is far from most things of an image: their probabilities there, and what becomes of them
    in the backward pass, are such numbers, on which x86 processors calculate many times slower.
    It holds for this thread and for those that it starts from then on: enter it before the first
    operator that runs on several.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)

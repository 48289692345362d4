"""Host and device: copies that nobody waits for, and contexts of autocast and of the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

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

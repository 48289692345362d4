"""How a batch travels from a loader's worker to the training process: in one piece.

PyTorch moves each tensor into a shared memory file of its own. An example has eight, and to open,
pass on and map each file takes longer than to make the smaller maps. Here all tensors of a batch
lie in one file.

That file is made in the worker itself, and not where PyTorch would make it: in the thread that
feeds the queue, where an error is printed, the batch lost, and the training waits for it for ever.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch.utils.data import get_worker_info

__all__ = ["PackedBatch", "SharedMemoryError", "as_batch"]

_ALIGN = 64  # bytes; more than any element needs

# (index of the example, key, dtype, shape, strides, first byte)
_Place = tuple[int, str, torch.dtype, torch.Size, tuple[int, ...], int]


class SharedMemoryError(OSError):
    """A batch for which there is no shared memory. The message says how to load without it."""

    def __init__(self, text: str) -> None:
        # The loader raises a worker's error again with the traceback before its message.
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip())


def as_batch(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collate function: the examples as they are, in a worker ready to travel.

    Raises:
        SharedMemoryError: in a worker whose batch does not fit into shared memory.
    """
    return examples if get_worker_info() is None else PackedBatch(examples)


class PackedBatch(list[dict[str, Any]]):
    """A list of examples that is pickled as one tensor and arrives as an ordinary list.

    The tensors that arrive are views of one shared buffer, with the strides that they left with;
    it goes when the last of them does. Other tensors on the CPU are shared one by one; anything
    else travels as always.

    Raises:
        SharedMemoryError: there is no shared memory for it.
    """

    def __init__(self, examples: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(examples)
        self._packed = self._pack()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, self._packed

    def _pack(self) -> tuple[torch.Tensor, list[_Place], list[dict[str, Any]]]:
        places: list[_Place] = []
        rest: list[dict[str, Any]] = []
        end = 0
        for n, example in enumerate(self):
            rest.append({})
            for key, value in example.items():
                if not _is_plain(value):
                    rest[-1][key] = value
                    continue
                rest[-1][key] = None  # keeps the order of the keys
                # Those of a dense tensor as they are (a permuted image), of a slice compacted.
                strides = torch.empty_like(value, device="meta").stride()
                places.append((n, key, value.dtype, value.shape, strides, end))
                end += -(-value.numel() * value.element_size() // _ALIGN) * _ALIGN
        # Shared from the start, as PyTorch's own collate function does it: memory that is shared
        # later is copied once more.
        try:
            storage = torch.UntypedStorage._new_shared(end)
            _share(rest)
        except (OSError, RuntimeError) as error:
            _refuse(end, error)
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        for place, view in zip(places, _views(buffer, places), strict=True):
            view.copy_(self[place[0]][place[1]])
        return buffer, places, rest


def _share(value: Any) -> None:
    """Move the tensors within lists and dicts into shared memory, as to pickle them would."""
    if isinstance(value, dict):
        _share(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _share(item)
    elif isinstance(value, torch.Tensor) and _has_memory(value):
        value.share_memory_()


def _has_memory(value: torch.Tensor) -> bool:
    return value.device.type == "cpu" and value.layout is torch.strided


def _refuse(size: int, error: Exception) -> NoReturn:
    folder = "/dev/shm"
    free = ""
    if os.path.isdir(folder):
        free = f"; {folder} has {_megabytes(shutil.disk_usage(folder).free)} free"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        free += f"; `ulimit -f` allows files of {_megabytes(limit)}"
    why = (str(error).splitlines() or [type(error).__name__])[0]
    raise SharedMemoryError(
        f"a loader's worker cannot put a batch of {_megabytes(size)} into shared memory ({why}"
        f"{free}). Allow more (of a container: --shm-size 8g; in a shell: ulimit -f unlimited), or "
        "load without workers: DATALOADER.NUM_WORKERS 0"
    ) from error


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _unpack(
    buffer: torch.Tensor, places: list[_Place], rest: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    for place, view in zip(places, _views(buffer, places), strict=True):
        rest[place[0]][place[1]] = view
    return rest


def _views(buffer: torch.Tensor, places: list[_Place]) -> list[torch.Tensor]:
    storage = buffer.untyped_storage()
    views = []
    for _, _, dtype, shape, strides, start in places:
        empty = torch.empty(0, dtype=dtype)
        views.append(empty.set_(storage, start // empty.element_size(), shape, strides))
    return views


def _is_plain(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.requires_grad
    )

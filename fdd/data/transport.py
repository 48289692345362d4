"""How a batch travels from a loader's worker to the training process: in one piece.

PyTorch moves each tensor into a shared memory file of its own. An example has eight, and to open,
pass on and map each file takes longer than to make the smaller maps. Here all tensors of a batch
lie in one file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import get_worker_info

__all__ = ["PackedBatch", "as_batch"]

_ALIGN = 64  # bytes; more than any element needs

# (index of the example, key, dtype, shape, strides, first byte)
_Place = tuple[int, str, torch.dtype, torch.Size, tuple[int, ...], int]


def as_batch(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collate function: the examples as they are, in a worker ready to travel."""
    return examples if get_worker_info() is None else PackedBatch(examples)


class PackedBatch(list[dict[str, Any]]):
    """A list of examples that is pickled as one tensor and arrives as an ordinary list.

    The tensors that arrive are views of one shared buffer, with the strides that they left with;
    it goes when the last of them does. Anything but a plain tensor on the CPU travels as always.
    """

    def __reduce__(self) -> tuple[Any, ...]:
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
        storage = torch.UntypedStorage._new_shared(end)
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        for place, view in zip(places, _views(buffer, places), strict=True):
            view.copy_(self[place[0]][place[1]])
        return _unpack, (buffer, places, rest)


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

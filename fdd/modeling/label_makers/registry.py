"""The registry of rules that turn points into a dense label map."""

from __future__ import annotations

from typing import Protocol

import torch
from fvcore.common.registry import Registry
from torch import Tensor

LABEL_MAKERS = Registry("LABEL_MAKERS")
LABEL_MAKERS.__doc__ = """
Rules that rival the learned pseudo labels. The rule called ``x`` in a config is the registered
function ``x_labels``; it follows :class:`LabelMaker`.
"""

_SUFFIX = "_labels"

#: Px of a cell: one number, or (along y, along x).
Stride = float | tuple[float, float]


class LabelMaker(Protocol):
    """Points of one image -> instance map of that image."""

    def __call__(
        self,
        coords: Tensor,
        index: Tensor,
        grid: tuple[int, int],
        stride: Stride,
        square_side: float = 17.0,
    ) -> Tensor:
        """
        Args:
            coords: (P, 2) float points (x, y) in px.
            index: (P,) integer instance of each point, >= 0.
            grid: (h, w) of the map.
            stride: px of a cell, (along y, along x) where they differ. A cell (v, u) stands for the
                point (stride * (u + 0.5), stride * (v + 0.5)).
            square_side: px, side of the square that a lone point stands for.

        Returns:
            (h, w) int32 on the device of ``coords``: instance, -1 where the rule has no opinion.
        """
        ...


def get_label_maker(name: str) -> LabelMaker:
    """The rule called ``name``.

    Raises:
        ValueError: no such rule; the message lists those there are.
    """
    known = sorted(key.removesuffix(_SUFFIX) for key, _ in LABEL_MAKERS)
    if name not in known:
        raise ValueError(f"label maker {name!r} is unknown; allowed: {', '.join(known)}")
    return LABEL_MAKERS.get(name + _SUFFIX)


def check_points(coords: Tensor, index: Tensor) -> None:
    """Raise ``ValueError`` unless ``coords`` is finite (P, 2) and ``index`` (P,) and >= 0."""
    if coords.dim() != 2 or coords.shape[1] != 2 or index.shape != coords.shape[:1]:
        raise ValueError(
            f"coords and index have shapes {tuple(coords.shape)} and {tuple(index.shape)}; "
            "expected (P, 2) and (P,)"
        )
    if len(index) and (int(index.min()) < 0 or not bool(coords.isfinite().all())):
        raise ValueError("point coordinates must be finite and instance indices >= 0")


def cell_centres(grid: tuple[int, int], stride: Stride, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows' y (h,) and columns' x (w,) of the cell centres, in the dtype of ``like``."""
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    y, x = (
        (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) * step
        for n, step in zip(grid, strides, strict=True)
    )
    return y, x

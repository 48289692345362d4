"""The attention layer around the operator: projections, sampling places, attention weights."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from fdd.modeling.device import no_autocast
from fdd.modeling.layers.deform_attn.op import ms_deform_attn


def _level_sizes(shapes: tuple[tuple[int, int], ...], like: Tensor) -> Tensor:
    """(levels, 1, 2) float32, (w, h) of each level, on the device of ``like``.

    Filled on the device: an upload would make the host wait.
    """
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        # A traced or fake tensor must not be met again by a real call.
        return _fill_sizes(shapes, like.device)
    return _kept_sizes(shapes, like.device)


def _fill_sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    sides = [side for h, w in shapes for side in (w, h)]
    filled = [torch.full((), side, dtype=torch.float32, device=device) for side in sides]
    return torch.stack(filled).view(-1, 1, 2)


@lru_cache(maxsize=1024)
def _kept_sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for later calls, which may be training
        return _fill_sizes(shapes, device)


class MSDeformAttn(nn.Module):
    """Multi-head deformable attention over several levels (Deformable DETR, section 4)."""

    def __init__(self, *, dim: int, num_heads: int, num_levels: int, num_points: int):
        """
        Args:
            dim: channels of queries and values; a multiple of ``num_heads``.
            num_heads, num_levels, num_points: samples are taken at heads * levels * points places.
        """
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.backend = "auto"
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start on a ring: one direction a head, one radius a point, on every level."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        radius = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = ring[:, None, None, :] * radius[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: tuple[tuple[int, int], ...],
        valid: Tensor | None,
    ) -> Tensor:
        """
        Args:
            query: (B, Q, D), position included.
            reference: (B, Q, levels, 2) points, or (B, Q, levels, 4) boxes (cx, cy, w, h), both in
                [0, 1] of each level's full (padded) map. Offsets are in cells around points and in
                half box sides (over the number of points) around boxes.
            tokens: (B, L, D) values.
            shapes: (h, w) of each level.
            valid: (B, L) bool; values on padding count as zero. None: nothing is padding.

        Returns:
            (B, Q, D).
        """
        batch, queries, dim = query.shape
        samples = (self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(tokens)
        if valid is not None:
            value.masked_fill_(~valid[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, dim // self.num_heads))
        offsets = self.sampling_offsets(query).float().view(batch, queries, *samples, 2)
        weights = self.attention_weights(query).float().view(batch, queries, self.num_heads, -1)
        weights = weights.softmax(-1).view(batch, queries, *samples)
        if reference.shape[-1] == 2:
            sizes = _level_sizes(tuple(shapes), offsets)
            locations = reference[:, :, None, :, None] + offsets / sizes
        else:
            centre, side = reference[:, :, None, :, None].split(2, dim=-1)
            locations = centre + offsets * side * (0.5 / self.num_points)
        # Sampling places need fp32: bf16 cannot tell neighbouring cells of a large map apart.
        with no_autocast(query.device):
            out = ms_deform_attn(value, shapes, locations.float(), weights, self.backend)
        return self.output_proj(out)


def use_backend(module: nn.Module, name: str) -> None:
    """Let every :class:`MSDeformAttn` below ``module`` run on the backend ``name``."""
    for part in module.modules():
        if isinstance(part, MSDeformAttn):
            part.backend = name

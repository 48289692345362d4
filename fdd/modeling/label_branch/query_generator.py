"""Instance-aware queries from labelled points (paper: "Query Generator", Eq. 1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from fdd.modeling.encoder import finest_map
from fdd.modeling.layers import Memory
from fdd.modeling.structures import PointBatch


class QueryGenerator(nn.Module):
    """Project the feature tokens; an instance's query is the channel-wise maximum of its cells."""

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        source: str = "feature",
        features: str = "sum3",
        add_pos: bool = True,
        kernel: int = 1,
        norm: str = "none",
        embedding_size: tuple[int, int] = (75, 100),
    ):
        """
        Args:
            source: "feature" pools F^proj; "embedding2d" pools a learned map of ``embedding_size``
                (h, w), resized to the stride-8 grid (Table 4).
            features: "sum3" sums the three finest levels at stride 8, "level0" takes the finest.
            add_pos: add position and level encoding before projecting.
            kernel: side of the two convolutions.
            norm: "none", or "LN" on the pooled vector.
        """
        super().__init__()
        self.source, self.add_pos = source, add_pos
        self.num_levels = 3 if features == "sum3" else 1
        if source == "feature":
            self.proj = nn.Sequential(
                nn.Conv2d(dim, dim, kernel, padding=kernel // 2),
                nn.ReLU(),
                nn.Conv2d(dim, dim, kernel, padding=kernel // 2),
            )
        else:
            self.embedding = nn.Parameter(torch.randn(1, dim, *embedding_size))
        self.norm = nn.LayerNorm(dim) if norm == "LN" else nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        fdd = cfg.MODEL.FDD
        return {
            "dim": fdd.HIDDEN_DIM,
            "source": fdd.QUERY_SOURCE,
            "features": fdd.QUERY_GEN.FEATURES,
            "add_pos": fdd.QUERY_GEN.ADD_POS,
            "kernel": fdd.QUERY_GEN.KERNEL,
            "norm": fdd.QUERY_GEN.NORM,
            "embedding_size": tuple(fdd.EMBEDDING2D_SIZE),
        }

    def project(self, memory: Memory) -> Tensor:
        """F^proj, (B, D, h, w) at stride 8."""
        if self.source == "embedding2d":
            return self._stretched_embedding(memory)
        flat = memory.tokens + memory.pos if self.add_pos else memory.tokens
        return self.proj(finest_map(memory, flat, self.num_levels))

    def _stretched_embedding(self, memory: Memory) -> Tensor:
        """The learned map, resized (bilinear) to each image's own valid cells, so that padding does
        not move it; its edge goes on over padding."""
        batch, (h, w) = memory.tokens.shape[0], memory.shapes[0]
        share = memory.valid_ratios[:, 0]
        x = (torch.arange(w, device=share.device) + 0.5) / (w * share[:, :1]) * 2 - 1
        y = (torch.arange(h, device=share.device) + 0.5) / (h * share[:, 1:]) * 2 - 1
        place = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
        source = self.embedding.expand(batch, -1, -1, -1)
        return F.grid_sample(source, place, padding_mode="border", align_corners=False)

    def forward(self, memory: Memory, points: PointBatch, feature: Tensor | None = None) -> Tensor:
        """
        Args:
            memory: encoder output.
            points: gives each instance's own dilated cells; cells of different instances may
                overlap, so every instance has at least one.
            feature: of :meth:`project`, where it is known already.

        Returns:
            Q^g, (B, N, D); padded instances are zero (before the norm).
        """
        feature = self.project(memory) if feature is None else feature
        batch, most = points.classes.shape
        image, instance, row, col = points.cells.unbind(1)
        picked = feature.permute(0, 2, 3, 1)[image, row, col]
        pooled = picked.new_zeros(batch * most, picked.shape[-1])
        index = (image * most + instance)[:, None].expand_as(picked)
        pooled = pooled.scatter_reduce(0, index, picked, "amax", include_self=False)
        if len(points.cells) == 0:  # keep the projection in the graph, for DDP
            pooled = pooled + 0.0 * feature.sum()
        return self.norm(pooled.view(batch, most, -1))

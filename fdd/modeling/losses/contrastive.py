"""Contrast of labelled points with the mean embeddings of regions (PSPS's embedding loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from fdd.modeling.losses.common import at_least_one, full_precision
from fdd.modeling.losses.cross_entropy import LabelledCells


def region_info_nce(
    embedding: Tensor,
    queries: LabelledCells,
    regions: Tensor,
    valid_keys: Tensor,
    normalizer: Tensor | float,
    *,
    temperature: float = 0.07,
) -> Tensor:
    """InfoNCE of every query against its image's regions.

    A key is the mean of the embedding over a region: zero for an empty one, and not made a unit
    vector again. A query's loss is -log of the softmax over the image's keys of query . key /
    temperature, at its own key. Queries and keys carry gradients, regions do not.

    Args:
        embedding: (B, D, h, w) float.
        queries: cells of the embedding, with the index of their own key; (Q,) each.
        regions: (B, H, W) integer index of the key that a place belongs to, -1 for none. H and W
            are h and w times a whole number: the embedding is repeated, not interpolated.
        valid_keys: (B, K) bool, keys that an image has; queries' own ones among them. One key alone
            makes no contrast: the loss of its queries is 0.
        normalizer: images with two keys or more, over all processes and accumulated batches; values
            below 1 count as 1.

    Returns:
        0-d tensor: mean over each image's queries, summed over the images / max(normalizer, 1).
        Exactly 0, still attached to the graph, without queries.

    Raises:
        ValueError: ``regions`` do not fit the embedding.
    """
    embedding = full_precision(embedding)
    batch, _, height, width = embedding.shape
    block = regions.shape[-1] // width
    if tuple(regions.shape) != (batch, block * height, block * width) or block < 1:
        raise ValueError(
            f"regions have shape {tuple(regions.shape)}; expected ({batch}, n * {height}, "
            f"n * {width}) for a whole number n"
        )
    keys = _region_means(embedding, regions.detach(), valid_keys.shape[1], block)
    image = queries.image
    query = embedding[image, :, queries.row, queries.column]
    logits = torch.einsum("qd,qkd->qk", query, keys[image]) / temperature
    logits = logits.masked_fill(~valid_keys[image], -torch.inf)
    own = logits.gather(1, queries.label[:, None]).squeeze(1)
    loss = logits.logsumexp(1) - own
    per_image = loss.new_zeros(batch).scatter_add(0, image, torch.ones_like(loss))
    return (loss / per_image[image]).sum() / at_least_one(normalizer, loss)


def _region_means(embedding: Tensor, regions: Tensor, num_keys: int, block: int) -> Tensor:
    """(B, K, D) mean over each region, 0 over none."""
    batch, _, height, width = embedding.shape
    cells = height * width
    # How many places of each region every cell of the embedding holds. Slot 0 takes the others.
    device = regions.device
    row = torch.arange(height, device=device).repeat_interleave(block)[:, None]
    column = torch.arange(width, device=device).repeat_interleave(block)
    image = torch.arange(batch, device=device).view(-1, 1, 1)
    slot = (image * (num_keys + 1) + regions.long() + 1) * cells + row * width + column
    counts = embedding.new_zeros(batch * (num_keys + 1) * cells)
    counts.scatter_add_(0, slot.flatten(), counts.new_ones(()).expand(slot.numel()))
    counts = counts.view(batch, num_keys + 1, cells)[:, 1:]
    total = counts @ embedding.flatten(2).transpose(1, 2)
    return total / counts.sum(2, keepdim=True).clamp(min=1)

"""Mask decoder and location decoder.

Published: Panoptic SegFormer, sections 3.3 and 3.4; ``PanformerMaskDecoder`` in
``models/transformer.py`` and ``DeformableDetrTransformerDecoder`` in
``easymd/models/panformer/deformable_detr.py`` of BraveGroup/PSPS.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.textbook.attention import deformable_attention
from benchmarks.textbook.features import Features, feed_forward
from benchmarks.textbook.parts import Arrangement


def _heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def self_attention(
    attn: nn.Module, x: Tensor, pos: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Multi-head attention written out (Vaswani et al., section 3.2), residual, post-norm.

    Args:
        x, pos: (B, Q, D); the position goes to queries and keys only.
    """
    q, k = attn.qk_proj(x if pos is None else x + pos).chunk(2, dim=-1)
    q, k, v = (_heads(t, attn.num_heads) for t in (q, k, attn.v_proj(x)))
    weights = ((q / q.shape[-1] ** 0.5) @ k.transpose(-1, -2)).softmax(-1)
    weights = F.dropout(weights, dropout)
    out = (weights @ v).transpose(1, 2).flatten(2)
    return attn.norm(x + F.dropout(attn.out_proj(out), dropout))


def decode_masks(
    stack: nn.Module,
    query: Tensor,
    pos: Tensor | None,
    memory: Features,
    parts: Arrangement,
    keys: dict[int, tuple[Tensor, Tensor]] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """One image through a stack of mask layers.

    Args:
        query, pos: (1, Q, D).
        memory: of the image, cut to the levels of the masks.
        keys: each layer's keys and values, filled and read if given (cheap variant of the two
            passes).

    Returns:
        Masks (Q, h, w) float32 without final ReLU and queries (1, Q, D), of every layer.
    """
    masks, queries = [], []
    for index, layer in enumerate(stack.layers):
        if pos is not None:
            query = query + pos
        if layer.self_attn is not None:
            query = self_attention(layer.self_attn, query)
        q = _heads(layer.q_proj(query), layer.num_heads)
        if keys is not None and index in keys:
            k, v = keys[index]
        else:
            k = _heads(layer.k_proj(memory.tokens), layer.num_heads)
            v = _heads(layer.v_proj(memory.tokens), layer.num_heads) if layer.update else None
            if keys is not None:
                keys[index] = k, v
        logits = (q / q.shape[-1] ** 0.5) @ k.transpose(-1, -2)
        if layer.mask_head is not None:
            masks.append(parts.mask_head(layer.mask_head, logits[0], memory.shapes))
        if layer.update:
            hidden = logits.masked_fill(~memory.valid[:, None, None], float("-inf")).softmax(-1)
            out = (hidden.to(v.dtype) @ v).transpose(1, 2).flatten(2)
            query = layer.norm(query + layer.out_proj(out))
            query = feed_forward(layer.ffn, query, F.gelu)
        queries.append(query)
    return masks, queries


def _inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(1e-5, 1 - 1e-5)
    return (x / (1 - x)).log()


def decode_locations(
    location: nn.Module, memory: Features, parts: Arrangement, dropout: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The location decoder with iterative box refinement (Deformable DETR, appendix A.4).

    Returns:
        (layers, B, Q, C) logits, (layers, B, Q, 4) boxes, (B, Q, D) queries of the last layer.
    """
    batch = len(memory.tokens)
    query = location.query_content.weight[None].repeat(batch, 1, 1)
    pos = location.query_pos.weight[None].repeat(batch, 1, 1)
    reference = location.reference_points(pos).float().sigmoid()
    all_logits, all_boxes = [], []
    for layer, class_head, box_head in zip(
        location.layers, location.class_heads, location.box_heads, strict=True
    ):
        query = self_attention(layer.self_attn, query, pos, dropout)
        scale = memory.ratios if reference.shape[-1] == 2 else memory.ratios.repeat(1, 1, 2)
        out = deformable_attention(
            layer.cross_attn,
            query + pos,
            reference[:, :, None] * scale[:, None],
            memory.tokens,
            memory.shapes,
            memory.valid,
            parts.attention,
        )
        query = layer.norm(query + F.dropout(out, dropout))
        query = feed_forward(layer.ffn, query, F.relu, dropout)
        delta = box_head(query).float()
        if reference.shape[-1] == 2:
            centre, side = delta[..., :2] + _inverse_sigmoid(reference), delta[..., 2:]
            boxes = torch.cat([centre, side], dim=-1).sigmoid()
        else:
            boxes = (delta + _inverse_sigmoid(reference)).sigmoid()
        all_logits.append(class_head(query).float())
        all_boxes.append(boxes)
        reference = boxes.detach()
    return torch.stack(all_logits), torch.stack(all_boxes), query

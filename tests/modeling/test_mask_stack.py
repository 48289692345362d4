"""Mask decoder layers: the published form, padding, independence of queries."""

import pytest
import torch
import torch.nn.functional as F
from modeling_toys import toy_memory

from fdd.modeling.layers import MaskStack
from fdd.modeling.layers.mask_stack import MaskHead

torch.set_num_threads(1)


def _stack(**changes):
    torch.manual_seed(0)
    settings = dict(dim=16, num_heads=2, ffn_dim=32, num_layers=2, self_attention=True)
    return MaskStack(**(settings | changes))


def _concatenated(head, logits, memory):
    """The published form: heads mixed per level, all levels up-sampled, then 24 -> 1."""
    batch, heads, queries, _ = logits.shape
    lengths = [h * w for h, w in memory.shapes]
    maps = []
    for i, (part, shape) in enumerate(zip(logits.split(lengths, -1), memory.shapes, strict=True)):
        x = part.transpose(1, 2).reshape(batch * queries, heads, *shape)
        x = F.conv2d(x, head.mix_weight[i][..., None, None], head.mix_bias[i]).relu()
        maps.append(F.interpolate(x, size=memory.shapes[0], mode="bilinear", align_corners=False))
    fuse = head.fuse_weight.view(1, -1, 1, 1)
    out = F.conv2d(torch.cat(maps, 1), fuse, head.fuse_bias.view(1))
    return out.view(batch, queries, *memory.shapes[0])


def test_head_equals_the_concatenated_form():
    torch.manual_seed(0)
    head = MaskHead(num_heads=8, num_levels=3)
    torch.nn.init.normal_(head.mix_bias)
    torch.nn.init.normal_(head.fuse_bias)
    memory = toy_memory([(64, 64), (64, 64)], (64, 64), levels=3)
    logits = torch.randn(2, 8, 5, memory.tokens.shape[1])
    got, want = head(logits, memory), _concatenated(head, logits, memory)
    assert got.shape == (2, 5, 8, 8) and got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_masks_can_be_negative():
    head = MaskHead(num_heads=2, num_levels=3)
    torch.nn.init.constant_(head.fuse_weight, -1.0)
    torch.nn.init.ones_(head.mix_bias)
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    assert (head(torch.zeros(1, 2, 1, memory.tokens.shape[1]), memory) < 0).all()


def test_abs_scaled_masks_start_alive():
    for seed in range(20):
        torch.manual_seed(seed)
        head = MaskHead(num_heads=8, num_levels=3, init="abs_scaled")
        assert (head.fuse_weight >= 0).all() and (head.fuse_weight > 0).any()


def test_layers_start_from_different_weights():
    a, b = _stack().layers
    assert not torch.equal(a.q_proj.weight, b.q_proj.weight)
    assert not torch.equal(a.mask_head.fuse_weight, b.mask_head.fuse_weight)


def test_padding_does_not_matter():
    """The same tokens on a larger canvas give the same masks and queries, up to the edge."""
    sizes = [(64, 60), (37, 64)]
    stack, query = _stack(update_last=True), torch.randn(2, 5, 16)
    near = toy_memory(sizes, (64, 64), levels=3)
    far = toy_memory(sizes, (192, 128), levels=3)
    masks, queries = stack(query, None, near)
    wide_masks, wide_queries = stack(query, None, far)
    for a, b in zip(queries, wide_queries, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    inside = near.split(near.valid)[0][:, None].expand(-1, 5, -1, -1)
    for a, b in zip(masks, wide_masks, strict=True):
        torch.testing.assert_close(a[inside], b[..., :8, :8][inside], atol=1e-5, rtol=1e-5)
    # Full-size images: the whole map, the edge included.
    torch.testing.assert_close(masks[-1][0, :, :, :7], wide_masks[-1][0, :, :8, :7])


def test_tokens_on_padding_get_no_attention():
    sizes = [(64, 40)]
    stack, query = _stack(update_last=True), torch.randn(1, 5, 16)
    _, clean = stack(query, None, toy_memory(sizes, (64, 64), levels=3, garbage=0.0))
    _, dirty = stack(query, None, toy_memory(sizes, (64, 64), levels=3, garbage=50.0))
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)


def test_position_is_added_again_in_every_layer():
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    stack, query, pos = _stack(update_last=True), torch.randn(1, 3, 16), torch.randn(1, 3, 16)
    _, queries = stack(query, pos, memory)
    step, _ = stack.layers[0](query + pos, None, memory, None, True)
    torch.testing.assert_close(queries[0], step)
    step, _ = stack.layers[1](queries[0] + pos, None, memory, None, True)
    torch.testing.assert_close(queries[1], step)


def test_without_self_attention_queries_are_independent():
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    stack, query = _stack(self_attention=False), torch.randn(1, 4, 16)
    whole, _ = stack(query, None, memory)
    alone, _ = stack(query[:, 2:3], None, memory)
    torch.testing.assert_close(whole[-1][:, 2:3], alone[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "masks", "unread"),
    [
        ({}, 2, {"v_proj", "ffn"}),
        ({"tail": True}, 3, {"v_proj", "ffn", "self_attn"}),
        ({"update_last": True}, 2, set()),
        ({"predict_all": False}, 1, {"v_proj", "ffn"}),
    ],
)
def test_masks_a_layer_and_no_weight_that_nobody_reads(changes, masks, unread):
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    stack = _stack(**changes)
    got, queries = stack(torch.randn(1, 3, 16), None, memory)
    assert len(got) == masks
    last = stack.layers[-1]
    assert not unread & {n.split(".")[0] for n, _ in last.named_parameters()}
    (sum(m.sum() for m in got) + queries[-1].sum()).backward()
    assert all(p.grad is not None for p in stack.parameters())


def test_last_only_gives_the_last_mask():
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    stack, query = _stack(tail=True), torch.randn(1, 3, 16)
    every, _ = stack(query, None, memory)
    last, _ = stack(query, None, memory, last_only=True)
    assert len(last) == 1 and torch.equal(last[0], every[-1])


def test_checkpointing_changes_nothing():
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    query = torch.randn(1, 3, 16)
    grads = []
    for use_checkpoint in (False, True):
        stack = _stack(use_checkpoint=use_checkpoint).train()
        masks, _ = stack(query, query, memory)
        sum(m.square().sum() for m in masks).backward()
        grads.append([p.grad for p in stack.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)

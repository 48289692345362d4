"""Mask decoder layers: the published form, padding, independence of queries."""

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.layers import MaskStack, mask_stack
from fdd.modeling.layers.mask_stack import MaskHead
from modeling_toys import toy_memory

torch.set_num_threads(1)


def _stack(**changes):
    torch.manual_seed(0)
    settings = dict(dim=16, num_heads=2, ffn_dim=32, num_layers=2, self_attention=True)
    return MaskStack(**(settings | changes))


def _concatenated(head, q, k, memory):
    """The published form: heads mixed per level, all levels up-sampled, then 24 -> 1."""
    logits = q @ k.transpose(2, 3)
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


def _head(dtype=torch.float64, **options):
    torch.manual_seed(0)
    head = MaskHead(**({"num_heads": 8, "num_levels": 3} | options)).to(dtype)
    torch.nn.init.normal_(head.mix_bias)
    torch.nn.init.normal_(head.fuse_bias)
    return head


def _queries_and_keys(memory, heads=8, queries=5, dim=4, dtype=torch.float64):
    batch, length, _ = memory.tokens.shape
    q = torch.randn(batch, heads, queries, dim, dtype=dtype, requires_grad=True)
    # As the stack gives them: a slice of all layers' keys, the heads side by side.
    k = torch.randn(batch, length, 3, heads, dim, dtype=dtype)[:, :, 1].transpose(1, 2)
    return q, k.requires_grad_()


@pytest.mark.parametrize("tile", [1, 700, 1 << 20])
def test_head_equals_the_concatenated_form(tile, monkeypatch):
    monkeypatch.setitem(mask_stack._TILE, "cpu", tile)
    head, memory = _head(), toy_memory([(64, 64), (128, 64)], (128, 64), levels=3)
    q, k = _queries_and_keys(memory)
    got, want = head(q, k, memory.shapes), _concatenated(head, q, k, memory)
    assert got.shape == (2, 5, 16, 8)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    weight, inputs = torch.rand_like(want), [q, k, *head.parameters()]
    grads = [torch.autograd.grad((x * weight).sum(), inputs) for x in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_head_in_half_precision_gives_float32():
    head, memory = _head(torch.float32), toy_memory([(64, 64)], (64, 64), levels=3)
    q, k = _queries_and_keys(memory, dtype=torch.float32)
    half = [x.detach().bfloat16().requires_grad_() for x in (q, k)]
    got = head(*half, memory.shapes)
    got.sum().backward()
    assert got.dtype == torch.float32 and half[0].grad.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in head.parameters())
    torch.testing.assert_close(got, head(q, k, memory.shapes), atol=0.5, rtol=0.05)


def test_head_keeps_no_logits():
    head, memory = _head(torch.float32), toy_memory([(64, 64)], (64, 64), levels=3)
    q, k = _queries_and_keys(memory, queries=50, dtype=torch.float32)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        head(q, k, memory.shapes)
    assert max(sizes) <= max(q.numel(), k.numel()) < 8 * 50 * memory.tokens.shape[1]


def test_masks_can_be_negative():
    head = MaskHead(num_heads=2, num_levels=3)
    torch.nn.init.constant_(head.fuse_weight, -1.0)
    torch.nn.init.ones_(head.mix_bias)
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    q, k = torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, memory.tokens.shape[1], 8)
    assert (head(q, k, memory.shapes) < 0).all()


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
    first, second = stack.project(memory.tokens)
    step, _ = stack.layers[0](query + pos, None, first, memory, None, None, True)
    torch.testing.assert_close(queries[0], step)
    step, _ = stack.layers[1](queries[0] + pos, None, second, memory, None, None, True)
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


def test_keys_and_values_are_the_layers_own():
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    stack = _stack()
    for layer, got in zip(stack.layers, stack.project(memory.tokens), strict=True):
        want = [layer.k_proj(memory.tokens)]
        if layer.update:
            want.append(layer.v_proj(memory.tokens))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


def test_masks_of_some_queries_are_those_of_all():
    sizes = [(64, 60), (37, 64)]
    memory, stack, query = toy_memory(sizes, (64, 64), levels=3), _stack(), torch.randn(2, 5, 16)
    rows = torch.tensor([[3, 1], [4, 0]])
    every, refined = stack(query, None, memory)
    some, same = stack(query, None, memory, rows=rows)
    for a, b in zip(every, some, strict=True):
        want = torch.stack([a[i, r] for i, r in enumerate(rows)])
        torch.testing.assert_close(b, want, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(refined, same, strict=True))


def test_last_only_gives_the_last_mask():
    memory = toy_memory([(64, 64)], (64, 64), levels=3)
    stack, query = _stack(tail=True), torch.randn(1, 3, 16)
    every, _ = stack(query, None, memory)
    last, _ = stack(query, None, memory, last_only=True)
    assert len(last) == 1
    torch.testing.assert_close(last[0], every[-1])


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

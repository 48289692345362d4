"""Channel mapper, encoder and the memory that they make."""

import math

import pytest
import torch

from fdd.modeling.encoder import DeformableEncoder, finest_map
from fdd.modeling.label_maps import valid_cells
from fdd.modeling.layers import Memory, nearest_valid, sine_position_encoding, valid_ratios

torch.set_num_threads(1)


def _encoder(**changes):
    torch.manual_seed(0)
    settings = dict(
        in_channels=[4, 6, 8],
        in_strides=[8, 16, 32],
        dim=16,
        num_heads=2,
        ffn_dim=32,
        num_layers=2,
        num_points=2,
        dropout=0.0,
    )
    return DeformableEncoder(**(settings | changes))


def _features(size=64, batch=2, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(batch, c, size // s, size // s) for c, s in ((4, 8), (6, 16), (8, 32))]


def test_levels_and_shapes():
    memory = _encoder()(_features(), [(64, 64), (40, 64)])
    assert memory.shapes == ((8, 8), (4, 4), (2, 2), (1, 1))
    assert memory.tokens.shape == memory.pos.shape == (2, 85, 16)
    assert memory.valid.shape == (2, 85) and memory.valid_ratios.shape == (2, 4, 2)
    assert memory.valid[0].all()
    assert memory.split(memory.valid)[0][1].sum() == 5 * 8
    assert memory.valid_ratios[1, 0].tolist() == [1.0, 5 / 8]
    finest = memory.finest(2)
    assert finest.shapes == ((8, 8), (4, 4)) and finest.tokens.shape[1] == 80
    assert torch.equal(finest.tokens, memory.tokens[:, :80])


def test_padding_continues_the_edge():
    memory = _encoder()(_features(), [(64, 64), (21, 40)])
    for flat in (memory.tokens, memory.pos):
        maps = memory.split(flat.transpose(1, 2))
        assert torch.equal(maps[0][1, :, 2:], maps[0][1, :, 2:3].expand(-1, 6, -1))
        assert torch.equal(maps[0][1, :, :, 4:], maps[0][1, :, :, 4:5].expand(-1, -1, 4))


def test_content_of_padding_does_not_matter():
    """Deformable attention reads no value on padding, whatever the mapper made of it."""
    encoder = _encoder(num_layers=2)
    sizes = [(24, 64), (64, 33)]
    features = _features()
    masks = [
        valid_cells(sizes, s, f.shape[-2:]) for s, f in zip((8, 16, 32), features, strict=True)
    ]
    # GroupNorm sees the whole map: take it out.
    encoder.mapper.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    clean = encoder(features, sizes)
    spoiled = [torch.where(m[:, None], f, f + 3) for f, m in zip(features, masks, strict=True)]
    dirty = encoder(spoiled, sizes)
    finest = slice(0, 80)  # the last level is a 3x3 convolution over the border
    first_rows = clean.valid[:, finest]
    assert not torch.equal(clean.tokens, dirty.tokens)  # through that convolution
    encoder.mapper.convs[3] = torch.nn.Conv2d(8, 16, 1, stride=2)
    clean, dirty = encoder(features, sizes), encoder(spoiled, sizes)
    assert torch.equal(clean.tokens[:, finest][first_rows], dirty.tokens[:, finest][first_rows])


def test_nearest_valid_token():
    masks = [valid_cells([(16, 24)], 8, (3, 4)), valid_cells([(16, 24)], 16, (2, 2))]
    index = nearest_valid(masks)[0]
    assert index[:12].view(3, 4).tolist() == [[0, 1, 2, 2], [4, 5, 6, 6], [4, 5, 6, 6]]
    assert index[12:].view(2, 2).tolist() == [[12, 12], [12, 12]]
    inside = torch.cat([m.flatten() for m in masks])
    assert torch.equal(index[inside], torch.arange(16)[inside])
    ratios = valid_ratios(masks)
    assert ratios[0].tolist() == [[0.75, pytest.approx(2 / 3)], [0.5, 0.5]]


def test_position_encoding_by_hand():
    valid = torch.zeros(1, 3, 5, dtype=torch.bool)
    valid[:, :2, :4] = True
    got = sine_position_encoding(valid, 8)
    for v in range(2):
        for u in range(4):
            want = []
            for place, length in ((v, 2), (u, 4)):
                angle = (place + 0.5) / length * 2 * math.pi
                for frequency in (1.0, 100.0):
                    want += [math.sin(angle / frequency), math.cos(angle / frequency)]
            torch.testing.assert_close(got[0, v, u], torch.tensor(want), atol=1e-5, rtol=1e-4)


def test_position_encoding_does_not_change_with_padding():
    small = torch.ones(1, 3, 4, dtype=torch.bool)
    large = torch.nn.functional.pad(small, (0, 5, 0, 2))
    a, b = sine_position_encoding(small, 16), sine_position_encoding(large, 16)
    assert torch.equal(a, b[:, :3, :4]) and b.isfinite().all()


def test_strides_other_than_8_16_32_are_refused():
    with pytest.raises(ValueError, match=r"strides \[4, 8, 16\].*res3, res4, res5"):
        _encoder(in_strides=[4, 8, 16])


def test_every_parameter_learns():
    encoder = _encoder().train()
    memory = encoder(_features(), [(64, 64), (40, 64)])
    (memory.tokens.square().sum() + memory.pos.square().sum()).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_checkpointing_changes_nothing():
    grads = []
    for use_checkpoint in (False, True):
        encoder = _encoder(use_checkpoint=use_checkpoint).train()
        encoder(_features(), [(64, 64), (40, 64)]).tokens.square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_finest_map_sums_up_sampled_levels():
    shapes = ((4, 4), (2, 2), (1, 1))
    tokens = torch.cat([torch.full((1, h * w, 1), 10.0**i) for i, (h, w) in enumerate(shapes)], 1)
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
    memory = Memory(tokens, tokens, valid, shapes, torch.ones(1, 3, 2))
    assert torch.equal(finest_map(memory, tokens, 3), torch.full((1, 1, 4, 4), 111.0))
    assert torch.equal(finest_map(memory, tokens, 1), torch.ones(1, 1, 4, 4))

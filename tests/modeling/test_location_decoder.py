"""Location decoder: references, box refinement, heads."""

import math

import pytest
import torch

from fdd.modeling.panoptic_branch.location_decoder import LocationDecoder, inverse_sigmoid
from modeling_toys import toy_memory

torch.set_num_threads(1)


def _decoder(**changes):
    torch.manual_seed(0)
    settings = dict(
        dim=16,
        num_things=3,
        num_queries=7,
        num_heads=2,
        ffn_dim=32,
        num_layers=3,
        num_levels=4,
        num_points=2,
        dropout=0.0,
    )
    return LocationDecoder(**(settings | changes))


def _randomise(decoder):
    """Away from the start, where every box head says nothing."""
    for head in decoder.box_heads:
        torch.nn.init.normal_(head.last.weight, std=0.2)
        torch.nn.init.normal_(head.last.bias, std=0.2)
    return decoder


def _memory():
    return toy_memory([(64, 64), (40, 56)], (64, 64))


def test_first_boxes_lie_at_the_references():
    decoder = _decoder()
    out = decoder(_memory())
    assert out.logits.shape == (3, 2, 7, 3) and out.boxes.shape == (3, 2, 7, 4)
    assert out.queries.shape == (2, 7, 16)
    centre = decoder.reference_points(decoder.query_pos.weight).sigmoid()
    for layer in range(3):
        torch.testing.assert_close(out.boxes[layer, 1, :, :2], centre, atol=1e-4, rtol=1e-4)
        side = torch.tensor(1 / (1 + math.exp(2))).expand(7, 2)
        torch.testing.assert_close(out.boxes[layer, 0, :, 2:], side, atol=1e-4, rtol=1e-4)


def test_first_scores_are_a_hundredth():
    decoder = _decoder()
    for head in decoder.class_heads:
        torch.nn.init.zeros_(head.weight)
    scores = decoder(_memory()).logits.sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01))


def test_each_layer_refines_the_box_of_the_one_before():
    decoder, memory = _randomise(_decoder()), _memory()
    out = decoder(memory)
    pos = decoder.query_pos.weight.expand(2, -1, -1)
    query = decoder.query_content.weight.expand(2, -1, -1)
    reference = decoder.reference_points(pos).sigmoid()
    known = torch.cat([inverse_sigmoid(reference), torch.zeros_like(reference)], -1)
    ratios = memory.valid_ratios[:, None]
    for i, layer in enumerate(decoder.layers):
        scale = ratios if i == 0 else torch.cat([ratios, ratios], -1)
        query = layer(query, pos, reference[:, :, None] * scale, memory)
        reference = (decoder.box_heads[i](query) + known).sigmoid()
        torch.testing.assert_close(out.boxes[i], reference)
        torch.testing.assert_close(out.logits[i], decoder.class_heads[i](query))
        known = inverse_sigmoid(reference)
    torch.testing.assert_close(out.queries, query)


def test_references_are_detached_between_layers():
    """The last box teaches its own layer's head, and no earlier box head."""
    decoder = _randomise(_decoder())
    decoder(_memory()).boxes[-1].sum().backward()
    assert decoder.box_heads[-1].last.bias.grad.abs().sum() > 0
    assert all((head.last.bias.grad == 0).all() for head in decoder.box_heads[:-1])


def test_the_first_box_teaches_the_reference():
    decoder = _randomise(_decoder())
    decoder(_memory()).boxes[0].sum().backward()
    assert decoder.reference_points.weight.grad.abs().sum() > 0


def test_every_parameter_learns():
    decoder = _decoder()
    out = decoder(_memory())
    (out.logits.sum() + out.boxes.sum() + out.queries.square().sum()).backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_padding_does_not_matter():
    decoder, sizes = _randomise(_decoder()), [(64, 64), (40, 56)]
    near = decoder(toy_memory(sizes, (64, 64)))
    far = decoder(toy_memory(sizes, (192, 128)))
    torch.testing.assert_close(near.boxes, far.boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(near.logits, far.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.5, 0.999, 1.0])
def test_inverse_sigmoid(p):
    got = inverse_sigmoid(torch.tensor(p))
    assert got.isfinite()
    assert got.sigmoid().item() == pytest.approx(p, abs=2e-5)

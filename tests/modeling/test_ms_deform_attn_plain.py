"""The form of deformable attention that programs are made of, against the textbook's."""

from __future__ import annotations

import pytest
import torch

from fdd.modeling.layers import ms_deform_attn

SHAPES = ((5, 7), (3, 4), (1, 2))


def inputs(queries=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, cells, 3, 4, generator=generator, dtype=torch.float64).to(dtype)
    samples = (2, queries, 3, len(SHAPES), 2)
    # Some on the edge of the maps, some well off them.
    locations = torch.rand(*samples, 2, generator=generator, dtype=torch.float64) * 2 - 0.5
    weights = torch.rand(samples, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (value, locations, weights)]


def test_values_and_gradients_are_the_references():
    value, locations, weights = inputs()
    results = []
    for backend in ("reference", "plain"):
        out = ms_deform_attn(value, SHAPES, locations, weights, backend)
        gradients = torch.autograd.grad(out.square().sum(), (value, weights))
        results.append((out, *gradients))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert results[0][0].abs().max() > 0.5


def test_a_sample_at_the_centre_of_a_cell_is_its_value():
    value, locations, weights = inputs(queries=1)
    with torch.no_grad():
        locations[:] = torch.tensor([1.5 / 7, 2.5 / 5])
        weights.zero_()[..., 0, 0] = 1.0
    out = ms_deform_attn(value, SHAPES, locations, weights, "plain")
    torch.testing.assert_close(out[:, 0], value[:, 2 * 7 + 1].flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_is_that_of_the_values(dtype):
    value, locations, weights = (x.detach() for x in inputs(dtype=dtype))
    out = ms_deform_attn(value, SHAPES, locations.float(), weights.float(), "plain")
    expected = ms_deform_attn(value, SHAPES, locations.float(), weights.float(), "reference")
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected)


def test_without_queries_there_is_nothing():
    value, locations, weights = inputs(queries=0)
    assert ms_deform_attn(value, SHAPES, locations, weights, "plain").shape == (2, 0, 12)

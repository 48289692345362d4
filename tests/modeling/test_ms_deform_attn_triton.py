"""The Triton kernels against the textbook form, and whether they compile for real devices.

Triton is told by the environment, before it is imported, to interpret its kernels on the CPU, so
all the work is done in processes of their own (this file, run as a script), once for all tests.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from triton_runs import case_fixture, compile_fixture, main

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

TWO_LEVELS = ((3, 5), (1, 1))


def _inputs(shapes, queries, dim, points, dtype=torch.float32, batch=2, heads=2):
    """Locations from -0.3 to 1.3: many samples lie on a border or outside."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    samples = (batch, queries, heads, len(shapes), points)
    value = torch.randn(batch, cells, heads, dim, generator=generator).to(dtype)
    locations = torch.rand(*samples, 2, generator=generator) * 1.6 - 0.3
    return value, locations, torch.rand(samples, generator=generator)


def _compare(device, shapes, value, locations, weights):
    """Output and gradients equal those of the reference on the same (rounded) values."""
    from fdd.modeling.layers.deform_attn import triton_kernels
    from fdd.modeling.layers.deform_attn.reference import grid_sample_attention

    given = [t.to(device) for t in (value, locations, weights)]
    leaves = [t.detach().float().requires_grad_() for t in given]
    expected = grid_sample_attention(leaves[0], shapes, *leaves[1:])
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    grad = grad.to(device, value.dtype)
    expected_gradients = torch.autograd.grad(expected, leaves, grad.float())

    out = triton_kernels.forward(given[0], shapes, *given[1:])
    torch.testing.assert_close(out, expected.to(value.dtype), **_tolerance(value.dtype))
    gradients = triton_kernels.backward(grad, given[0], shapes, *given[1:])
    for got, want, tensor in zip(gradients, expected_gradients, given, strict=True):
        want = want.to(tensor.dtype)
        torch.testing.assert_close(got, want, **_tolerance(tensor.dtype))
    return out, gradients


def _tolerance(dtype):
    """Sums are float32 whatever the values: 16 bit may differ by one rounding."""
    return {
        torch.float32: {"rtol": 1e-4, "atol": 1e-5},
        torch.float16: {"rtol": 1e-3, "atol": 1e-5},
        torch.bfloat16: {"rtol": 8e-3, "atol": 1e-5},
    }[dtype]


def _one_point(device):
    _compare(device, TWO_LEVELS, *_inputs(TWO_LEVELS, 19, 8, 1))


def _padded_channels(device):
    """24 channels lie in 32 lanes; more queries than one block, and not a multiple of it."""
    _compare(device, TWO_LEVELS, *_inputs(TWO_LEVELS, 5, 24, 4))


def _odd_channels(device):
    _compare(device, ((2, 2),), *_inputs(((2, 2),), 3, 5, 2))


def _wide_channels(device):
    """More channels than one warp reads at once."""
    _compare(device, ((2, 3),), *_inputs(((2, 3),), 2, 160, 1, heads=1))


def _three_levels(device):
    shapes = ((4, 2), (2, 1), (1, 3))
    _compare(device, shapes, *_inputs(shapes, 5, 32, 2, batch=1))


def _bfloat16(device):
    _compare(device, TWO_LEVELS, *_inputs(TWO_LEVELS, 9, 32, 2, torch.bfloat16))


def _float16(device):
    _compare(device, TWO_LEVELS, *_inputs(TWO_LEVELS, 9, 32, 2, torch.float16))


def _non_contiguous(device):
    """Every input a transposed or expanded view, also the gradient."""
    value, locations, weights = _inputs(TWO_LEVELS, 6, 8, 2)
    value = value.transpose(1, 3).contiguous().transpose(1, 3)
    locations = locations.movedim(-1, 0).contiguous().movedim(0, -1)
    weights = weights[..., :1].expand_as(weights)
    _, gradients = _compare(device, TWO_LEVELS, value, locations, weights)
    assert all(gradient.is_contiguous() for gradient in gradients)


def _borders(device):
    """Exactly on cells, cell borders and one cell outside; sides are powers of two, so exact."""
    shapes = ((4, 4), (2, 4))
    value, locations, weights = _inputs(shapes, 9, 8, 2)
    locations = (locations * 8).round() / 8
    _compare(device, shapes, value, locations, weights)


def _far_outside(device):
    """Nothing is read, no gradient flows, and no number is too big."""
    value, locations, weights = _inputs(TWO_LEVELS, 8, 8, 1, batch=1)
    far = torch.tensor([1e30, -1e30, 3e9, -3e9, 5.0, -5.0, torch.inf, -torch.inf])
    locations[..., 0] = far[None, :, None, None, None].to(locations)
    from fdd.modeling.layers.deform_attn import triton_kernels

    given = [t.to(device) for t in (value, locations, weights)]
    out = triton_kernels.forward(given[0], TWO_LEVELS, *given[1:])
    gradients = triton_kernels.backward(torch.ones_like(out), given[0], TWO_LEVELS, *given[1:])
    for tensor in (out, *gradients):
        torch.testing.assert_close(tensor, torch.zeros_like(tensor), rtol=0, atol=0)


def _other_dtypes(device):
    """Locations and weights of 16 bit get gradients of 16 bit; float64 values are refused."""
    from fdd.modeling.layers.deform_attn import triton_kernels

    value, locations, weights = _inputs(TWO_LEVELS, 3, 8, 1, torch.bfloat16)
    locations, weights = locations.bfloat16(), weights.bfloat16()
    _compare(device, TWO_LEVELS, value, locations, weights)
    given = [t.to(device).double() for t in (value, locations, weights)]
    with pytest.raises(ValueError, match="float64"):
        triton_kernels.forward(given[0], TWO_LEVELS, *given[1:])


CASES = {
    case.__name__.lstrip("_"): case
    for case in (
        _one_point,
        _padded_channels,
        _odd_channels,
        _wide_channels,
        _three_levels,
        _bfloat16,
        _float16,
        _non_contiguous,
        _borders,
        _far_outside,
        _other_dtypes,
    )
}
TYPES = {"fp32": 4, "bf16": 2, "fp16": 2}
TARGETS = {
    f"{kernel}-{dtype}-sm{capability}": (kernel, dtype, capability)
    for kernel in ("forward", "backward")
    for dtype in TYPES
    for capability in (80, 90)
}


def _compile(kernel, dtype, capability):
    """Compile to machine code, as for 8 heads of 32 channels; few points spare time."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fdd.modeling.layers.deform_attn import triton_kernels

    function = getattr(triton_kernels, f"{kernel}_kernel")
    block_q, block_d, warps = triton_kernels.launch_sizes(32, TYPES[dtype])
    constants = {"HEADS": 8, "DIM": 32, "LEVELS": 3, "POINTS": 1}
    constants |= {"BLOCK_Q": block_q, "BLOCK_D": block_d}
    types = dict.fromkeys(("value", "grad", "out"), f"*{dtype}")
    types |= {"levels": "*i32", "queries": "i32", "cells": "i32"}
    types |= dict.fromkeys(constants, "constexpr")
    names = function.arg_names
    signature = {name: types.get(name, "*fp32") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(function, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    asm = triton.compile(source, target=target, options={"num_warps": warps}).asm
    assert asm["cubin"]
    vector = "v4.b32"  # a thread reads 16 bytes of a corner at once
    assert f"ld.global.{vector}" in asm["ptx"]
    if kernel == "backward":
        assert "relaxed" in asm["ptx"]  # atomics without fences


results = case_fixture(__file__)
compiled = compile_fixture(__file__)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(results, case):
    assert not results[case], results[case]


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_without_a_gpu(compiled, target):
    assert not compiled[target], compiled[target]


if __name__ == "__main__":
    main(CASES, TARGETS, _compile)

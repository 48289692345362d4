"""The fused colour prior against the slices in float64, and whether it compiles for real devices.

Triton is told by the environment, before it is imported, to interpret its kernels on the CPU, so
all the work is done in processes of their own (this file, run as a script), once for all tests.
"""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from fdd.modeling.losses import color_prior
from fdd.modeling.losses.color_prior import SlicedColorPrior, half_plane_offsets, pair_windows
from triton_runs import case_fixture, compile_fixture, main

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)


def _inputs(layers, batch, channels, height, width, kernel=3, dilation=1, spread=3.0, share=0.5):
    g = torch.Generator().manual_seed(0)
    offsets = half_plane_offsets(kernel, dilation)
    z = spread * torch.randn(layers, batch, channels, height, width, generator=g)
    affinity = torch.zeros(batch, len(offsets), height, width, dtype=torch.bool)
    for offset, pairs in zip(offsets, affinity.unbind(1), strict=True):
        (rows, columns), _ = pair_windows(height, width, *offset)
        inside = pairs[:, rows, columns]  # False where the neighbour is off the map
        inside.copy_(torch.rand(inside.shape, generator=g) < share)
    return z, affinity, offsets


def _run(form, layers, affinity, offsets, above):
    leaves = [z.detach().requires_grad_() for z in layers]
    loss = form.apply(affinity, offsets, True, *leaves)
    return loss.detach(), torch.stack(torch.autograd.grad(loss, leaves, above.to(loss)))


def _compare(device, layers, affinity, offsets, dtype=torch.float32, rtol=2e-5):
    """Losses and gradients, of weights unlike one another from above, equal those in float64."""
    from fdd.modeling.losses.color_prior_triton import FusedColorPrior

    layers = [z.to(device, dtype) for z in layers]
    affinity = affinity.to(device)
    shape = (len(layers), len(affinity))
    above = torch.arange(1.0, 1 + shape[0] * shape[1], device=device).view(shape)
    loss, grad = _run(FusedColorPrior, layers, affinity, offsets, above)
    wide = [z.double() for z in layers]
    want, want_grad = _run(SlicedColorPrior, wide, affinity, offsets, above)
    assert loss.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(loss, want.float(), rtol=2e-5, atol=1e-6)
    atol = rtol * float(want_grad.abs().max()) + 1e-30
    torch.testing.assert_close(grad.double(), want_grad, rtol=rtol, atol=atol)
    return loss, grad


def _layers_and_images(device):
    """Three layers of two images, not square, with more cells and channels than one block."""
    _compare(device, *_inputs(3, 2, 11, 9, 17))


def _wide_window(device):
    """The kernel and dilation of training; most cells have neighbours off the map."""
    z, affinity, offsets = _inputs(2, 1, 5, 7, 6, kernel=5, dilation=2)
    assert len(offsets) == 12
    _compare(device, z, affinity, offsets)


def _window_larger_than_the_map(device):
    loss, grad = _compare(device, *_inputs(1, 1, 3, 2, 1, kernel=3, dilation=2))
    assert not loss.any() and not grad.any()


def _one_channel(device):
    loss, grad = _compare(device, *_inputs(1, 2, 1, 4, 5))
    assert not loss.any() and not grad.any()


def _no_pair(device):
    loss, grad = _compare(device, *_inputs(1, 2, 3, 4, 5, share=0.0))
    assert not loss.any() and not grad.any()


def _no_offset(device):
    """A window of one cell has no neighbours."""
    loss, grad = _compare(device, *_inputs(1, 1, 3, 4, 5, kernel=1))
    assert not loss.any() and not grad.any()


def _padded_channels(device):
    """-inf in the last channels of one image changes nothing; all -inf is loss and gradient 0."""
    z, affinity, offsets = _inputs(2, 3, 10, 4, 5)
    z[:, 0, 6:] = -math.inf
    z[:, 1] = -math.inf
    loss, grad = _compare(device, z, affinity, offsets)
    assert not grad[:, 0, 6:].any() and grad[:, 0, :6].any()
    assert not loss[:, 1].any() and not grad[:, 1].any()
    alone, _ = _compare(device, z[:, :1, :6], affinity[:1], offsets)
    torch.testing.assert_close(loss[:, :1], alone)


def _wide_gaps(device):
    """Confident cells that disagree by 60: probabilities down to exp(-60) of float32's range."""
    z, affinity, offsets = _inputs(1, 1, 4, 6, 7)
    peak = torch.randint(4, (1, 1, 1, 6, 7), generator=torch.Generator().manual_seed(2))
    z = (0.1 * z).scatter_add(2, peak, torch.full((1, 1, 1, 6, 7), 60.0))
    loss, _ = _compare(device, z, affinity, offsets, rtol=1e-4)
    assert loss > 20


def _beyond_the_floor(device):
    """Pairs less probable than the floor: all of float32's exponents, and still a finite push."""
    z, affinity, offsets = _inputs(1, 1, 3, 4, 5, spread=200.0)
    loss, grad = _compare(device, z, affinity, offsets, rtol=1e-4)
    assert loss.isfinite() and grad.isfinite().all() and grad.any()


def _not_a_number(device):
    """Training must see a NaN, not a loss from which a maximum has dropped it."""
    from fdd.modeling.losses.color_prior_triton import FusedColorPrior

    z, affinity, offsets = _inputs(1, 2, 3, 4, 5)
    z[0, 1, 2, 3, 4] = math.nan
    loss = FusedColorPrior.apply(affinity.to(device), offsets, False, *z.to(device))
    assert loss[0, 0].isfinite() and loss[0, 1].isnan()


def _views(device):
    """Channels last, a part of a larger map, layers out of order or of unlike strides."""
    z, affinity, offsets = _inputs(3, 1, 5, 6, 7)
    last = [x.contiguous(memory_format=torch.channels_last) for x in z]
    want = _compare(device, z, affinity, offsets)
    part = torch.full((3, 1, 9, 8, 9), 50.0)
    part[:, :, 2:7, 1:7, 2:] = z
    turned = list(z.flip(0))[::-1]
    assert turned[0].storage_offset() > turned[1].storage_offset()
    both = torch.cat((z[0].flatten(), last[1].permute(0, 2, 3, 1).flatten(), z[2].flatten()))
    mixed = list(both.view(z.shape))
    mixed[1] = mixed[1].view(1, 6, 7, 5).permute(0, 3, 1, 2)
    for layers in (last, part[:, :, 2:7, 1:7, 2:], turned, mixed):
        for got, expected in zip(_compare(device, layers, affinity, offsets), want, strict=True):
            torch.testing.assert_close(got, expected)


def _expanded_affinity(device):
    z, affinity, offsets = _inputs(1, 2, 3, 4, 5)
    _compare(device, z, affinity[:1].expand_as(affinity), offsets)


def _half_precision(device):
    """Values of 16 bit, sums of 32: the gradient is off by its own rounding only."""
    for dtype, rtol in ((torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
        _compare(device, *_inputs(2, 1, 9, 4, 5), dtype=dtype, rtol=rtol)


def _same_bits_in_every_run(device):
    first, second = (_compare(device, *_inputs(2, 1, 9, 5, 8)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def _without_gradient(device):
    """Nothing is kept, and the loss is the same."""
    from fdd.modeling.losses.color_prior_triton import FusedColorPrior

    z, affinity, offsets = _inputs(2, 1, 4, 5, 6)
    loss, _ = _compare(device, z, affinity, offsets)
    with torch.no_grad():
        alone = FusedColorPrior.apply(affinity.to(device), offsets, False, *z.to(device))
    assert torch.equal(loss, alone) and not alone.requires_grad


def _other_dtypes(device):
    from fdd.modeling.losses.color_prior_triton import FusedColorPrior

    z, affinity, offsets = _inputs(2, 1, 3, 4, 5)
    for layers in (z.double(), (z[0], z[1].bfloat16())):
        with pytest.raises(ValueError, match="Use the backend 'slices'"):
            FusedColorPrior.apply(affinity, offsets, True, *layers)


def _self_check(device):
    """The chooser's own comparison passes, also where no gradients are wanted."""
    from fdd.modeling.losses.color_prior_triton import FusedColorPrior

    with torch.inference_mode():
        trouble = color_prior.compare_with_slices(
            FusedColorPrior, torch.float32, torch.device(device)
        )
    assert trouble is None, trouble


CASES = {
    case.__name__.lstrip("_"): case
    for case in (
        _layers_and_images,
        _wide_window,
        _window_larger_than_the_map,
        _one_channel,
        _no_pair,
        _no_offset,
        _padded_channels,
        _wide_gaps,
        _beyond_the_floor,
        _not_a_number,
        _views,
        _expanded_affinity,
        _half_precision,
        _same_bits_in_every_run,
        _without_gradient,
        _other_dtypes,
        _self_check,
    )
}
TARGETS = {
    f"{kernel}-{dtype}-sm{capability}": (kernel, dtype, capability)
    for kernel in ("cell", "pair", "gradient")
    for dtype, capability in (("fp32", 80), ("bf16", 90))
}


def _compile(kernel, dtype, capability):
    """Compile to machine code; few offsets spare time."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fdd.modeling.losses import color_prior_triton as fused

    function = getattr(fused, f"{kernel}_kernel")
    constants = {"BLOCK": fused.BLOCK_CELLS, "BLOCK_K": fused.BLOCK_CHANNELS}
    constants |= {"pair": {"KEEP": True}, "gradient": {"OFFSETS": 2}}.get(kernel, {})
    types = {"logits": f"*{dtype}", "grad": f"*{dtype}", "affinity": "*u8", "offsets": "*i32"}
    types |= dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("highest", "total", "weights", "partial", "scale"), "*fp32")
    signature = {name: types.get(name, "i32") for name in function.arg_names}
    source = ASTSource(function, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    asm = triton.compile(source, target=target, options={"num_warps": fused.WARPS}).asm
    assert asm["cubin"]
    assert "atom" not in asm["ptx"] and "red.global" not in asm["ptx"]


results = case_fixture(__file__)
compiled = compile_fixture(__file__)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_slices(results, case):
    assert not results[case], results[case]


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_without_a_gpu(compiled, target):
    assert not compiled[target], compiled[target]


if __name__ == "__main__":
    main(CASES, TARGETS, _compile)

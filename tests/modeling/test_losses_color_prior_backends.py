"""Which form of the colour prior serves a call, and how a wrong one is found out."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fdd.modeling.losses import color_affinity, color_prior, color_prior_loss
from fdd.modeling.losses.color_prior import SlicedColorPrior

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def _inputs():
    g = torch.Generator().manual_seed(0)
    lab = 4 * torch.rand(1, 3, 5, 6, generator=g)
    affinity = color_affinity(lab, torch.ones(1, 5, 6, dtype=torch.bool))
    assert affinity.any()
    return torch.randn(1, 3, 5, 6, generator=g), affinity


def _on_gpu(*dtypes):
    """Stand-ins for logits on a GPU."""
    return [SimpleNamespace(device=CUDA, dtype=dtype) for dtype in dtypes]


@pytest.fixture
def broken(monkeypatch):
    """Kernels that do not run."""
    monkeypatch.setattr(color_prior, "_trouble_with_triton", lambda *_: "the card is too old")
    color_prior._warn_once.cache_clear()
    yield
    color_prior._warn_once.cache_clear()


def test_the_default_on_a_cpu_is_the_slices():
    logits, affinity = _inputs()
    assert color_prior._form("auto", [logits]) is SlicedColorPrior
    auto, slices = (color_prior_loss(logits, affinity, 1, backend=b) for b in ("auto", "slices"))
    assert torch.equal(auto, slices) and torch.equal(auto, color_prior_loss(logits, affinity, 1))


def test_kernels_are_refused_on_a_cpu():
    logits, affinity = _inputs()
    with pytest.raises(RuntimeError, match=r"cannot run: it needs a GPU.*on cpu.*'auto'"):
        color_prior_loss(logits, affinity, 1, backend="triton")


def test_unknown_backend():
    logits, affinity = _inputs()
    with pytest.raises(ValueError, match=r"'cuda'; expected one of .*'slices'"):
        color_prior_loss(logits, affinity, 1, backend="cuda")


def test_slices_with_one_warning_where_the_kernels_do_not_run(broken, caplog):
    with caplog.at_level(logging.WARNING):
        forms = [color_prior._form("auto", _on_gpu(torch.float32)) for _ in range(3)]
    assert forms == [SlicedColorPrior] * 3
    assert [r.getMessage() for r in caplog.records] == [
        "The colour prior runs without its fused kernels: the card is too old"
    ]
    with pytest.raises(RuntimeError, match="the card is too old"):
        color_prior._form("triton", _on_gpu(torch.float32))


def test_float64_is_left_to_the_slices_in_silence(caplog):
    with caplog.at_level(logging.WARNING):
        assert color_prior._form("auto", _on_gpu(torch.float64)) is SlicedColorPrior
    assert not caplog.records
    with pytest.raises(RuntimeError, match=r"no kernel for torch\.float64"):
        color_prior._form("triton", _on_gpu(torch.float64))


def test_layers_of_several_dtypes():
    layers = _on_gpu(torch.float32, torch.bfloat16)
    assert color_prior._form("auto", layers) is SlicedColorPrior
    with pytest.raises(RuntimeError, match="layers of one dtype"):
        color_prior._form("triton", layers)


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    trouble = color_prior._trouble_with_triton.__wrapped__(torch.float32, CUDA)
    assert trouble.startswith("Triton is not installed")


@pytest.mark.parametrize(
    "error", [RuntimeError("no compiler"), subprocess.CalledProcessError(1, "gcc")]
)
def test_a_kernel_that_does_not_compile_is_a_reason(monkeypatch, error):
    pytest.importorskip("triton")

    def fail(*_):
        raise error

    monkeypatch.setattr(color_prior, "compare_with_slices", fail)
    trouble = color_prior._trouble_with_triton.__wrapped__(torch.float32, CUDA)
    assert trouble == f"{type(error).__name__}: {error}"


class _WrongLoss(SlicedColorPrior):
    @staticmethod
    def forward(ctx, *arguments):
        return 1.01 * SlicedColorPrior.forward(ctx, *arguments)


class _WrongGradient(SlicedColorPrior):
    @staticmethod
    def backward(ctx, grad):
        return SlicedColorPrior.backward(ctx, 1.01 * grad)


class _NoNumber(SlicedColorPrior):
    @staticmethod
    def backward(ctx, grad):
        return SlicedColorPrior.backward(ctx, torch.nan * grad)


@pytest.mark.parametrize(
    ("form", "trouble"),
    [
        (SlicedColorPrior, None),
        (_WrongLoss, "its loss is 1.0e-02 off the slices"),
        (_WrongGradient, "its gradient is 1.0e-02 off the slices"),
        (_NoNumber, "its gradient is nan off the slices"),
    ],
)
def test_the_check_before_use(form, trouble):
    assert color_prior.compare_with_slices(form, torch.float32, CPU) == trouble
    with torch.inference_mode():
        assert color_prior.compare_with_slices(form, torch.float32, CPU) == trouble

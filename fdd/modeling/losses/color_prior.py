"""The colour prior: neighbours of similar colour should have the same label (paper Eq. 4 and 8).

Two forms of one function: ``slices``, plain tensor operators, and ``triton``, three fused kernels.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fdd.modeling.losses.affinity import color_affinity, half_plane_offsets, rgb_to_lab
from fdd.modeling.losses.color_prior_slices import SlicedColorPrior
from fdd.modeling.losses.common import at_least_one, attached_zero, full_precision

__all__ = ["COLOR_BACKENDS", "color_affinity", "color_prior_loss", "rgb_to_lab"]

logger = logging.getLogger(__name__)

COLOR_BACKENDS = ("auto", "slices", "triton")

# What the kernels may be off the slices before they are not trusted, relative in the L2 norm.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


def color_prior_loss(
    logits: Tensor | Sequence[Tensor],
    affinity: Tensor,
    num_images: Tensor | float,
    *,
    kernel: int = 5,
    dilation: int = 2,
    backend: str = "auto",
) -> Tensor:
    """Negative log probability that affine neighbours have the same label (paper Eq. 4 and 8).

    Args:
        logits: (B, K, h, w) float, or several of them (the decoder's layers), whose losses are
            added up; softmax over K. Padded channels are ``-inf``; an image of padded channels only
            has loss 0.
        affinity: (B, (kernel * kernel - 1) / 2, h, w) bool of :func:`color_affinity`.
        num_images: images of the whole step (all processes and accumulated batches); values below 1
            count as 1.
        kernel, dilation: as given to :func:`color_affinity`.
        backend: "slices"; "triton", the fused kernels (NVIDIA or AMD GPU, logits of up to 32 bit);
            or "auto", the kernels where they run and agree with the slices, and else the slices.

    Returns:
        0-d tensor: the mean over an image's affine pairs, summed over layers and images /
        max(num_images, 1).

    Raises:
        ValueError: layers of different shapes, or an ``affinity`` that does not fit the logits or
            ``kernel``, or an unknown ``backend``.
        RuntimeError: ``backend`` is "triton" and cannot serve these logits.
    """
    offsets = half_plane_offsets(kernel, dilation)
    layers = [logits] if isinstance(logits, Tensor) else list(logits)
    _check(layers, affinity, len(offsets), kernel)
    if backend not in COLOR_BACKENDS:
        raise ValueError(
            f"the colour prior's backend is {backend!r}; expected one of {COLOR_BACKENDS}"
        )
    if 0 in layers[0].shape:
        return torch.stack([attached_zero(full_precision(z)) for z in layers]).sum()
    needs_grad = torch.is_grad_enabled() and any(z.requires_grad for z in layers)
    per_image = _form(backend, layers).apply(affinity, offsets, needs_grad, *layers)
    return per_image.sum() / at_least_one(num_images, per_image)


def _check(layers: list[Tensor], affinity: Tensor, offsets: int, kernel: int) -> None:
    shapes = {tuple(z.shape) for z in layers}
    if len(shapes) != 1 or layers[0].dim() != 4:
        raise ValueError(f"logits have the shapes {sorted(shapes)}; expected one, (B, K, h, w)")
    batch, _, *size = layers[0].shape
    expected = (batch, offsets, *size)
    if tuple(affinity.shape) != expected or affinity.dtype != torch.bool:
        raise ValueError(
            f"affinity is {affinity.dtype} of shape {tuple(affinity.shape)}; "
            f"expected torch.bool of shape {expected} for kernel {kernel}"
        )


# Which form serves a call


def _form(backend: str, layers: list[Tensor]) -> type[torch.autograd.Function]:
    """The autograd function of a call: the kernels where asked for or possible, else the slices."""
    device = layers[0].device
    if backend == "slices" or (backend == "auto" and device.type != "cuda"):
        return SlicedColorPrior
    dtypes = {z.dtype for z in layers}
    trouble = (
        _trouble_with_triton(layers[0].dtype, device)
        if len(dtypes) == 1
        else f"it takes layers of one dtype, not {sorted(map(str, dtypes))}"
    )
    if trouble is None:
        from fdd.modeling.losses.color_prior_triton import FusedColorPrior

        return FusedColorPrior
    if backend == "triton":
        raise RuntimeError(
            f"the colour prior's backend 'triton' cannot run: {trouble}. Use 'auto' or 'slices'"
        )
    # The slices are what float64 logits are meant for; nothing is amiss.
    if layers[0].dtype in _TOLERANCE:
        _warn_once(trouble)
    return SlicedColorPrior


@lru_cache(maxsize=64)
def _warn_once(trouble: str) -> None:
    logger.warning("The colour prior runs without its fused kernels: %s", trouble)


@lru_cache(maxsize=64)
def _trouble_with_triton(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels cannot serve such logits; None if they compile and are right."""
    if device.type != "cuda":
        return f"it needs a GPU, and the logits are on {device.type}"
    if dtype not in _TOLERANCE:
        return f"it has no kernel for {dtype}"
    try:
        from triton.errors import TritonError

        from fdd.modeling.losses.color_prior_triton import FusedColorPrior
    except ImportError as error:
        return f"Triton is not installed ({error})"
    try:
        return compare_with_slices(FusedColorPrior, dtype, device)
    except (
        TritonError,
        RuntimeError,
        OSError,
        AttributeError,
        subprocess.SubprocessError,  # its launcher needs a C compiler and Python's headers
    ) as error:
        return f"{type(error).__name__}: {error}"


def compare_with_slices(
    form: type[torch.autograd.Function], dtype: torch.dtype, device: torch.device
) -> str | None:
    """Run a form on two small maps of two layers; how far off the slices it is, or None."""
    # A first call may come under inference mode, whose tensors have no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        g = torch.Generator().manual_seed(0)
        offsets = half_plane_offsets(5, 2)
        z = (4 * torch.randn(2, 2, 11, 9, 13, generator=g)).to(device, dtype)
        valid = torch.ones(2, 9, 13, dtype=torch.bool)
        affinity = color_affinity(torch.rand(2, 3, 9, 13, generator=g) * 4, valid).to(device)

        def run(form: type[torch.autograd.Function]) -> tuple[Tensor, ...]:
            layers = [x.detach().requires_grad_() for x in z]
            loss = form.apply(affinity, offsets, True, *layers)
            return loss.detach(), *torch.autograd.grad(loss.sum(), layers)

        pairs = zip(("loss", *["gradient"] * 2), run(form), run(SlicedColorPrior), strict=True)
        for name, got, want in pairs:
            off = ((got.float() - want.float()).norm() / want.float().norm().clamp(min=1e-6)).item()
            if not off <= _TOLERANCE[dtype]:
                return f"its {name} is {off:.1e} off the slices"
    return None

"""The colour prior: neighbours of similar colour should have the same label (paper Eq. 4, 5 and 8).

Which neighbours are alike, and the loss in two forms of one function: ``slices``, plain tensor
operators, and ``triton``, three fused kernels.
"""

from __future__ import annotations

import logging
import math
import subprocess
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fdd.modeling.losses.common import PAIR_FLOOR, at_least_one, attached_zero, full_precision

logger = logging.getLogger(__name__)

COLOR_BACKENDS = ("auto", "slices", "triton")

# What the kernels may be off the slices before they are not trusted, relative in the L2 norm.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}

# Linear sRGB -> XYZ (D65), and the white point that goes with it.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)

Window = tuple[slice, slice]
Pairs = list[tuple[Window, Window]]


@torch.no_grad()
def rgb_to_lab(image: Tensor) -> Tensor:
    """CIE LAB (D65) of sRGB images, on the usual scale (L in 0..100).

    Args:
        image: (B, 3, H, W) float in [0, 1], channels R, G, B; values outside are clipped.

    Returns:
        (B, 3, H, W) float32 (float64 for float64 input), without gradient.
    """
    rgb = full_precision(image).clamp(0, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.empty_like(linear)
    for row, white, out in zip(_XYZ_FROM_RGB, _WHITE, xyz.unbind(1), strict=True):
        # Sums of planes, not a matrix product: autocast and TF32 would flip borderline affinities.
        torch.mul(linear[:, 0], row[0] / white, out=out)
        out.add_(linear[:, 1], alpha=row[1] / white).add_(linear[:, 2], alpha=row[2] / white)
    curved = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = curved.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def half_plane_offsets(kernel: int, dilation: int) -> list[tuple[int, int]]:
    """The (dy, dx) of half of a kernel's neighbours: each unordered pair occurs once.

    Raises:
        ValueError: even or non-positive ``kernel``, non-positive ``dilation``.
    """
    if kernel < 1 or kernel % 2 == 0 or dilation < 1:
        raise ValueError(f"kernel {kernel} must be odd and >= 1, dilation {dilation} must be >= 1")
    r = kernel // 2
    steps = range(-r, r + 1)
    half = [(dy, dx) for dy in steps for dx in steps if dy > 0 or (dy == 0 and dx > 0)]
    return [(dy * dilation, dx * dilation) for dy, dx in half]


def pair_windows(height: int, width: int, dy: int, dx: int) -> tuple[Window, Window]:
    """Rows and columns of all cells i whose neighbour j = i + (dy, dx) is in the map, and of those
    j."""
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    x_i, x_j = max(-dx, 0), max(dx, 0)
    first = (slice(0, rows), slice(x_i, x_i + columns))
    second = (slice(dy, dy + rows), slice(x_j, x_j + columns))
    return first, second


@torch.no_grad()
def color_affinity(
    lab: Tensor, valid: Tensor, kernel: int = 5, dilation: int = 2, threshold: float = 0.3
) -> Tensor:
    """Which neighbours are alike: exp(-0.5 |LAB_i - LAB_j|) > threshold (paper Eq. 5).

    Made once per image and shared by all decoder layers and both branches. exp(-d / 2) > t is
    d^2 < (2 ln t)^2, which needs neither the exponential nor the root; an infinite colour in
    invalid cells is far from (or NaN against) every other, so that validity costs no mask per pair.

    Args:
        lab: (B, 3, h, w) float, the images in LAB at the logits' stride.
        valid: (B, h, w) bool, cells inside the un-padded image; a pair needs both.
        kernel: odd side of the neighbourhood, in steps of ``dilation`` cells.
        dilation: cells between neighbours.
        threshold: the affinity above which (strictly) a pair counts.

    Returns:
        (B, (kernel * kernel - 1) / 2, h, w) bool: entry (o, v, u) is the pair of cell (v, u) with
        its neighbour at the o-th half-plane offset; False where that neighbour is outside.

    Raises:
        ValueError: even or non-positive ``kernel``, or shapes that do not fit.
    """
    if lab.dim() != 4 or lab.shape[1] != 3 or valid.shape != lab[:, 0].shape:
        raise ValueError(
            f"lab has shape {tuple(lab.shape)} and valid {tuple(valid.shape)}; "
            "expected (B, 3, h, w) and (B, h, w)"
        )
    offsets = half_plane_offsets(kernel, dilation)
    limit = max(-2 * math.log(threshold), 0.0) if threshold > 0 else math.inf
    lab = full_precision(lab).masked_fill(~valid.unsqueeze(1), math.inf)
    batch, _, height, width = lab.shape
    distance2 = lab.new_full((batch, len(offsets), height, width), math.inf)
    for o, (dy, dx) in enumerate(offsets):
        (ri, ci), (rj, cj) = pair_windows(height, width, dy, dx)
        step = lab[:, :, ri, ci] - lab[:, :, rj, cj]
        torch.sum(step.square_(), 1, out=distance2[:, o, ri, ci])
    return distance2 < limit * limit


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


# On a CPU, logits handled at a time: their product with a neighbour's should stay in the cache.
_CPU_CHUNK = 1 << 19


def _chunks(layers: Sequence[Tensor]) -> Iterator[tuple[slice, slice]]:
    """Slices of layers and of images to be handled together.

    All of them, to launch few kernels; on a CPU no more than fits into its cache, or one image.
    """
    batch, step = len(layers[0]), len(layers)
    images = batch
    if layers[0].device.type == "cpu":
        room = max(_CPU_CHUNK // layers[0][0].numel(), 1)
        images, step = min(batch, room), max(room // batch, 1)
    for layer in range(0, len(layers), step):
        for image in range(0, batch, images):
            yield slice(layer, layer + step), slice(image, image + images)


def _at(x: Tensor, window: Window) -> Tensor:
    """View of (n, h, K, w) ``x`` at the rows and columns of a window: ``x[:, rows, :, columns]``.

    In one step: with five views a pair, indexing would cost as much as the arithmetic of a small
    map.
    """
    rows, columns = window
    count, _, channels, _ = x.shape
    stride = x.stride()
    size = (count, rows.stop - rows.start, channels, columns.stop - columns.start)
    start = x.storage_offset() + rows.start * stride[1] + columns.start * stride[3]
    return x.as_strided(size, stride, start)


def _degree(affinity: Tensor, pairs: Pairs) -> Tensor:
    """(B, h, 1, w) float32: in how many pairs of (B, offsets, h, 1, w) uint8 a cell is."""
    degree = affinity.sum(1, dtype=torch.float32)
    for (first, second), affine in zip(pairs, affinity.unbind(1), strict=True):
        _at(degree, second).add_(_at(affine, first))
    return degree


def _exponentials(layers: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """exp(z - max_k z), and which maps have no channel at all.

    Args:
        layers: (B, K, h, w) logits.

    Returns:
        (n, h, K, w) with n = layers * B, and (n,) bool. Rows come first, so that operators over
        channels and over cells are cut into the same parts for the threads: no core has to fetch
        what another one wrote.
    """
    batch, channels, height, width = layers[0].shape
    e = layers[0].new_empty((len(layers) * batch, height, channels, width), dtype=dtype)
    for part, layer in zip(e.split(batch), layers, strict=True):
        part.copy_(layer.transpose(1, 2))
    highest = e.amax(2, keepdim=True)
    dead = highest.amax((1, 2, 3)) == -math.inf
    # -inf less -inf is NaN; less the least number it stays -inf, and e is 0.
    e.sub_(highest.clamp_(min=torch.finfo(dtype).min)).exp_()
    return e, dead


def _pair_sums(e: Tensor, pairs: Pairs, work: Tensor) -> Tensor:
    """(n, offsets, h, 1, w): sum_k e_ik e_jk of each pair, not below the floor.

    ``work``, as large as ``e`` and contiguous, is overwritten.
    """
    count, height, _, width = e.shape
    sums = e.new_zeros((count, len(pairs), height, 1, width))
    products = work.view(-1)
    for (first, second), out in zip(pairs, sums.unbind(1), strict=True):
        a, b = _at(e, first), _at(e, second)
        product = torch.mul(a, b, out=products[: a.numel()].view(a.shape))
        torch.sum(product, 2, keepdim=True, out=_at(out, first))
    return sums.clamp_(min=PAIR_FLOOR)


def _pull(grad: Tensor, e: Tensor, weights: Tensor, pairs: Pairs) -> None:
    """Take sum_j weights_ij e_jk, over both directions of each pair, off (n, h, K, w) ``grad``."""
    for (first, second), weight in zip(pairs, weights.unbind(1), strict=True):
        weight = _at(weight, first)
        _at(grad, first).addcmul_(weight, _at(e, second), value=-1)
        _at(grad, second).addcmul_(weight, _at(e, first), value=-1)


def _loss_and_grad(
    layers: Sequence[Tensor], affinity: Tensor, degree: Tensor, pairs: Pairs, grad: Tensor | None
) -> Tensor:
    """-sum A log(sum_k p_ik p_jk) of each map, and into ``grad`` its gradient.

    Args:
        layers: (B, K, h, w) logits.
        affinity: (B, offsets, h, 1, w) uint8.
        degree: (B, h, 1, w) in the dtype to compute in.
        grad: (layers * B, h, K, w) or None.

    Returns:
        (layers * B,)
    """
    e, dead = _exponentials(layers, degree.dtype)
    weights = affinity.to(degree.dtype)
    if len(layers) > 1:
        weights, degree = (x.repeat(len(layers), *[1] * (x.dim() - 1)) for x in (weights, degree))
    total = e.sum(2, keepdim=True).clamp_(min=1)
    # Nothing stands in the gradient yet: it holds the products as long as they are needed.
    sums = _pair_sums(e, pairs, torch.empty_like(e) if grad is None else grad)
    loss = (total.log() * degree).sum((1, 2, 3))
    if grad is None:
        logs = sums.log_().mul_(weights)
    else:
        grad.copy_(degree / total)
        ratio = weights.div_(sums)
        _pull(grad, e, ratio, pairs)
        grad.mul_(e)
        del e  # makes room for the logarithms; A log s is (A / s) s log s
        logs = sums.log().mul_(sums).mul_(ratio)
    loss -= logs.sum((1, 2, 3, 4))
    return loss.masked_fill_(dead, 0)


class SlicedColorPrior(torch.autograd.Function):
    """-sum A log(sum_k p_ik p_jk) / max(sum A, 1) per layer and image, its gradient in closed form.

    With e = exp(z - max z), S = sum_k e and s_ij = sum_k e_ik e_jk the softmax need not be divided
    out: -log(sum_k p_ik p_jk) = log S_i + log S_j - log s_ij, and

        dL/dz_ik = e_ik (deg_i / S_i - sum_j A_ij e_jk / s_ij) / Z,

    where deg_i counts the affine neighbours of i. It is linear in what comes from above, so the
    forward pass makes it, and it is all that is kept: K values a cell, where the unfolded form
    keeps five maps per neighbour and channel. Below the floor of s the cell's own confident channel
    still gets its push down: such pairs do not go dead.
    """

    @staticmethod
    def forward(
        ctx: Any,
        affinity: Tensor,
        offsets: list[tuple[int, int]],
        needs_grad: bool,
        *layers: Tensor,
    ) -> Tensor:
        batch, channels, height, width = layers[0].shape
        pairs = [pair_windows(height, width, *offset) for offset in offsets]
        affinity = affinity.view(torch.uint8).unsqueeze(3)
        degree = _degree(affinity, pairs).to(torch.promote_types(layers[0].dtype, torch.float32))
        loss = degree.new_empty((len(layers), batch))
        shape = (len(layers), batch, height, channels, width)
        grads = degree.new_empty(shape) if needs_grad else None
        for layer, image in _chunks(layers):
            part = _loss_and_grad(
                [z[image] for z in layers[layer]],
                affinity[image],
                degree[image],
                pairs,
                None if grads is None else grads[layer, image].flatten(0, 1),
            )
            loss[layer, image] = part.view(loss[layer, image].shape)
        count = degree.sum((1, 2, 3)).div_(2).clamp_(min=1)
        ctx.save_for_backward(grads, count)
        ctx.dtypes = [z.dtype for z in layers]
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads, count = ctx.saved_tensors
        scale = (grad / count)[:, :, None, None, None]
        out = []
        for part, factor, dtype in zip(grads.transpose(2, 3), scale, ctx.dtypes, strict=True):
            like = torch.empty(part.shape, dtype=dtype, device=part.device)
            out.append(torch.mul(part, factor, out=like))
        return (None, None, None, *out)

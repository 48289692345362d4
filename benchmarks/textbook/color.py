"""The colour prior by unfolding.

Published: FDD Eq. 4, 5 and 8, with the settings of PSPS (Fan et al., ECCV 2022): kernel 5, dilation
2, 24 neighbours; ``color_prior_loss``, ``_unfold_wo_center`` and ``_normalized_rgb_to_lab`` in
``easymd/models/panformer/utils.py`` of BraveGroup/PSPS. Called once a decoder layer and branch;
LAB and affinity are computed again in every call.

Two differences from PSPS, so that the losses are those of this package: PSPS counts pairs of
padding and pairs with a zero outside the image (which is affine to a nearly black border), here a
pair needs both cells inside the image; and PSPS takes affinities of exactly 0.3, the paper does
not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# sRGB to XYZ (D65) and the white point.
_XYZ = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169]]
_XYZ += [[0.019334, 0.119193, 0.950227]]
_WHITE = [0.95047, 1.0, 1.08883]
_LAB = [[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]]


class ColorSettings(NamedTuple):
    """``MODEL.FDD.PSEUDO.COLOR_*``."""

    kernel: int = 5
    dilation: int = 2
    threshold: float = 0.3


@torch.no_grad()
def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(B, 3, h, w) sRGB in [0, 1] to CIE LAB."""
    rgb = rgb.clamp(0, 1)
    bright = (rgb > 0.04045).to(rgb.dtype)
    linear = ((rgb + 0.055) / 1.055) ** 2.4 * bright + rgb / 12.92 * (1 - bright)
    xyz = torch.einsum("mc,bchw->bmhw", rgb.new_tensor(_XYZ), linear)
    xyz = xyz / rgb.new_tensor(_WHITE).view(1, 3, 1, 1)
    bright = (xyz > 0.008856).to(rgb.dtype)
    curve = xyz ** (1 / 3) * bright + (7.787 * xyz + 16 / 116) * (1 - bright)
    lab = torch.einsum("mc,bchw->bmhw", rgb.new_tensor(_LAB), curve)
    lab[:, 0] -= 16
    return lab


def _neighbours(x: Tensor, kernel: int, dilation: int) -> Tensor:
    """(B, C, h, w) to (B, C, kernel^2 - 1, h, w): all neighbours, zero outside."""
    batch, channels, height, width = x.shape
    side = dilation * (kernel // 2)
    out = F.unfold(x, kernel_size=kernel, dilation=dilation, padding=side)
    out = out.view(batch, channels, kernel * kernel, height, width)
    middle = kernel * kernel // 2
    return torch.cat([out[:, :, :middle], out[:, :, middle + 1 :]], dim=2)


def unfolded(
    logits: Tensor, rgb: Tensor, valid: Tensor, settings: ColorSettings, cache: dict[str, Any]
) -> Tensor:
    """The published form.

    Args:
        logits: (1, K, h, w) of one image; softmax over K.
        rgb: (1, 3, h, w) image at the logits' size, in [0, 1].
        valid: (1, h, w) bool, cells inside the image.
        cache: of the image and step; not used here.

    Returns:
        Scalar: -sum A log(p_i . p_j) / sum A over ordered pairs.
    """
    kernel, dilation, threshold = settings
    log_p = logits.log_softmax(1)
    pair = log_p[:, :, None] + _neighbours(log_p, kernel, dilation)
    top = pair.amax(1, keepdim=True)
    same = (pair - top).exp().sum(1).log() + top[:, 0]
    lab = rgb_to_lab(rgb)
    distance = torch.norm(lab[:, :, None] - _neighbours(lab, kernel, dilation), dim=1)
    affine = ((-0.5 * distance).exp() > threshold).to(logits.dtype)
    inside = valid[:, None].to(logits.dtype)
    affine = affine * inside * _neighbours(inside, kernel, dilation)[:, 0]
    return -(same * affine).sum() / affine.sum().clamp(min=1)


def _half_offsets(kernel: int, dilation: int) -> list[tuple[int, int]]:
    reach = [dilation * i for i in range(-(kernel // 2), kernel // 2 + 1)]
    return [(dy, dx) for dy in reach for dx in reach if (dy, dx) > (0, 0)]


def _pair(x: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """The cells that have a neighbour at (dy, dx), and these neighbours; ``dy`` >= 0."""
    height, width = x.shape[-2:]
    left, right = max(0, -dx), max(0, dx)
    first = x[..., : max(0, height - dy), left : max(left, width - right)]
    second = x[..., dy:, right : max(right, width - left)]
    return first, second


def sliced(
    logits: Tensor, rgb: Tensor, valid: Tensor, settings: ColorSettings, cache: dict[str, Any]
) -> Tensor:
    """Cheap variant: each unordered pair once by slices, affinity once an image, plain autograd."""
    kernel, dilation, threshold = settings
    offsets = _half_offsets(kernel, dilation)
    if "affine" not in cache:
        lab = rgb_to_lab(rgb)
        cache["affine"] = []
        for dy, dx in offsets:
            (a, b), (va, vb) = _pair(lab, dy, dx), _pair(valid, dy, dx)
            close = (-0.5 * (a - b).square().sum(1).sqrt()).exp() > threshold
            cache["affine"].append((close & va & vb).to(logits.dtype))
        cache["pairs"] = sum(a.sum() for a in cache["affine"]).clamp(min=1)
    log_p = logits.log_softmax(1)
    total = logits.new_zeros(())
    for (dy, dx), affine in zip(offsets, cache["affine"], strict=True):
        a, b = _pair(log_p, dy, dx)
        total = total - ((a + b).logsumexp(1) * affine).sum()
    return total / cache["pairs"]

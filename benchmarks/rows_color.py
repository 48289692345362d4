"""Colour prior, forward and backward: this package's form beside the unfolded one.

The peer is the form of the published implementations: PSPS (ECCV 2022, "Pointly-supervised panoptic
segmentation", kernel 5 and dilation 2) on top of BoxInst's pairwise term (CVPR 2021, Eq. 5): all
neighbours of all channels are laid out by ``F.unfold``, and both directions of a pair are counted.
It is written here from the formulas; nothing is taken over from their code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.losses import color_affinity, color_prior_loss, rgb_to_lab

KERNEL, DILATION, THRESHOLD = 5, 2, 0.3


@dataclass
class ColorInputs:
    """One image and one layer's logits.

    Attributes:
        rgb: (1, 3, h, w) float in [0, 1].
        valid: (1, h, w) bool, all True: the unfolded form knows no padding.
        logits: (1, N, h, w) float32 leaf.
        affinity: of ``color_affinity``; (1, 12, h, w) bool.
        unfold_affinity: (1, 24, h, w) bool, both directions of each pair.
    """

    rgb: Tensor
    valid: Tensor
    logits: Tensor
    affinity: Tensor
    unfold_affinity: Tensor


def make_inputs(n: int, size: int | tuple[int, int], device: str = "cpu") -> ColorInputs:
    """A made-up photograph (smooth areas, edges, a little noise) and logits of ``n`` channels.

    The photograph is bright everywhere: on near-black border cells the two forms differ by
    definition (the unfolded one takes what lies outside the image for black).
    """
    height, width = (size, size) if isinstance(size, int) else size
    g = torch.Generator().manual_seed(n)

    def smooth(channels: int, cells: int) -> Tensor:
        coarse = torch.rand(1, channels, cells, cells, generator=g)
        return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)

    regions = smooth(6, 6).argmax(1)
    colours = torch.rand(6, 3, generator=g)
    shade = 0.12 * smooth(3, 5)
    noise = 0.008 * torch.randn(1, 3, height, width, generator=g)
    rgb = (0.25 + 0.5 * colours[regions].permute(0, 3, 1, 2) + shade + noise).clamp(0.1, 1)
    logits = 3 * torch.randn(1, n, height, width, generator=g)
    rgb, logits = rgb.to(device), logits.to(device).requires_grad_()
    valid = torch.ones(1, height, width, dtype=torch.bool, device=device)
    lab = rgb_to_lab(rgb)
    return ColorInputs(
        rgb, valid, logits, color_affinity(lab, valid, KERNEL, DILATION, THRESHOLD), unfold_lab(lab)
    )


def _grad(inputs: ColorInputs, loss: Tensor) -> tuple[Tensor, Tensor]:
    (grad,) = torch.autograd.grad(loss, inputs.logits)
    return loss.detach(), grad


def ours(inputs: ColorInputs, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Loss and gradient with an affinity that is there already (shared by layers and branches)."""
    return _grad(inputs, color_prior_loss(inputs.logits, inputs.affinity, 1))


def ours_with_affinity(inputs: ColorInputs, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The same, LAB and affinity made inside."""
    affinity = color_affinity(rgb_to_lab(inputs.rgb), inputs.valid, KERNEL, DILATION, THRESHOLD)
    return _grad(inputs, color_prior_loss(inputs.logits, affinity, 1))


def unfold_neighbours(x: Tensor) -> Tensor:
    """(1, C, h, w) -> (1, C, 24, h, w): the neighbours of every cell, zero outside the map."""
    batch, channels, height, width = x.shape
    columns = F.unfold(x, KERNEL, dilation=DILATION, padding=KERNEL // 2 * DILATION)
    columns = columns.view(batch, channels, KERNEL * KERNEL, height, width)
    centre = KERNEL * KERNEL // 2
    return torch.cat((columns[:, :, :centre], columns[:, :, centre + 1 :]), dim=2)


@torch.no_grad()
def unfold_lab(lab: Tensor) -> Tensor:
    """exp(-0.5 |LAB_i - LAB_j|) > threshold for all neighbours: (1, 24, h, w) bool."""
    distance = (lab.unsqueeze(2) - unfold_neighbours(lab)).norm(dim=1)
    return torch.exp(-0.5 * distance) > THRESHOLD


@torch.no_grad()
def plain_lab(rgb: Tensor) -> Tensor:
    """sRGB to LAB (D65) by a matrix product over the channels, as the formula is usually typed."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = rgb.new_tensor(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    white = rgb.new_tensor([0.95047, 1.0, 1.08883]).view(1, 3, 1, 1)
    xyz = torch.einsum("rc,bchw->brhw", matrix, linear) / white
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def _unfold_loss(logits: Tensor, affinity: Tensor, fused: bool = False) -> Tensor:
    """-sum A log sum_k p_ik p_jk / max(sum A, 1), in log space over 24 ordered neighbours."""
    log_p = logits.log_softmax(1)
    both = log_p.unsqueeze(2) + unfold_neighbours(log_p)
    if fused:
        same = both.logsumexp(1)
    else:
        top = both.amax(1, keepdim=True)
        same = (both - top).exp().sum(1).log() + top.squeeze(1)
    return -(same * affinity).sum() / affinity.sum().clamp(min=1)


def unfold(inputs: ColorInputs) -> tuple[Tensor, Tensor]:
    """The peer with an affinity that is there already."""
    return _grad(inputs, _unfold_loss(inputs.logits, inputs.unfold_affinity))


def unfold_with_affinity(inputs: ColorInputs) -> tuple[Tensor, Tensor]:
    """The peer as published: LAB and affinity on every call."""
    return _grad(inputs, _unfold_loss(inputs.logits, unfold_lab(plain_lab(inputs.rgb))))


def unfold_logsumexp(inputs: ColorInputs) -> tuple[Tensor, Tensor]:
    """Cheap variant of ``unfold``: one ``logsumexp`` in place of the formula spelled out."""
    return _grad(inputs, _unfold_loss(inputs.logits, inputs.unfold_affinity, fused=True))

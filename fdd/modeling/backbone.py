"""A residual network small enough to train from scratch on a CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from torch import Tensor, nn


class SmallStem(CNNBlockBase):
    """Two 3x3 stride-2 convolutions: input / 4, without pooling."""

    def __init__(self, *, in_channels: int, out_channels: int, norm: str):
        super().__init__(in_channels, out_channels, 4)
        middle = out_channels // 2
        self.conv1 = self._conv(in_channels, middle, norm)
        self.conv2 = self._conv(middle, out_channels, norm)

    @staticmethod
    def _conv(in_channels: int, out_channels: int, norm: str) -> Conv2d:
        conv = Conv2d(
            in_channels,
            out_channels,
            kernel_size=3,
            stride=2,
            padding=1,
            bias=False,
            norm=get_norm(norm, out_channels),
            activation=nn.ReLU(),
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 4, W / 4)."""
        return self.conv2(self.conv1(x))


@BACKBONE_REGISTRY.register()
def build_small_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """ResNet of basic blocks with ``MODEL.SMALL_RESNET``'s widths and depths.

    Gives ``res2`` to ``res5`` at strides 4, 8, 16 and 32, as far as ``MODEL.RESNETS.OUT_FEATURES``
    asks for them. ``MODEL.RESNETS.NORM`` is its norm; ``MODEL.BACKBONE.FREEZE_AT`` freezes stages.
    """
    small, norm = cfg.MODEL.SMALL_RESNET, cfg.MODEL.RESNETS.NORM
    widths, depths = list(small.WIDTHS), list(small.DEPTHS)
    if len(widths) != 4 or len(depths) != 4:
        raise ValueError(
            f"MODEL.SMALL_RESNET has WIDTHS {widths} and DEPTHS {depths}; each needs four entries"
        )
    if any(a == b for a, b in pairwise(widths)) or min(depths) < 1:
        # BasicBlock has a strided shortcut only where the width changes.
        raise ValueError(
            f"MODEL.SMALL_RESNET has WIDTHS {widths} and DEPTHS {depths}; neighbouring widths must "
            "differ and depths be at least 1"
        )
    stem = SmallStem(in_channels=input_shape.channels, out_channels=widths[0], norm=norm)
    stages, channels = [], widths[0]
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                depth,
                stride_per_block=[1 if i == 0 else 2] + [1] * (depth - 1),
                in_channels=channels,
                out_channels=width,
                norm=norm,
            )
        )
        channels = width
    backbone = ResNet(stem, stages, out_features=list(cfg.MODEL.RESNETS.OUT_FEATURES))
    return backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


def name_strides_alike(backbone: nn.Module) -> None:
    """Give gradients of 1x1 convolutions the strides of their weights.

    On channels-last images some come with other strides along the axes of size 1: the same numbers
    in the same places, but DistributedDataParallel compares strides, warns and copies.
    """
    for weight in backbone.parameters():
        if weight.dim() == 4 and weight.shape[2:] == (1, 1) and weight.requires_grad:
            shape, stride = weight.shape, weight.stride()

            def rename(grad: Tensor, shape: Any = shape, stride: Any = stride) -> Tensor:
                return grad.contiguous().as_strided(shape, stride)

            weight.register_hook(rename)

"""The FDD model, its branches, and the pure functions around them."""

from fdd.modeling.backbone import build_small_resnet_backbone
from fdd.modeling.meta_arch import FDD

__all__ = ["FDD", "build_small_resnet_backbone"]

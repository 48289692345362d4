"""Multi-scale deformable attention: one operator, several implementations."""

from fdd.modeling.layers.deform_attn.backends import BACKENDS
from fdd.modeling.layers.deform_attn.module import MSDeformAttn
from fdd.modeling.layers.deform_attn.op import ms_deform_attn

__all__ = ["BACKENDS", "MSDeformAttn", "ms_deform_attn"]

"""Multi-scale deformable attention: one operator, several implementations."""

from fdd.modeling.layers.deform_attn.backends import BACKENDS, BackendError, check_backend
from fdd.modeling.layers.deform_attn.module import MSDeformAttn, use_backend
from fdd.modeling.layers.deform_attn.op import ms_deform_attn

__all__ = [
    "BACKENDS",
    "BackendError",
    "MSDeformAttn",
    "check_backend",
    "ms_deform_attn",
    "use_backend",
]

"""Multi-scale deformable attention: one operator, several implementations."""

from fdd.modeling.layers.deform_attn.attention import MSDeformAttn, ms_deform_attn, use_backend
from fdd.modeling.layers.deform_attn.backends import (
    BackendError,
    attention_backend_names,
    check_backend,
    get_attention_backend,
    register_attention_backend,
)

__all__ = [
    "BackendError",
    "MSDeformAttn",
    "attention_backend_names",
    "check_backend",
    "get_attention_backend",
    "ms_deform_attn",
    "register_attention_backend",
    "use_backend",
]

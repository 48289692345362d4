"""Building blocks known to every head; they know none of them."""

from fdd.modeling.layers.deform_attn import (
    MSDeformAttn,
    check_backend,
    ms_deform_attn,
    use_backend,
)
from fdd.modeling.layers.dropout import Dropout
from fdd.modeling.layers.mask_head import use_plain_operators
from fdd.modeling.layers.mask_stack import MaskStack
from fdd.modeling.layers.memory import Memory, nearest_valid, valid_ratios
from fdd.modeling.layers.mlp import MLP, FeedForward
from fdd.modeling.layers.position_encoding import sine_position_encoding
from fdd.modeling.layers.self_attention import SelfAttention

__all__ = [
    "MLP",
    "Dropout",
    "FeedForward",
    "MSDeformAttn",
    "MaskStack",
    "Memory",
    "SelfAttention",
    "check_backend",
    "ms_deform_attn",
    "nearest_valid",
    "sine_position_encoding",
    "use_backend",
    "use_plain_operators",
    "valid_ratios",
]

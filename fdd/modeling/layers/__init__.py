"""Building blocks known to every head; they know none of them."""

from fdd.modeling.layers.deform_attn import MSDeformAttn, ms_deform_attn
from fdd.modeling.layers.dropout import Dropout
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
    "ms_deform_attn",
    "nearest_valid",
    "sine_position_encoding",
    "valid_ratios",
]

"""Building blocks of the encoder and the heads, of which they import nothing."""

from fdd.modeling.layers.deform_attn import (
    MSDeformAttn,
    check_backend,
    ms_deform_attn,
    use_backend,
)
from fdd.modeling.layers.mask_stack import MaskStack, use_plain_operators
from fdd.modeling.layers.memory import (
    Memory,
    nearest_valid,
    sine_position_encoding,
    valid_ratios,
)
from fdd.modeling.layers.transformer import MLP, Dropout, FeedForward, SelfAttention

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

"""The FDD model, its branches, and the pure functions around them."""

from fdd.modeling.meta_arch import FDD

__all__ = ["FDD"]

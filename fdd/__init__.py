"""Panoptic segmentation trained from points, on Detectron2."""

from fdd.config import add_fdd_config

__version__ = "0.1.0"
__all__ = ["__version__", "add_fdd_config"]

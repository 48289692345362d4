"""Panoptic segmentation trained from points, on Detectron2."""

from importlib.util import find_spec

if find_spec("detectron2") is None:
    raise ImportError(
        "fdd needs Detectron2, which is not installed here. No package registry has it under its"
        " own name, so pip cannot bring it along: INSTALL.md shows two ways to install it."
    )

from fdd.config import add_fdd_config
from fdd.config_files import get_config_file, list_config_files

__version__ = "0.1.0"
__all__ = ["__version__", "add_fdd_config", "get_config_file", "list_config_files"]

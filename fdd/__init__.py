"""Panoptic segmentation trained from points, on Detectron2."""

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("detectron2") is None:
    raise ImportError(
        "fdd needs Detectron2, which is not installed here. No package registry has it under its"
        " own name, so pip cannot bring it along: INSTALL.md shows two ways to install it."
    )

from fdd import moved
from fdd.config_files import get_config_file, list_config_files

if TYPE_CHECKING:
    from fdd.config import add_fdd_config

# PyTorch's, about what Detectron2 does when it is imported: nothing to a user. Here, because all
# programs import this before Detectron2's models.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script(_method)?` is deprecated")

moved.install()

__version__ = "0.1.0"
__all__ = ["__version__", "add_fdd_config", "get_config_file", "list_config_files"]


def __getattr__(name: str) -> Any:
    """Import Detectron2, and with it PyTorch, no sooner than it is needed: point labels can be read
    and checked without them."""
    if name == "add_fdd_config":
        from fdd.config import add_fdd_config

        return add_fdd_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Registration of data sets, the dataset mapper and the shapes data set.

Importing this package registers the built-in data sets (:mod:`fdd.data.builtin`).
"""

from fdd.data import builtin  # noqa: F401  (registers the built-in names)
from fdd.data.catalog import (
    contiguous_categories,
    get_metadata,
    register_panoptic,
    register_points,
)
from fdd.data.dataset_files import register_dataset_file, resolve_dataset_files
from fdd.data.loading import filter_training_dicts
from fdd.data.mapper import FDDDatasetMapper

__all__ = [
    "FDDDatasetMapper",
    "contiguous_categories",
    "filter_training_dicts",
    "get_metadata",
    "register_dataset_file",
    "register_panoptic",
    "register_points",
    "resolve_dataset_files",
]

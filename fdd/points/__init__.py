"""Point labels as data: format, checks, sampling, rasterisation. NumPy only, no torch."""

from fdd.points.format import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
    read_points,
    validate_points,
    write_points,
)
from fdd.points.raster import (
    RasterizedPoints,
    num_valid_cells,
    rasterize_points,
    valid_cells,
)
from fdd.points.sampling import STRATEGIES, points_file_name, sample_panoptic, sample_points
from fdd.points.sparse_png import read_sparse_png, write_sparse_png

__all__ = [
    "STRATEGIES",
    "Category",
    "PointDataset",
    "PointImage",
    "PointLabelError",
    "PointSegment",
    "RasterizedPoints",
    "num_valid_cells",
    "points_file_name",
    "rasterize_points",
    "read_points",
    "read_sparse_png",
    "sample_panoptic",
    "sample_points",
    "valid_cells",
    "validate_points",
    "write_points",
    "write_sparse_png",
]

"""Point labels from the exports of labelling tools: a reader for each format, and one way in."""

from fdd.points.importers import (  # noqa: F401  each registers its format
    coco,
    csv_table,
    cvat,
    datumaro,
    label_studio,
    labelme,
    sparse_png,
)
from fdd.points.importers.pipeline import Imported, import_points
from fdd.points.importers.registry import (
    IMPORTER_REGISTRY,
    Importer,
    RawImage,
    RawPoint,
    get_importer,
    importer_names,
    register_importer,
)

__all__ = [
    "IMPORTER_REGISTRY",
    "Imported",
    "Importer",
    "RawImage",
    "RawPoint",
    "get_importer",
    "import_points",
    "importer_names",
    "register_importer",
]

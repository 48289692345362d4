"""Points out of labelling tools' exports: one reader a format, one way into point labels."""

from fdd.points.importers.pipeline import Imported, import_points
from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.importers.registry import FORMATS

__all__ = ["FORMATS", "Imported", "RawImage", "RawPoint", "import_points"]

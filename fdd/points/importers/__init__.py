"""Points out of labelling tools' exports: one reader a format, one way into point labels."""

from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.importers.registry import FORMATS
from fdd.points.importers.run import Imported, import_points

__all__ = ["FORMATS", "Imported", "RawImage", "RawPoint", "import_points"]

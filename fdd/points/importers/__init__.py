"""Points out of labelling tools' exports: one reader a format, one way into point labels."""

from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.importers.registry import FORMATS
from fdd.points.importers.run import ClassCount, Imported, import_points

__all__ = ["FORMATS", "ClassCount", "Imported", "RawImage", "RawPoint", "import_points"]

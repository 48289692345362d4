"""Points out of labelling tools' exports: one reader a format, one way into point labels."""

from fdd.points.importers.records import RawImage, RawPoint

__all__ = ["RawImage", "RawPoint"]

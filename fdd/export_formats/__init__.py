"""Dense labels as files for other programs: no model, no PyTorch."""

from fdd.export_formats.folder import ExportFolder, ExportSettingsError
from fdd.export_formats.formats import FORMATS, check_formats, write_formats, written_formats
from fdd.export_formats.panoptic_writer import Export, ExportedImage, panoptic_document, png_names
from fdd.export_formats.polygons import mask_polygon, mask_rings
from fdd.export_formats.segments import Instance, SegmentedImage, make_segments

__all__ = [
    "FORMATS",
    "Export",
    "ExportFolder",
    "ExportSettingsError",
    "ExportedImage",
    "Instance",
    "SegmentedImage",
    "check_formats",
    "make_segments",
    "mask_polygon",
    "mask_rings",
    "panoptic_document",
    "png_names",
    "write_formats",
    "written_formats",
]

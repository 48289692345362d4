"""Dense labels as files for other programs: no model, no PyTorch."""

from fdd.export_formats.folder import ExportFolder, ExportSettingsError
from fdd.export_formats.formats import (
    FORMATS,
    ExportFormat,
    check_formats,
    export_format_names,
    get_export_format,
    register_export_format,
    write_formats,
    written_formats,
)
from fdd.export_formats.panoptic import (
    Export,
    ExportedImage,
    Instance,
    SegmentedImage,
    make_segments,
    panoptic_document,
    png_names,
)
from fdd.export_formats.polygons import mask_polygon, mask_rings

__all__ = [
    "FORMATS",
    "Export",
    "ExportFolder",
    "ExportFormat",
    "ExportSettingsError",
    "ExportedImage",
    "Instance",
    "SegmentedImage",
    "check_formats",
    "export_format_names",
    "get_export_format",
    "make_segments",
    "mask_polygon",
    "mask_rings",
    "panoptic_document",
    "png_names",
    "register_export_format",
    "write_formats",
    "written_formats",
]

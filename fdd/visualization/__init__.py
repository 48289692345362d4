"""Pictures of points, pseudo labels and predictions, and the HTML report. Knows nothing of the
model.
"""

from fdd.visualization.curves import read_curves
from fdd.visualization.draw import (
    add_legend,
    draw_confidence,
    draw_instance_labels,
    draw_panoptic,
    draw_points,
    draw_semantic,
    expand_cells,
)
from fdd.visualization.palette import Palette, as_palette, instance_colors
from fdd.visualization.report import ReportText, write_report
from fdd.visualization.sheet import contact_sheet, flatten_points, make_panels, training_sheet

__all__ = [
    "Palette",
    "ReportText",
    "add_legend",
    "as_palette",
    "contact_sheet",
    "draw_confidence",
    "draw_instance_labels",
    "draw_panoptic",
    "draw_points",
    "draw_semantic",
    "expand_cells",
    "flatten_points",
    "instance_colors",
    "make_panels",
    "read_curves",
    "training_sheet",
    "write_report",
]

"""Numbered rules on points, images and masks: what ``fdd points check`` does, as functions.

No torch. The supervision audit, which runs the loader, is :mod:`fdd.audit.supervision`.
"""

from fdd.points.findings import RULES, Finding, Rule, select_rules
from fdd.points.format import read_point_file
from fdd.points.rules.check import CheckOptions, CheckResult, CheckTarget, check_data
from fdd.points.rules.fixes import fix_points, write_fixed
from fdd.points.rules.grid import Grid

__all__ = [
    "RULES",
    "CheckOptions",
    "CheckResult",
    "CheckTarget",
    "Finding",
    "Grid",
    "Rule",
    "check_data",
    "fix_points",
    "read_point_file",
    "select_rules",
    "write_fixed",
]

# Earlier names.
mend_labels, read_labels, write_labels = fix_points, read_point_file, write_fixed

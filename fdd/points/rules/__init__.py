"""Numbered rules on labels, images and masks: what ``fdd points check`` does, as functions.

No torch. The supervision audit, which runs the loader, is :mod:`fdd.audit.supervision`.
"""

from fdd.points.rules.check import CheckOptions, CheckResult, CheckTarget, check_data
from fdd.points.rules.finding import RULES, Finding, Rule, select_rules
from fdd.points.rules.fixes import mend_labels, write_labels
from fdd.points.rules.grid import Grid
from fdd.points.rules.point_file import read_labels

__all__ = [
    "RULES",
    "CheckOptions",
    "CheckResult",
    "CheckTarget",
    "Finding",
    "Grid",
    "Rule",
    "check_data",
    "mend_labels",
    "read_labels",
    "select_rules",
    "write_labels",
]

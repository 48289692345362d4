"""Numbered rules on labels, images and masks: what ``fdd points check`` does, as functions.

No torch. The supervision audit, which runs the loader, is :mod:`fdd.engine.supervision_audit`.
"""

from fdd.points.check_rules.cells import Grid
from fdd.points.check_rules.check import CheckOptions, CheckResult, CheckTarget, check_data
from fdd.points.check_rules.labels import read_labels
from fdd.points.check_rules.mending import mend_labels, write_labels
from fdd.points.check_rules.rules import RULES, Finding, Rule, select_rules

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

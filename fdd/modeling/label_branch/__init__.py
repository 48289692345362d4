"""From points to logits: query generator, pseudo label branch, auxiliary semantic branch."""

from fdd.modeling.label_branch.branch import BranchOutput, PseudoLabelBranch
from fdd.modeling.label_branch.criterion import LabelCriterion
from fdd.modeling.label_branch.location_prior import ExtentPrior, LocationPrior, Places
from fdd.modeling.label_branch.query_generator import QueryGenerator

__all__ = [
    "BranchOutput",
    "ExtentPrior",
    "LabelCriterion",
    "LocationPrior",
    "Places",
    "PseudoLabelBranch",
    "QueryGenerator",
]

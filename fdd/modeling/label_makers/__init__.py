"""Rules that make dense labels from points without learning, behind one interface."""

from .nearest import nearest_labels
from .polygon import polygon_labels
from .registry import LABEL_MAKERS, LabelMaker, get_label_maker

__all__ = ["LABEL_MAKERS", "LabelMaker", "get_label_maker", "nearest_labels", "polygon_labels"]

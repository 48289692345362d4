"""What makes dense labels from points, behind one interface: the learned branch, rules, masks."""

from .distance import distance_labels
from .dnn import dnn_labels
from .evidence import NETWORK_STRIDE, BatchEvidence, Evidence, as_rgb, network_maps
from .full import full_labels
from .learned import learned_labels, obedient_labels, prior_labels, probable_labels
from .nearest import nearest_labels
from .point import point_labels, square_owner
from .polygon import polygon_labels
from .registry import (
    SOURCES,
    LabelMaker,
    get_label_maker,
    label_maker_names,
    register_label_maker,
)
from .requirements import available_sources, check_label_makers
from .semantic_nearest import semantic_nearest_labels

__all__ = [
    "NETWORK_STRIDE",
    "SOURCES",
    "BatchEvidence",
    "Evidence",
    "LabelMaker",
    "as_rgb",
    "available_sources",
    "check_label_makers",
    "distance_labels",
    "dnn_labels",
    "full_labels",
    "get_label_maker",
    "label_maker_names",
    "learned_labels",
    "nearest_labels",
    "network_maps",
    "obedient_labels",
    "point_labels",
    "polygon_labels",
    "prior_labels",
    "probable_labels",
    "register_label_maker",
    "semantic_nearest_labels",
    "square_owner",
]

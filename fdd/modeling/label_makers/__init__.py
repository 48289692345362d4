"""What makes dense labels from points, behind one interface: the learned branch, rules, masks."""

from fdd.modeling.label_makers.distance import distance_labels
from fdd.modeling.label_makers.dnn import dnn_labels
from fdd.modeling.label_makers.evidence import (
    NETWORK_STRIDE,
    BatchEvidence,
    Evidence,
    as_rgb,
    network_maps,
)
from fdd.modeling.label_makers.full import full_labels
from fdd.modeling.label_makers.learned import (
    learned_labels,
    obedient_labels,
    prior_labels,
    probable_labels,
)
from fdd.modeling.label_makers.nearest import nearest_labels
from fdd.modeling.label_makers.point import point_labels, square_owner
from fdd.modeling.label_makers.polygon import polygon_labels
from fdd.modeling.label_makers.registry import (
    SOURCES,
    LabelMaker,
    get_label_maker,
    label_maker_names,
    register_label_maker,
)
from fdd.modeling.label_makers.requirements import available_sources, check_label_makers
from fdd.modeling.label_makers.semantic_nearest import semantic_nearest_labels

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

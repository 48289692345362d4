"""What makes dense labels from points, behind one interface: the learned branch, rules, masks."""

from fdd.modeling.label_makers.distance import distance_labels
from fdd.modeling.label_makers.dnn import dnn_labels
from fdd.modeling.label_makers.inputs import (
    NETWORK_STRIDE,
    BatchMakerInputs,
    MakerInputs,
    argmax_on_canvas,
    as_rgb,
    network_maps,
)
from fdd.modeling.label_makers.learned import (
    learned_labels,
    obedient_labels,
    prior_labels,
    probable_labels,
)
from fdd.modeling.label_makers.registry import (
    SOURCES,
    LabelMaker,
    available_sources,
    check_label_makers,
    get_label_maker,
    label_maker_names,
    register_label_maker,
)
from fdd.modeling.label_makers.rules import (
    full_labels,
    nearest_labels,
    point_labels,
    polygon_labels,
    semantic_nearest_labels,
    square_owner,
)

Evidence = MakerInputs  # its name in version 1, for annotations in makers of users

__all__ = [
    "NETWORK_STRIDE",
    "SOURCES",
    "BatchMakerInputs",
    "LabelMaker",
    "MakerInputs",
    "argmax_on_canvas",
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

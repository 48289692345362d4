"""Deep features and the nearest neighbour among the labelled ones ("D+NN")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fdd.modeling.label_makers.inputs import NETWORK_STRIDE, MakerInputs, argmax_on_canvas
from fdd.modeling.label_makers.registry import register_label_maker
from fdd.modeling.label_maps import resize_maps

# Points whose similarity to the whole image is in memory at a time.
_CHUNK = 64
# Below every mean of cosines: an instance without points.
_NONE = -2.0


@register_label_maker(needs={"features"})
@torch.no_grad()
def dnn_labels(inputs: MakerInputs) -> Tensor:
    """The instance with the point whose backbone features are most like those of the cell.

    The argmax over instances of the up-sampled :func:`instance_similarity`. The idea is that of
    Raine et al., "Human-in-the-Loop Segmentation of Multi-species Coral Imagery" (CVPR workshops
    2024), who label by the nearest feature of a self-supervised network; here with this model's
    backbone, centred features and several levels. Every cell of the image has a label; without
    points the map is -1.
    """
    count = len(inputs.classes) if len(inputs.index) else 0
    scores = instance_similarity(inputs)
    labels, _ = argmax_on_canvas(inputs, scores, inputs.valid_grid, count)
    return inputs.on_canvas(labels)


def instance_similarity(inputs: MakerInputs) -> Tensor:
    """Likeness of each stride-8 cell to the most similar point of each instance.

    Each backbone map, without padding, has its mean over the image taken off and each cell's vector
    scaled to length 1. A point's features are bilinear samples of these. The similarity of cell and
    point is the mean over the maps of the cosine, those of coarser maps resized to the finest grid.

    Returns:
        (N, h8, w8) float32 in [-1, 1] on the device of the features, without padding; -2 for an
        instance without points. At most N + 64 maps are in memory.
    """
    assert inputs.features is not None
    strides = [NETWORK_STRIDE << level for level in range(len(inputs.features))]
    maps = [
        _centred(inputs.valid_maps(features, stride).float())
        for features, stride in zip(inputs.features, strides, strict=True)
    ]
    down, across = inputs.scale
    coords = (inputs.coords / inputs.coords.new_tensor([across, down])).to(maps[0])
    points = [_sample(m, coords / stride) for m, stride in zip(maps, strides, strict=True)]
    index = inputs.index.to(coords.device, torch.long)
    grid = (maps[0].shape[1], maps[0].shape[2])
    scores = maps[0].new_full((len(inputs.classes), *grid), _NONE)
    for start in range(0, len(index), _CHUNK):
        part = slice(start, start + _CHUNK)
        similarity = scores.new_zeros(len(index[part]), *grid)
        for level, (features, point) in enumerate(zip(maps, points, strict=True)):
            cosine = torch.einsum("pc,chw->phw", point[part], features)
            factor = float(1 << level)
            similarity += resize_maps(cosine[None], grid, (factor, factor))[0] / len(maps)
        owner = index[part, None, None].expand_as(similarity)
        scores.scatter_reduce_(0, owner, similarity, "amax")
    return scores


def _centred(features: Tensor) -> Tensor:
    """(C, h, w) features minus their mean, as unit vectors."""
    return F.normalize(features - features.mean((1, 2), keepdim=True), dim=0)


def _sample(features: Tensor, cells: Tensor) -> Tensor:
    """(P, C) unit vectors at (P, 2) places (x, y) in cells, the map's edge continued."""
    size = cells.new_tensor([features.shape[2], features.shape[1]])
    places = (2 * cells / size - 1)[None, :, None]
    found = F.grid_sample(features[None], places, padding_mode="border", align_corners=False)
    return F.normalize(found[0, :, :, 0].T, dim=1)

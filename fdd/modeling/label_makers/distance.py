"""PSPS's traversing distance on this model's semantic branch: labels spread from the points over
places that look alike (Fan et al., ECCV 2022)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from fdd.modeling.label_makers.inputs import NETWORK_STRIDE, MakerInputs
from fdd.modeling.label_makers.registry import register_label_maker
from fdd.modeling.label_makers.rules import square_owner
from fdd.modeling.label_maps import resize_maps
from fdd.modeling.losses.color_prior import half_plane_offsets, pair_windows, rgb_to_lab

# PSPS's nodes are 16 px apart in images of this short side; smaller images have as many, as far as
# the network's own cells allow.
_NODE_STRIDE, _REFERENCE = 16, 600
# Below this probability of its class, stuff is left without a label.
_MIN_STUFF = 0.5
_CHUNK = 16


@register_label_maker(needs={"semantic", "image"}, wants={"embedding"})
@torch.no_grad()
def distance_labels(
    inputs: MakerInputs,
    *,
    class_weight: float = 1.0,
    edge_weight: float = 0.1,
    embedding_weight: float = 0.1,
) -> Tensor:
    """The instance that is near by the geodesic distance and of a likely class.

    p is the semantic branch's softmax, kept for the classes that have a point and raised to 1 in
    the points' squares. On nodes 16 px apart (nearer in images whose short side is below 600 px)
    each step between neighbours has a cost, see :func:`step_costs`; d_n is the cost of the cheapest
    way from a point of instance n, divided by the largest one of a thing (+ 1e-5) and up-sampled.
    Where the likeliest class is a thing (any one), the label is the thing with the largest
    (1 - d_n) c_n, c_n = p of its class + p of all stuff. Where it is stuff with p >= 0.5, it is the
    first instance of that class; elsewhere -1.

    p is evaluated at the centres of nodes and canvas cells, from up-sampled logits, instead of at
    full resolution and then resized.

    Args:
        inputs: needs ``semantic`` and ``image``; without ``embedding`` that term is left out.
        class_weight, edge_weight, embedding_weight: of the three parts of a step's cost.

    Raises:
        FloatingPointError: logits or embedding are not finite.
    """
    if len(inputs.index) == 0:
        return torch.full(inputs.grid, -1, dtype=torch.int32, device=inputs.coords.device)
    scene = _Scene(inputs)
    step = min(_NODE_STRIDE, max(NETWORK_STRIDE, _NODE_STRIDE * min(scene.size) / _REFERENCE))
    nodes = (max(1, int(scene.size[0] / step)), max(1, int(scene.size[1] / step)))
    weights = (class_weight, edge_weight, embedding_weight)
    distance = _distances(scene, nodes, weights).to(scene.logits)
    return inputs.on_canvas(_label(scene, distance))


class _Scene:
    """The maker's inputs without padding, measured in px of the network's input."""

    def __init__(self, inputs: MakerInputs):
        assert inputs.semantic is not None and inputs.image is not None
        height, width = inputs.image.shape[-2:]
        self.size = height, width
        self.logits = inputs.valid_maps(inputs.semantic).float()
        embedding = inputs.embedding
        self.embedding = None if embedding is None else inputs.valid_maps(embedding).float()
        self.image = inputs.image
        down, across = inputs.scale
        self.coords = inputs.coords / inputs.coords.new_tensor([across, down])
        self.side = inputs.square_side / min(down, across)
        self.canvas = inputs.valid_grid
        self.step = (inputs.stride[0] / down, inputs.stride[1] / across)
        self.index, self.classes = inputs.index, inputs.classes
        self.num_things = inputs.num_things
        self.point_class = inputs.classes[inputs.index]
        self.present = self.point_class.unique()

    def resize(self, maps: Tensor, grid: tuple[int, int], step: tuple[float, float]) -> Tensor:
        """(K, h8, w8) maps at the centres of a grid whose cells are ``step`` input px."""
        factor = NETWORK_STRIDE / step[0], NETWORK_STRIDE / step[1]
        return resize_maps(maps[None], grid, factor)[0]

    def probabilities(self, grid: tuple[int, int], step: tuple[float, float]) -> Tensor:
        """p of the classes in ``present``, (K, h, w) float32 in [0, 1]."""
        total = torch.full(grid, -torch.inf, device=self.logits.device)
        for part in self.logits.split(_CHUNK):  # a map at full size a class would be too much
            total = torch.logaddexp(total, self.resize(part, grid, step).logsumexp(0))
        present = self.present.to(self.logits.device)
        prob = (self.resize(self.logits[present], grid, step) - total).exp()
        labelled = square_owner(self.coords, self.point_class, grid, step, self.side)
        return prob.masked_fill(labelled.to(prob.device) == present[:, None, None], 1.0)


def _distances(
    scene: _Scene, nodes: tuple[int, int], weights: tuple[float, float, float]
) -> Tensor:
    """d of every instance at the nodes, (N, h, w) on the CPU; in [0, 1) for things."""
    step = scene.size[0] / nodes[0], scene.size[1] / nodes[1]
    embedding = None
    if scene.embedding is not None:
        embedding = scene.resize(scene.embedding, nodes, step).cpu()
    steps = step_costs(
        scene.probabilities(nodes, step).cpu(),
        image_edges(scene.image, nodes),
        embedding,
        weights,
    )
    place = np.floor(scene.coords.cpu().double().numpy()[:, ::-1] / step).astype(np.int64)
    row, column = np.clip(place, 0, np.array(nodes) - 1).T
    raw = traversing_distances(
        steps, nodes, row * nodes[1] + column, scene.index.cpu().numpy(), len(scene.classes)
    )
    things = (scene.classes < scene.num_things).cpu().numpy()
    return torch.from_numpy(raw / (raw[things].max(initial=0) + 1e-5))


def _places(scene: _Scene) -> Tensor:
    """Centres of the canvas' cells as grid_sample takes them: the nodes' grid covers the image
    exactly. (F.interpolate ignores the scale and copies where both grids have one size.)"""
    y, x = (
        (torch.arange(n) + 0.5) * step / side * 2 - 1
        for n, step, side in zip(scene.canvas, scene.step, scene.size, strict=True)
    )
    return torch.stack(torch.broadcast_tensors(x[None], y[:, None]), 2)[None]


def _label(scene: _Scene, distance: Tensor) -> Tensor:
    """Instance map on the valid part of the canvas, int32."""
    prob = scene.probabilities(scene.canvas, scene.step)
    present = scene.present.tolist()
    channel = {label: k for k, label in enumerate(present)}
    stuff = torch.zeros_like(prob[0])
    for label, p in zip(present, prob, strict=True):
        if label >= scene.num_things:
            stuff = stuff + p
    top, likeliest = prob.max(0)
    best = torch.full_like(stuff, -torch.inf)
    nearest = torch.full_like(likeliest, -1)
    first = torch.full((len(present),), -1, dtype=likeliest.dtype)
    places = _places(scene).to(distance)
    for n, label in enumerate(scene.classes.tolist()):
        if label not in channel:
            continue  # no instance of the class has a point
        if label >= scene.num_things:
            if first[channel[label]] < 0:
                first[channel[label]] = n
            continue
        far = F.grid_sample(
            distance[n][None, None], places, padding_mode="border", align_corners=False
        )
        near = 1 - far[0, 0]
        score = near * (prob[channel[label]] + stuff)
        nearest = torch.where(score > best, n, nearest)
        best = torch.maximum(best, score)
    is_stuff = torch.tensor([label >= scene.num_things for label in present])
    of_stuff = first.to(likeliest.device)[likeliest].masked_fill(top < _MIN_STUFF, -1)
    return torch.where(is_stuff.to(likeliest.device)[likeliest], of_stuff, nearest).int()


# Edge costs and geodesic distances on the pixel grid.

#: Distance of everything from an instance without points.
UNREACHED = 10.0
# Nodes at the border whose edges, made by padding, do not decide what a strong edge is.
_FRAME = 5


@torch.no_grad()
def image_edges(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """Strength of the colour edges at the nodes, as a share of the strongest one.

    Mean over the three LAB channels and both directions of the squared Sobel response (zero
    padding), divided by its maximum off the border, five nodes wide where the grid has room.

    Args:
        image: (3, H, W) RGB in [0, 255].
        grid: (h, w) nodes that cover the image.

    Returns:
        (h, w) float32 in [0, 1] on the CPU.
    """
    small = F.interpolate(image[None].cpu().float(), grid, mode="bilinear", align_corners=False)
    lab = F.pad(rgb_to_lab(small / 255)[0], (1, 1, 1, 1))
    rows, columns = lab[:, 2:] - lab[:, :-2], lab[..., 2:] - lab[..., :-2]
    down = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    across = columns[:, :-2] + 2 * columns[:, 1:-1] + columns[:, 2:]
    strength = (down.square().sum(0) + across.square().sum(0)) / 6
    inner_rows, inner_columns = (
        slice(frame, side - frame) for side in grid for frame in [min(_FRAME, (side - 1) // 2)]
    )
    strongest = strength[inner_rows, inner_columns].max()
    # The rounding error of a grey image's LAB is not an edge.
    return (strength / strongest.clamp(min=1e-6)).clamp(max=1)


def step_costs(
    prob: Tensor,
    edges: Tensor,
    embedding: Tensor | None = None,
    weights: tuple[float, float, float] = (1.0, 0.1, 0.1),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The directed steps from each node to its (up to) eight neighbours.

    A step from i to j costs w_1 sum_c |p_c(i) - p_c(j)| + w_2 E(j) + w_3 max(0, 1 - f_i . f_j),
    a diagonal one no more than a straight one.

    Args:
        prob: (C, h, w) float p.
        edges: (h, w) float E.
        embedding: (D, h, w) float f; None leaves its term out.
        weights: w_1 to w_3.

    Returns:
        First node, second node (int64, row * w + column) and cost (float64, >= 0) of every step.

    Raises:
        FloatingPointError: ``prob`` or ``embedding`` is not finite.
    """
    maps = [prob] if embedding is None else [prob, embedding]
    if not all(bool(m.isfinite().all()) for m in maps):
        raise FloatingPointError(
            "the semantic probabilities or embeddings that label maker 'distance' walks over are "
            "not finite"
        )
    height, width = edges.shape
    node = torch.arange(height * width).view(height, width)
    first, second, costs = [], [], []
    for dy, dx in half_plane_offsets(3, 1):
        i, j = pair_windows(height, width, dy, dx)
        both = weights[0] * (prob[:, i[0], i[1]] - prob[:, j[0], j[1]]).abs().sum(0)
        if embedding is not None:
            alike = (embedding[:, i[0], i[1]] * embedding[:, j[0], j[1]]).sum(0)
            both = both + weights[2] * (1 - alike).clamp(min=0)
        for start, end in ((i, j), (j, i)):
            first.append(node[start].flatten())
            second.append(node[end].flatten())
            costs.append((both + weights[1] * edges[end]).flatten())
    return (
        torch.cat(first).numpy(),
        torch.cat(second).numpy(),
        torch.cat(costs).double().numpy(),
    )


def traversing_distances(
    steps: tuple[np.ndarray, np.ndarray, np.ndarray],
    grid: tuple[int, int],
    nodes: np.ndarray,
    owner: np.ndarray,
    count: int,
) -> np.ndarray:
    """Cheapest way from any point of each instance to every node.

    One search with all points of an instance as starts: the minimum over one search a point.

    Args:
        steps: of :func:`step_costs`.
        grid: (h, w) nodes.
        nodes: (P,) int node of each point. owner: (P,) int its instance.
        count: N, instances.

    Returns:
        (N, h, w) float64; :data:`UNREACHED` everywhere for an instance without points.
    """
    first, second, costs = steps
    total = grid[0] * grid[1]
    # Steps that cost nothing are stored zeros, which csgraph takes for edges.
    graph = coo_matrix((costs, (first, second)), shape=(total, total)).tocsr()
    out = np.full((count, *grid), UNREACHED)
    for instance in np.unique(owner):
        starts = np.unique(nodes[owner == instance])
        out[instance] = dijkstra(graph, directed=True, indices=starts, min_only=True).reshape(grid)
    return out

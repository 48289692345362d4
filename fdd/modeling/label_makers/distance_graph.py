"""What it costs to walk over an image, and how far every place is from an instance's points."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from fdd.modeling.losses.color_prior import half_plane_offsets, pair_windows, rgb_to_lab

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
    # The rounding error of a grey image's LAB is no edge.
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

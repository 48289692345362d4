"""Labels that obey their clicks: a smooth addition to the logits. Ours, not the paper's.

An estimate may contradict a point. Where it does, the logits of the point's instance are raised
around the point, over what looks like the place of the click and is near it. For a point c of
instance n with the margin

    m_c = max(0, 1 + max over the other instances k of z_k(c) - z_n(c)),

cut at a largest value, z_n grows by the maximum over n's points of m_c K_c,

    K_c(i) = exp(-(1 - cos(f_i, f_c)) / tau) exp(-|i - c|^2 / (2 sigma_c^2)),

f the encoder's stride-8 tokens, K_c scaled to 1 at the click. sigma_c is a share of the image's
diagonal, but at most half the way to the nearest point of another instance, and at least half a
cell. A few rounds, since clicks of different instances may push each other. Nothing here has a
gradient: the losses see the logits without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from fdd.modeling.label_maps import POINT_STRIDE, valid_cells
from fdd.modeling.layers import Memory
from fdd.modeling.structures import PointBatch

# Values of (points x points) of an image, of (points x instances), and of what a round adds to
# (points x cells), that exist at a time: on the CPU no more than stay in its cache.
_CHUNK_VALUES = 1 << 22
_CPU_CHUNK_VALUES = 1 << 17


@dataclass(frozen=True)
class ClickSettings:
    """``MODEL.FDD.CLICKS``.

    Attributes:
        tau: how unlike the click a place may look: the kernel falls to 1/e at cosine 1 - tau.
        sigma: width of the kernel, a share of the image's diagonal.
        max_margin: largest m_c of a round, in units of the logits.
        rounds: at most so many.
        center: compare features minus their mean over the image; raw cosines are all near 1.
    """

    tau: float = 0.5
    sigma: float = 0.08
    max_margin: float = 10.0
    rounds: int = 5
    center: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ClickSettings | None:
        """None where the config has the residual off."""
        clicks = cfg.MODEL.FDD.CLICKS
        if not clicks.RESIDUAL:
            return None
        return cls(clicks.TAU, clicks.SIGMA, clicks.MAX_MARGIN, clicks.ROUNDS, clicks.CENTER)


@dataclass(frozen=True)
class Clicks:
    """The points of a batch, and what their kernels are made of.

    Attributes:
        image, instance: (P,) int64.
        place: (P, 2) float32 (x, y) in cells: the centre of the first cell is 0.5.
        sigma: (P,) float32 in cells.
        features: (B, h, w, D) float32 unit vectors.
        cells: (B, 2) int64, rows and columns of each image without padding.
        counts: points of each image, which lie one image after the other.
        real: (B, N) bool, instances that are there.
    """

    image: Tensor
    instance: Tensor
    place: Tensor
    sigma: Tensor
    features: Tensor
    cells: Tensor
    counts: list[int]
    real: Tensor

    def of(self, chosen: Tensor) -> Clicks:
        """Some of the points, by their ascending indices (K,) on the host."""
        counts = torch.bincount(self.image[chosen], minlength=len(self.counts)).tolist()
        points = {k: getattr(self, k)[chosen] for k in ("image", "instance", "place", "sigma")}
        return replace(self, counts=counts, **points)


@torch.no_grad()
def gather_clicks(
    points: PointBatch,
    memory: Memory,
    image_sizes: list[tuple[int, int]],
    settings: ClickSettings,
    features: Tensor | None = None,
) -> Clicks:
    """The inputs of :func:`click_residual`.

    Args:
        points: of the batch.
        memory: encoder output of the same images.
        image_sizes: un-padded (H, W) of each image in px.
        features: of :func:`click_features`, where they are known already.
    """
    valid = valid_cells(image_sizes, POINT_STRIDE, memory.shapes[0], memory.tokens.device)
    if features is None:
        features = click_features(memory, image_sizes, settings)
    place = points.coords / POINT_STRIDE
    widest = settings.sigma * points.diagonals[points.point_image] / POINT_STRIDE
    counts = [len(index) for _, index in points.host_points]
    other = nearest_other(place, points.point_instance, counts)
    return Clicks(
        image=points.point_image,
        instance=points.point_instance,
        place=place,
        sigma=torch.minimum(widest, other / 2).clamp(min=0.5),
        features=features,
        cells=torch.stack([valid[:, :, 0].sum(1), valid[:, 0].sum(1)], 1),
        counts=counts,
        real=points.classes >= 0,
    )


@torch.no_grad()
def click_features(
    memory: Memory, image_sizes: list[tuple[int, int]], settings: ClickSettings
) -> Tensor:
    """What places look like, (B, h, w, D) float32 unit vectors: of :class:`Clicks`."""
    grid = memory.shapes[0]
    tokens = memory.tokens[:, : grid[0] * grid[1]].float().unflatten(1, grid)
    if settings.center:
        inside = valid_cells(image_sizes, POINT_STRIDE, grid, tokens.device)[..., None]
        total = (tokens * inside).sum((1, 2), keepdim=True)
        tokens = tokens - total / inside.sum((1, 2), keepdim=True)
    return F.normalize(tokens, dim=-1)


def rows_at_once(columns: int, device: torch.device) -> int:
    """How many rows of so many values should exist at a time."""
    values = _CPU_CHUNK_VALUES if device.type == "cpu" else _CHUNK_VALUES
    return max(1, values // max(1, columns))


def nearest_other(place: Tensor, instance: Tensor, counts: list[int]) -> Tensor:
    """Distance of each point to the nearest point of another instance of its image.

    Args:
        place: (P, 2) float, the points of one image after the other.
        instance: (P,) int64, within the image.
        counts: points of each image.

    Returns:
        (P,) in units of ``place``; inf where the image has no other instance.
    """
    squares = [place.new_zeros(0)]
    for mine, owner in zip(place.split(counts), instance.split(counts), strict=True):
        x, y = (side.contiguous() for side in mine.unbind(1))
        rows = rows_at_once(len(owner), place.device)
        for across, down, own in zip(x.split(rows), y.split(rows), owner.split(rows), strict=True):
            square = (across[:, None] - x).square_()
            square += (down[:, None] - y).square_()
            square.masked_fill_(own[:, None] == owner, torch.inf)
            # An image without points has no column to look at.
            squares.append(square.amin(1) if len(x) else x)
    return torch.cat(squares).sqrt_()


@torch.no_grad()
def click_residual(at_points: Tensor, clicks: Clicks, settings: ClickSettings) -> Tensor:
    """The addition to the logits, on the stride-8 grid.

    On the CPU, kernels are made only of the points that are lost, most being held.

    Args:
        at_points: (P, N) float logits at the points, such as :func:`sample_cells` of the last
            layer's; anything up to a constant a point (log-probabilities) will do.
        clicks: of :func:`gather_clicks`.

    Returns:
        (B, N, h, w) float32, at least 0; 0 everywhere in an image with one instance. Padding
        continues the image's edge.
    """
    batch, height, width = clicks.features.shape[:3]
    most = clicks.real.shape[1]
    residual = torch.zeros(batch * most, height * width, device=clicks.features.device)
    maps = residual.view(batch, most, height, width)
    if len(clicks.image) == 0:
        return maps
    step = rows_at_once(height * width, residual.device)
    owner = (clicks.image * most + clicks.instance)[:, None]
    on_host = residual.device.type == "cpu"
    kernels = torch.zeros(0, height * width) if on_host else _kernels(clicks, settings.tau)
    made = torch.full((len(owner),), not on_host, device=owner.device)
    rows = (
        torch.zeros(0, dtype=torch.long)
        if on_host
        else torch.arange(len(owner), device=owner.device)
    )
    # A point that is held may be lost to what a neighbour gained: every round looks at all.
    for number in range(settings.rounds):
        margin = _margins(at_points, maps if number else None, clicks)
        margin = margin.clamp(max=settings.max_margin)
        if on_host:
            # Only a host looks what there is to do, most points being held; a device would be
            # waited for.
            if not bool(margin.any()):
                break
            more = ((margin > 0) & ~made).nonzero().flatten()
            if len(more):
                kernels = torch.cat([kernels, _kernels(clicks.of(more), settings.tau)])
                made[more], rows = True, torch.cat([rows, more])
        grown = torch.zeros_like(residual)
        for kernel, mine in zip(kernels.split(step), rows.split(step), strict=True):
            row, m = owner[mine].expand_as(kernel), margin[mine, None]
            grown.scatter_reduce_(0, row, kernel * m, "amax")
        residual += grown
    return _continue_edges(maps, clicks)


def _continue_edges(maps: Tensor, clicks: Clicks) -> Tensor:
    rows, columns = (
        torch.minimum(torch.arange(n, device=maps.device), clicks.cells[:, axis, None] - 1)
        for axis, n in enumerate(maps.shape[2:])
    )
    maps = maps.gather(2, rows[:, None, :, None].expand_as(maps))
    return maps.gather(3, columns[:, None, None].expand_as(maps))


def _margins(at_points: Tensor, added: Tensor | None, clicks: Clicks) -> Tensor:
    """m_c, (P,) >= 0; 0 where an image has one instance.

    Args:
        at_points: (P, N). added: (B, N, h, w) maps that are added to it; None: nothing yet.
    """
    step = rows_at_once(at_points.shape[1], at_points.device)
    cells = None if added is None else _by_cell(added)
    points = (at_points, clicks.image, clicks.instance, clicks.place)
    margins = []
    for own_logits, image, instance, place in zip(*(x.split(step) for x in points), strict=True):
        logits = own_logits.float()
        if cells is not None:
            logits = logits + _sample(cells, image, place, clicks)
        own = logits.gather(1, instance[:, None])
        rivals = logits.masked_fill(~clicks.real[image], -torch.inf)
        best = rivals.scatter_(1, instance[:, None], -torch.inf).amax(1)
        margins.append((1 + best - own[:, 0]).clamp_(min=0))
    return torch.cat(margins)


def _kernels(clicks: Clicks, tau: float) -> Tensor:
    """K_c of all points on their images' grids, (P, h * w), 1 at the click."""
    height, width = clicks.features.shape[1:3]
    image, place = clicks.image, clicks.place
    y = torch.arange(height, device=place.device) + 0.5 - place[:, 1:]
    x = torch.arange(width, device=place.device) + 0.5 - place[:, :1]
    # The exponents first, and one exponential of their sum.
    spread = -2 * clicks.sigma.square()[:, None]
    y, x = y.square().div_(spread).sub_(1 / tau), x.square().div_(spread)
    kernel = y[:, :, None] + x[:, None]
    features = clicks.features
    at_click = F.normalize(
        _interpolate(place, clicks.cells[image], lambda v, u: features[image, v, u]), dim=-1
    )
    for mine, vectors, grid in zip(
        kernel.flatten(1).split(clicks.counts), at_click.split(clicks.counts), features, strict=True
    ):
        mine.addmm_(vectors, grid.flatten(0, 1).T, alpha=1 / tau)
    kernel.exp_()
    rows = torch.arange(len(image), device=place.device)
    centre = _interpolate(place, clicks.cells[image], lambda v, u: kernel[rows, v, u])
    return kernel.div_(centre[:, None, None]).flatten(1)


def sample_cells(maps: Tensor, clicks: Clicks) -> Tensor:
    """(B, N, h, w) maps at the clicks, (P, N), as their bilinear up-sampling has them."""
    return _sample(_by_cell(maps), clicks.image, clicks.place, clicks)


def _by_cell(maps: Tensor) -> Tensor:
    """(B, h, w, N): what a place has of all maps lies side by side."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _sample(cells: Tensor, image: Tensor, place: Tensor, clicks: Clicks) -> Tensor:
    return _interpolate(place, clicks.cells[image], lambda v, u: cells[image, v, u])


def _interpolate(place: Tensor, cells: Tensor, at: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Values at the four cells around each place, weighted; beyond the outer centres the edge.

    Args:
        place: (P, 2) float (x, y) in cells. cells: (P, 2), valid rows and columns.
        at: row and column, (P,) each -> (P, ...) values.
    """
    last = cells.flip(1) - 1
    low = torch.minimum((place - 0.5).clamp(min=0), last)
    first = low.floor().long()
    (left, top), (right, bottom) = first.unbind(1), torch.minimum(first + 1, last).unbind(1)
    x, y = (low - first).unbind(1)
    corner = at(top, left)
    x, y = (n.view(-1, *[1] * (corner.dim() - 1)) for n in (x, y))
    upper = torch.lerp(corner, at(top, right), x)
    lower = torch.lerp(at(bottom, left), at(bottom, right), x)
    return torch.lerp(upper, lower, y)

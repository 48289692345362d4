"""The learned labels of several views of an image, averaged over scales and mirrored copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fdd.modeling.label_branch import ExtentPrior
from fdd.modeling.label_makers import NETWORK_STRIDE, as_rgb, network_maps
from fdd.modeling.label_maps import keep_points, resize_maps, upsampled_argmax
from fdd.modeling.pseudo_labels.click_residual import Clicks, click_residual, gather_clicks
from fdd.modeling.pseudo_labels.estimation import LabelSettings, clear_void, forced_points
from fdd.modeling.refinement import HeldPoints, refine_maps, refined_size
from fdd.modeling.structures import batch_points

__all__ = ["AveragedLabel", "LabelView", "average_views", "estimate_averaged"]

# Maps at the original size that are in memory at a time.
_CHUNK = 16
# Below this a mean probability counts as this: its logarithm stays finite in float32.
_LEAST = 1e-30
# Probabilities at single pixels that are in memory at a time: 32 MiB.
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class AveragedLabel:
    """The label of an image at its original size, on the CPU.

    Attributes:
        label: (H, W) int32 instance index, -1 where there is none.
        probability: (H, W) float32 in [0, 1], of that instance among those of the image; where
            there is no label, the largest one.
    """

    label: Tensor
    probability: Tensor


@dataclass(frozen=True)
class LabelView:
    """The logits of one view, and how it lies over the original image.

    Attributes:
        logits: (N, h, w) float of the instances at stride 8 of the padded input, N >= 1; without
            what is by ``extents``.
        factor: original pixels a cell, (y, x).
        flipped: the input was mirrored left to right.
        forced: (H, W) integer instance in whose point's own cell an original pixel lies, else -1;
            None where points are not forced.
        clicks: of the image, for the residual; None where labels need not obey their points, or
            obey them by force.
        image: (3, H', W') RGB in [0, 255], the input without padding, the original way round; for
            refined labels.
        extents: of the instances, in original pixels (mirrored where the view is): the part of the
            logits that is not up-sampled; None where there is none.
    """

    logits: Tensor
    factor: tuple[float, float]
    flipped: bool
    forced: Tensor | None = None
    clicks: Clicks | None = None
    image: Tensor | None = None
    extents: ExtentPrior | None = None

    def over(self, scale: tuple[float, float]) -> LabelView:
        """The same view over a grid with ``scale`` (y, x) cells an original pixel."""
        factor = (self.factor[0] * scale[0], self.factor[1] * scale[1])
        extents = None if self.extents is None else self.extents.scaled(scale)
        return replace(self, factor=factor, extents=extents)

    def resize(self, channels: slice, out_size: tuple[int, int]) -> Tensor:
        """(K, H, W) logits at the original size, the original way round."""
        maps = resize_maps(self.logits[None, channels].float(), out_size, self.factor)[0]
        if self.extents is not None:
            maps = maps + self.extents[channels].on_grid(out_size, (1.0, 1.0))
        return maps.flip(-1) if self.flipped else maps

    def resize_other(self, maps: Tensor, channels: slice, out_size: tuple[int, int]) -> Tensor:
        """The same of other maps of the view, (N, h, w)."""
        maps = resize_maps(maps[None, channels].float(), out_size, self.factor)[0]
        return maps.flip(-1) if self.flipped else maps

    def sample(self, rows: Tensor, columns: Tensor, width: int) -> Tensor:
        """(N, P) float64 logits at pixels of the original (rows and columns from 0; between pixels,
        too), as :meth:`resize` has them, up to rounding."""
        columns = width - 1 - columns if self.flipped else columns
        (top, bottom, y), (left, right, x) = (
            _neighbours(place.to(self.logits.device), factor, cells)
            for place, factor, cells in zip(
                (rows, columns), self.factor, self.logits.shape[1:], strict=True
            )
        )
        maps = self.logits.double()
        upper = torch.lerp(maps[:, top, left], maps[:, top, right], x)
        lower = torch.lerp(maps[:, bottom, left], maps[:, bottom, right], x)
        sampled = torch.lerp(upper, lower, y)
        if self.extents is None:
            return sampled
        across, down = ((place.to(maps) + 0.5) for place in (columns, rows))
        return sampled + self.extents.logits(across, down)


def _neighbours(place: Tensor, factor: float, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells before and after the centre of each pixel, (P,) int64, and the weight of the latter."""
    position = ((place.double() + 0.5) / factor - 0.5).clamp(min=0)
    before = position.floor().long().clamp(max=cells - 1)
    return before, (before + 1).clamp(max=cells - 1), position - position.floor()


@torch.no_grad()
def estimate_averaged(
    model: Any, views: Sequence[Sequence[dict[str, Any]]], flipped: Sequence[bool]
) -> list[AveragedLabel]:
    """Labels by the pseudo label branch, its probabilities averaged over views of the images.

    With one view that is not mirrored, the label is ``learned`` of ``FDD.estimate_labels``; with
    the residual of the clicks up to the rounding of probabilities.

    Args:
        model: with a pseudo label branch, in evaluation mode.
        views: mapper outputs; ``views[v][i]`` is view v of image i. The views of an image have the
            same instances in the same order, and ``height`` and ``width`` of the original.
        flipped: which views are mirrored left to right. Points are forced in the cells of the first
            view of either kind; the residual of the clicks is that of the first view.

    Returns:
        One label an image.
    """
    settings: LabelSettings = model.label_settings
    per_view = [_batch_views(model, batch, f) for batch, f in zip(views, flipped, strict=True)]
    sizes = [(int(x["height"]), int(x["width"])) for x in views[0]]
    counts = [len(x["classes"]) for x in views[0]]
    images = zip(*per_view, strict=True)
    averaged = [
        average_views(list(image), size, count, settings)
        for image, size, count in zip(images, sizes, counts, strict=True)
    ]
    return [
        replace(found, label=clear_void(found.label, x))
        for found, x in zip(averaged, views[0], strict=True)
    ]


def _batch_views(model: Any, batch: Sequence[dict[str, Any]], flipped: bool) -> list[LabelView]:
    images = model.preprocess(batch)
    points = batch_points(list(batch), tuple(images.tensor.shape[-2:]), model.device)
    memory = model.encode(images)
    output = model.estimate_final(memory, points)
    settings: LabelSettings = model.label_settings
    views = []
    for i, (x, size) in enumerate(zip(batch, images.image_sizes, strict=True)):
        out_size, size = (int(x["height"]), int(x["width"])), (int(size[0]), int(size[1]))
        scale = (out_size[0] / size[0], out_size[1] / size[1])
        maps = network_maps(output, i, len(x["classes"]))
        if maps.get("instance") is None:
            raise ValueError(
                "labels can be averaged over views only where a pseudo label branch makes them "
                "(MODEL.FDD.LABEL_MAKER 'learned')"
            )
        factor = (NETWORK_STRIDE * scale[0], NETWORK_STRIDE * scale[1])
        forced = clicks = None
        if settings.force_points:
            forced = forced_points(x, size, out_size, scale)
            forced = forced.flip(-1) if flipped else forced
        elif settings.clicks is not None:
            alone = batch_points([x], tuple(images.tensor.shape[-2:]), model.device)
            clicks = gather_clicks(alone, memory.repeat(i, 1), [size], settings.clicks)
        image = as_rgb(x["image"], settings.image_format) if settings.refine else None
        image = image.flip(-1) if image is not None and flipped else image
        logits, extents = maps["instance"], maps["extents"]
        if extents is not None:
            logits, extents = extents.without(logits), extents.scaled(scale)
        views.append(LabelView(logits, factor, flipped, forced, clicks, image, extents))
    return views


@torch.no_grad()
def average_views(
    views: Sequence[LabelView], out_size: tuple[int, int], count: int, settings: LabelSettings
) -> AveragedLabel:
    """Argmax of the mean probability of one image's views, with the residual of the clicks or the
    points' own cells, where it is asked for.

    The probability is the mean without residual. Where labels are refined, the mean is, by the
    colours of the first view.

    Args:
        views: of the image.
        out_size: (H, W) of the original.
        count: N instances.
        settings: labels of a mean probability below ``min_prob`` are left out, but for forced
            points.
    """
    if count == 0:
        empty = torch.full(out_size, -1, dtype=torch.int32)
        return AveragedLabel(empty, torch.zeros(out_size))
    probable = list(views)  # whose mean the probabilities are
    if settings.refine:
        refined, free, top, likeliest = _refined(views, out_size, count, settings)
        probable = [refined]
    elif len(views) == 1 and not views[0].flipped and views[0].clicks is None:
        view = views[0]
        added = None
        if view.extents is not None:
            added = view.extents[None].to_add(out_size, (1.0, 1.0))
        best, prob = upsampled_argmax(
            view.logits[None], out_size, [count], scale=view.factor, added=added
        )
        assert prob is not None
        free, top = best[0].cpu(), prob[0].cpu()
        likeliest = top
    else:
        residual = _residual(views, out_size, settings)
        free, top, likeliest = _Mean(views, out_size, count).argmax(residual)
    doubtful = likeliest < settings.min_prob
    free, top = free.masked_fill(doubtful, -1), torch.where(doubtful, likeliest, top)
    label, clicks = free, views[0].clicks
    if clicks is not None:  # the pixels of the clicks that the residual could not win
        coords, factor = _click_coords(views[0], clicks, out_size[1]), views[0].factor
        image, instance = clicks.image.cpu(), clicks.instance.cpu()
        label = keep_points(free[None], image, instance, coords, factor, [out_size])[0][0]
    forced = _forced(views, out_size)
    label = torch.where(forced >= 0, forced.int(), label)
    overruled = label != free
    if bool(overruled.any()):
        rows, columns = overruled.nonzero(as_tuple=True)
        top = top.clone()
        top[rows, columns] = _mean_at(probable, rows, columns, label[overruled].long(), out_size[1])
    return AveragedLabel(label, top)


def _refined(
    views: Sequence[LabelView], out_size: tuple[int, int], count: int, settings: LabelSettings
) -> tuple[LabelView, Tensor, Tensor, Tensor]:
    """The mean as a single view, refined; and as :meth:`_Mean.argmax` of it: label, its probability
    and the largest one, (H, W) each."""
    image = views[0].image
    if image is None:
        raise ValueError("labels are refined by the image's colours, and the view has no image")
    grid = refined_size(image)
    down, across = (cells / side for cells, side in zip(grid, out_size, strict=True))
    # The same views over the refined maps' grid instead of the original image.
    small = [view.over((down, across)) for view in views]
    everyone = slice(0, count)
    mean = _Mean(small, grid, count).of(everyone).clamp(min=_LEAST).log().cpu()
    maps = refine_maps(mean, image)
    view = LabelView(maps, (1 / down, 1 / across), flipped=False)
    [free], prob = upsampled_argmax(maps[None], out_size, [count])
    assert prob is not None
    residual = _residual(small, grid, settings)
    first, clicks = small[0], views[0].clicks
    if residual is None or clicks is None:
        return view, free, prob[0], prob[0]
    pixels = torch.tensor([image.shape[2] / grid[1], image.shape[1] / grid[0]])
    points = HeldPoints(_click_coords(first, clicks, grid[1]) * pixels, clicks.instance.cpu())
    obeying = refine_maps(mean + residual(everyone).cpu(), image, points)
    [label], _ = upsampled_argmax(obeying[None], out_size, [count], return_prob=False)
    top, differs = prob[0].clone(), label != free
    rows, columns = differs.nonzero(as_tuple=True)
    if len(rows):
        top[differs] = _mean_at([view], rows, columns, label[differs].long(), out_size[1])
    return view, label, top, prob[0]


def _click_coords(view: LabelView, clicks: Clicks, width: int) -> Tensor:
    """(P, 2) float (x, y) of the clicks in original pixels, the original way round."""
    coords = clicks.place.cpu() * torch.tensor([view.factor[1], view.factor[0]])
    if view.flipped:
        coords[:, 0] = width - coords[:, 0]
    return coords


def _by_scale(views: Sequence[LabelView]) -> list[list[LabelView]]:
    """Views of one scale together. They are added first: then a sum does not depend on which of
    the two is the mirrored one, and a mirrored image has exactly the mirrored label."""
    pairs: dict[tuple[float, float], list[LabelView]] = {}
    for view in views:
        pairs.setdefault(view.factor, []).append(view)
    return list(pairs.values())


def _mean_at(
    views: Sequence[LabelView], rows: Tensor, columns: Tensor, instances: Tensor, width: int
) -> Tensor:
    """Mean probability of an instance at each of some pixels, (P,) float32 on the CPU.

    In float64, so that the result does not depend on which pixels are computed side by side.
    """
    parts = []
    step = max(1, _CHUNK_VALUES // len(views[0].logits))
    pixels = (rows, columns, instances)
    for row, column, instance in zip(*(t.split(step) for t in pixels), strict=True):
        parts.append(_mean_of_all(views, row, column, width).gather(0, instance[None])[0])
    return torch.cat(parts).clamp(max=1).float()


def _mean_of_all(views: Sequence[LabelView], rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Mean probabilities at some pixels, (N, P) float64 on the CPU."""
    total: Tensor | None = None
    for pair in _by_scale(views):
        of_pair: Tensor | None = None
        for view in pair:
            prob = view.sample(rows, columns, width).softmax(0).cpu()
            of_pair = prob if of_pair is None else of_pair + prob
        assert of_pair is not None
        total = of_pair if total is None else total + of_pair
    assert total is not None
    return total / len(views)


def _residual(
    views: Sequence[LabelView], out_size: tuple[int, int], settings: LabelSettings
) -> Callable[[slice], Tensor] | None:
    """The residual of the clicks on the mean of the views: of some instances, at the original size.

    Its maps are those of the first view.
    """
    first = views[0]
    if first.clicks is None or settings.clicks is None:
        return None
    columns, rows = (_click_coords(first, first.clicks, out_size[1]) - 0.5).unbind(1)
    mean = _mean_of_all(views, rows, columns, out_size[1])
    at_points = mean.clamp(min=_LEAST).log().T.to(first.logits)
    maps = click_residual(at_points, first.clicks, settings.clicks)[0]
    return lambda part: first.resize_other(maps, part, out_size)


def _forced(views: Sequence[LabelView], out_size: tuple[int, int]) -> Tensor:
    """Instance by its points' cells, (H, W), else -1; -1 where two views disagree."""
    first = {view.flipped: view.forced for view in reversed(views) if view.forced is not None}
    if not first:
        return torch.full(out_size, -1)
    forced, *others = first.values()
    for other in others:
        disagree = (forced >= 0) & (other >= 0) & (forced != other)
        forced = torch.maximum(forced, other).masked_fill(disagree, -1)
    return forced


class _Mean:
    """Mean over views of the softmax of the up-sampled logits, a few instances at a time."""

    def __init__(self, views: Sequence[LabelView], out_size: tuple[int, int], count: int) -> None:
        self.out_size, self.count = out_size, count
        self.pairs = [[(v, self._log_sum(v)) for v in pair] for pair in _by_scale(views)]
        self.num_views = len(views)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, self.count, _CHUNK):
            yield slice(start, min(start + _CHUNK, self.count))

    def _log_sum(self, view: LabelView) -> Tensor:
        parts = [view.resize(part, self.out_size).logsumexp(0) for part in self._chunks()]
        return parts[0] if len(parts) == 1 else torch.stack(parts).logsumexp(0)

    def of(self, part: slice) -> Tensor:
        """(K, H, W) mean probabilities of some instances."""
        total: Tensor | None = None
        for pair in self.pairs:
            first, *others = (
                view.resize(part, self.out_size).sub_(log).exp_() for view, log in pair
            )
            for other in others:
                first.add_(other)
            total = first if total is None else total.add_(first)
        assert total is not None
        return total.div_(self.num_views)

    def argmax(self, residual: Callable[[slice], Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(H, W) int32 instance, the lowest among equals; its float32 mean probability; and the
        largest one, which is another where the residual decides.

        Args:
            residual: added to the logarithm of the mean before the argmax.
        """
        label, best, prob, most = (torch.empty(0) for _ in range(4))
        for part in self._chunks():
            mean = self.of(part)
            score = mean
            if residual is not None:
                score = mean.clamp(min=_LEAST).log() + residual(part)
            value, where = score.max(0)
            own, top = mean.gather(0, where[None])[0], mean.amax(0)
            where = where.int() + part.start
            if part.start == 0:
                label, best, prob, most = where, value, own, top
                continue
            better = value > best
            label = torch.where(better, where, label)
            prob = torch.where(better, own, prob)
            best, most = torch.maximum(best, value), torch.maximum(most, top)
        return label.cpu(), prob.clamp(max=1).cpu(), most.clamp(max=1).cpu()

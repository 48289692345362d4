"""Simulated point labels, drawn from full masks (paper, "Experimental Setup" and Table 7)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fdd.points.coco_panoptic import (
    PanopticImage,
    group_pixels,
    load_segment_ids,
    read_panoptic_json,
)
from fdd.points.structures import PointDataset, PointImage, PointLabelError, PointSegment
from fdd.points.validation import validate_points

__all__ = [
    "STRATEGIES",
    "map_images",
    "points_file_name",
    "sample_panoptic",
    "sample_pixels",
    "sample_points",
    "sample_segments",
]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
#: Wraps an iterator over images, given their number.
Progress = Callable[[Iterable[Any], int], Iterable[Any]]

STRATEGIES = ("uniform", "center", "border")


def points_file_name(split: str, k: int | str, strategy: str = "uniform") -> str:
    """Where a data set's drawn points lie. The plain name is for the labels that training reads by
    default; other draws must not replace them."""
    kind = "" if strategy == "uniform" else f"_{strategy}"
    return f"points_{split}_p{k}{kind}.json"


def sample_points(
    mask: np.ndarray,
    k: int,
    strategy: str = "uniform",
    seed: int = 0,
    image_id: str | int = 0,
    segment_id: int = 1,
) -> np.ndarray:
    """Draw ``min(k, area)`` different pixels of a mask, as points at their centres.

    The draw depends on nothing but the arguments: neither on the order of images and segments nor
    on the process. The first points of a longer draw are those of a shorter one: P1 is part of P10.

    Args:
        mask: bool ``(H, W)``.
        k: points wanted, >= 1.
        strategy: ``uniform``; ``border``, with a probability proportional to d^2, the squared
            distance to the mask's centroid; ``center``, proportional to max d^2 - d^2.
        seed: chooses another draw of the whole data set.
        image_id: as in the label file.
        segment_id: as in the label file.

    Returns:
        float64 ``(min(k, area), 2)``, x and y in pixels; ``(0, 2)`` for an empty mask.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask of shape {mask.shape}; expected (height, width)")
    pixels = np.flatnonzero(mask)
    chosen = sample_pixels(pixels, mask.shape[1], k, strategy, seed, image_id, segment_id)
    return np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1) + 0.5


def sample_pixels(
    pixels: np.ndarray,
    width: int,
    k: int,
    strategy: str,
    seed: int,
    image_id: str | int,
    segment_id: int,
) -> np.ndarray:
    """Do the work of :func:`sample_points` on flat pixel indices (ascending, ``y * width + x``)."""
    check_request(k, strategy)
    count = min(int(k), len(pixels))
    rng = _generator(seed, image_id, segment_id)
    if count == 0:
        return pixels[:0]
    if strategy == "uniform":
        return pixels[_draw_uniform(rng, len(pixels), count)]
    return pixels[_draw_weighted(rng, _weights(pixels, width, strategy), count)]


def check_request(k: int, strategy: str) -> None:
    """Refuse an unknown strategy, or no points.

    Raises:
        ValueError: saying what is expected.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"sampling strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    if k < 1:
        raise ValueError(f"k = {k} points per segment; expected at least 1")


def _generator(seed: int, image_id: str | int, segment_id: int) -> np.random.Generator:
    """A generator of each segment's own. Python's ``hash`` differs from process to process."""
    if not isinstance(image_id, str):
        image_id = int(image_id)  # NumPy's integers are the same id
    key = json.dumps([int(seed), image_id, int(segment_id)]).encode()
    digest = hashlib.blake2b(key, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def _draw_uniform(rng: np.random.Generator, size: int, count: int) -> list[int]:
    """The first ``count`` entries of a shuffled ``range(size)``, without shuffling all of it."""
    moved: dict[int, int] = {}
    chosen = []
    for i, u in enumerate(rng.random(count)):
        j = i + int(u * (size - i))
        chosen.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return chosen


def _draw_weighted(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Draw without replacement, each time proportionally to the weights that are left.

    The order of exponential variables divided by their weights is such a sequence of draws
    (Efraimidis and Spirakis, 2006), and it does not depend on ``count``.
    """
    arrival = rng.standard_exponential(len(weights)) / weights
    first = np.argpartition(arrival, count - 1)[:count]
    return first[np.argsort(arrival[first], kind="stable")]


def _weights(pixels: np.ndarray, width: int, strategy: str) -> np.ndarray:
    x, y = pixels % width, pixels // width
    squared = (x - x.mean()) ** 2 + (y - y.mean()) ** 2
    largest = squared.max()
    if largest == 0:
        return np.ones(len(pixels))
    # The small constant keeps every pixel possible: a ring has max d^2 - d^2 = 0 all over.
    return (squared if strategy == "border" else largest - squared) + 1e-9 * largest


def sample_panoptic(
    panoptic_json: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    k: int,
    strategy: str = "uniform",
    seed: int = 0,
    *,
    skip_empty: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> PointDataset:
    """Draw points for every segment of a COCO panoptic data set, except crowds and void.

    Args:
        panoptic_json: COCO panoptic annotations. Only ids, categories and ``iscrowd`` are used.
        panoptic_root: the folder of their PNGs.
        k: points per segment; a segment of fewer pixels gets one for each.
        strategy: see :func:`sample_points`.
        seed: likewise.
        skip_empty: leave out segments of the JSON that have no pixel in the PNG, and count them in
            ``info["skipped_empty"]``; by default they are an error.
        workers: processes that read PNGs; the result does not depend on it.
        progress: wraps the iterator over images, given their number (a progress bar).

    Raises:
        FileNotFoundError: a file is missing.
        PointLabelError: JSON and PNG do not agree.
    """
    check_request(k, strategy)
    categories, images = read_panoptic_json(panoptic_json)
    job = partial(
        _sample_image, root=Path(panoptic_root), k=k, strategy=strategy, seed=seed, skip=skip_empty
    )
    done = list(map_images(job, images, workers, progress))
    info = {
        "source": Path(panoptic_json).name,
        "points_per_segment": int(k),
        "strategy": strategy,
        "seed": int(seed),
        "skipped_crowd": sum(crowd for _, crowd, _ in done),
        "skipped_empty": sum(empty for _, _, empty in done),
    }
    dataset = PointDataset(categories, [image for image, _, _ in done], info)
    validate_points(dataset, f"points drawn from {os.fspath(panoptic_json)}")
    return dataset


def map_images(
    job: Callable[[_In], _Out],
    images: Sequence[_In],
    workers: int = 1,
    progress: Progress | None = None,
) -> Iterator[_Out]:
    """Results of ``job`` for each image, in order, from ``workers`` processes."""
    with ExitStack() as stack:
        results: Iterable[_Out]
        if workers > 1 and len(images) > 1:
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(images))))
            results = pool.map(job, images, chunksize=max(1, min(32, len(images) // workers)))
        else:
            results = map(job, images)
        yield from results if progress is None else progress(results, len(images))


def _sample_image(
    image: PanopticImage, root: Path, k: int, strategy: str, seed: int, skip: bool
) -> tuple[PointImage, int, int]:
    """Read and sample one image; see :func:`sample_segments`."""
    path = root / image.png_name
    ids = load_segment_ids(path, image.height, image.width)
    return sample_segments(image, ids, str(path), k, strategy, seed, skip_empty=skip)


def sample_segments(
    image: PanopticImage,
    ids: np.ndarray,
    source: str,
    k: int,
    strategy: str,
    seed: int,
    *,
    skip_empty: bool = False,
) -> tuple[PointImage, int, int]:
    """Draw points for every segment of one image, except crowds.

    Args:
        image: its segments.
        ids: their ids, int32 ``(height, width)``; 0 is void.
        source: what an error calls the map.
        k, strategy, seed: see :func:`sample_points`.
        skip_empty: see :func:`sample_panoptic`.

    Returns:
        The points, and how many crowds and how many empty segments were left out.
    """
    result = PointImage(image.image_id, image.file_name, image.height, image.width)
    empty = 0
    groups = group_pixels(ids, image.segment_ids, source)
    for i, pixels in enumerate(groups):
        segment_id = image.segment_ids[i]
        if image.crowd[i]:
            continue
        if len(pixels) == 0:
            if not skip_empty:
                raise PointLabelError(
                    f"{source}: segment {segment_id} of image {image.image_id!r} is in the JSON "
                    "but has no pixel here. Remove it from the JSON, or leave such segments out "
                    "(skip_empty=True, --skip-empty)."
                )
            empty += 1
            continue
        chosen = sample_pixels(
            pixels, image.width, k, strategy, seed, image.image_id, segment_id
        ).tolist()
        points = [(p % image.width + 0.5, p // image.width + 0.5) for p in chosen]
        result.segments.append(PointSegment(segment_id, image.category_ids[i], points))
    return result, sum(image.crowd), empty

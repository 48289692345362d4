"""Simulated point labels, drawn from full masks (paper, "Experimental Setup" and Table 7).

A draw depends on nothing but its seed and the ids of image and segment, neither on the order of
images and segments nor on the process, and the first points of a longer draw are those of a shorter
one: P1 is part of P10, so that files of several numbers of points are cut from one draw.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from fdd.points.coco_panoptic import (
    PanopticImage,
    group_pixels,
    load_segment_ids,
    read_panoptic_json,
)
from fdd.points.files import atomic_path
from fdd.points.format import write_points
from fdd.points.structures import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
)
from fdd.points.validation import validate_points

__all__ = [
    "STRATEGIES",
    "Draw",
    "check_writable",
    "cut_point_sets",
    "default_workers",
    "draw_point_sets",
    "map_images",
    "points_file_name",
    "sample_panoptic",
    "sample_points",
    "show_progress",
    "write_point_files",
]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
#: Wraps an iterator over images, given their number.
Progress = Callable[[Iterable[Any], int], Iterable[Any]]

STRATEGIES = ("uniform", "center", "border")


def points_file_name(split: str, k: int | str, strategy: str = "uniform") -> str:
    """File name of a data set's drawn points. The plain name is for the labels that training reads
    by default; other draws must not replace them."""
    kind = "" if strategy == "uniform" else f"_{strategy}"
    return f"points_{split}_p{k}{kind}.json"


@dataclass(frozen=True)
class Draw:
    """How points are drawn.

    Attributes:
        k: points wanted per segment, >= 1.
        strategy: ``uniform``; ``border``, with a probability proportional to d^2, the squared
            distance to the segment's centroid; ``center``, proportional to max d^2 - d^2.
        seed: chooses another draw of the whole data set.

    Raises:
        ValueError: an unknown strategy, or no points.
    """

    k: int
    strategy: str = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            expected = ", ".join(STRATEGIES)
            raise ValueError(f"sampling strategy {self.strategy!r}; expected one of {expected}")
        if self.k < 1:
            raise ValueError(f"k = {self.k} points per segment; expected at least 1")

    def pixels(
        self, pixels: np.ndarray, width: int, image_id: str | int, segment_id: int
    ) -> np.ndarray:
        """Choose ``min(k, area)`` of a segment's pixels.

        Args:
            pixels: flat indices, ascending: ``y * width + x``.
            width: of the image.
            image_id, segment_id: as in the label file.
        """
        count = min(int(self.k), len(pixels))
        rng = _generator(self.seed, image_id, segment_id)
        if count == 0:
            return pixels[:0]
        if self.strategy == "uniform":
            return pixels[_draw_uniform(rng, len(pixels), count)]
        return pixels[_draw_weighted(rng, _weights(pixels, width, self.strategy), count)]

    def segments(
        self, image: PanopticImage, ids: np.ndarray, source: str, skip_empty: bool = False
    ) -> tuple[PointImage, int]:
        """Draw points for every segment of one image, except crowds.

        Args:
            image: its segments.
            ids: their ids, int32 ``(height, width)``; 0 is void.
            source: what an error calls the map.
            skip_empty: see :func:`sample_panoptic`.

        Returns:
            The points, and how many empty segments were left out.
        """
        result = PointImage(image.image_id, image.file_name, image.height, image.width)
        empty = 0
        groups = group_pixels(ids, image.segment_ids, source)
        for segment_id, category_id, crowd, pixels in zip(
            image.segment_ids, image.category_ids, image.crowd, groups, strict=True
        ):
            if crowd:
                continue
            if len(pixels) == 0:
                if not skip_empty:
                    raise PointLabelError(
                        f"{source}: segment {segment_id} of image {image.image_id!r} is in the "
                        "JSON but has no pixel here. Remove it from the JSON, or leave such "
                        "segments out (skip_empty=True, --skip-empty)."
                    )
                empty += 1
                continue
            chosen = self.pixels(pixels, image.width, image.image_id, segment_id).tolist()
            points = [(p % image.width + 0.5, p // image.width + 0.5) for p in chosen]
            result.segments.append(PointSegment(segment_id, category_id, points))
        return result, empty

    def dataset(
        self,
        categories: Sequence[Category],
        images: Iterable[PointImage],
        masks: str | os.PathLike[str],
        **left_out: int,
    ) -> PointDataset:
        """The drawn points of all images, validated, with how they were drawn in ``info``.

        Args:
            categories: all classes.
            images: of :meth:`segments`.
            masks: file or folder that the points were drawn from.
            left_out: numbers for ``info``.
        """
        info = {
            "source": Path(masks).name,
            "points_per_segment": int(self.k),
            "strategy": self.strategy,
            "seed": int(self.seed),
            **left_out,
        }
        dataset = PointDataset(list(categories), list(images), info)
        validate_points(dataset, f"points drawn from {os.fspath(masks)}")
        return dataset


def sample_points(
    mask: np.ndarray,
    k: int,
    strategy: str = "uniform",
    seed: int = 0,
    image_id: str | int = 0,
    segment_id: int = 1,
) -> np.ndarray:
    """Draw ``min(k, area)`` different pixels of a mask, as points at their centres.

    Args:
        mask: bool ``(H, W)``.
        k, strategy, seed: see :class:`Draw`.
        image_id, segment_id: as in the label file.

    Returns:
        float64 ``(min(k, area), 2)``, x and y in pixels; ``(0, 2)`` for an empty mask.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask of shape {mask.shape}; expected (height, width)")
    width = mask.shape[1]
    chosen = Draw(k, strategy, seed).pixels(np.flatnonzero(mask), width, image_id, segment_id)
    return np.stack([chosen % width, chosen // width], axis=1) + 0.5


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
        strategy, seed: see :class:`Draw`.
        skip_empty: leave out segments of the JSON that have no pixel in the PNG, and count them in
            ``info["skipped_empty"]``; by default they are an error.
        workers: processes that read PNGs; the result does not depend on it.
        progress: wraps the iterator over images, given their number (a progress bar).

    Raises:
        FileNotFoundError: a file is missing.
        PointLabelError: JSON and PNG do not agree.
    """
    draw = Draw(k, strategy, seed)
    categories, images = read_panoptic_json(panoptic_json)
    job = partial(_sample_image, root=Path(panoptic_root), draw=draw, skip_empty=skip_empty)
    done = list(map_images(job, images, workers, progress))
    return draw.dataset(
        categories,
        [points for points, _ in done],
        panoptic_json,
        skipped_crowd=sum(sum(image.crowd) for image in images),
        skipped_empty=sum(empty for _, empty in done),
    )


def _sample_image(
    image: PanopticImage, root: Path, draw: Draw, skip_empty: bool
) -> tuple[PointImage, int]:
    path = root / image.png_name
    ids = load_segment_ids(path, image.height, image.width)
    return draw.segments(image, ids, str(path), skip_empty)


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


def draw_point_sets(
    panoptic_json: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    counts: Sequence[int],
    strategy: str = "uniform",
    seed: int = 0,
    *,
    skip_empty: bool = False,
    workers: int = 1,
) -> dict[int, PointDataset]:
    """Draw points once, as many as the largest of ``counts``, and cut the smaller sets from them.

    Errors are those of :func:`sample_panoptic`.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"points per segment {list(counts)}; expected numbers of at least 1")
    dataset = sample_panoptic(
        panoptic_json,
        panoptic_root,
        max(counts),
        strategy,
        seed,
        skip_empty=skip_empty,
        workers=workers,
        progress=show_progress,
    )
    return cut_point_sets(dataset, counts)


def cut_point_sets(dataset: PointDataset, counts: Iterable[int]) -> dict[int, PointDataset]:
    """For each of ``counts`` the first so many points of every segment, as a draw of it gives."""
    sets = {}
    for k in sorted(set(counts)):
        images = [
            replace(image, segments=[replace(s, points=s.points[:k]) for s in image.segments])
            for image in dataset.images
        ]
        info = {**dataset.info, "points_per_segment": k}
        sets[k] = PointDataset(dataset.categories, images, info)
    return sets


def write_point_files(
    sets: Mapping[int, PointDataset], outputs: Mapping[int, str | os.PathLike[str]]
) -> None:
    """Write each set to the path of its number of points."""
    for k, dataset in sets.items():
        write_points(outputs[k], dataset)


def default_workers() -> int:
    """Processes by default: the CPUs, but at most 8 (then the disk is the limit)."""
    return max(1, min(8, os.cpu_count() or 1))


def show_progress(images: Iterable[Any], total: int) -> Iterable[Any]:
    """A progress bar over images."""
    return tqdm(images, total=total, desc="points", unit="img", leave=False, disable=None)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Find out before the work that nothing can be written to ``folder``; makes it if need be.

    Raises:
        OSError: with what to do about it.
    """
    probe = Path(folder) / ".fdd-probe"
    try:
        with atomic_path(probe) as temporary:
            temporary.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"{os.fspath(folder)}: cannot write there ({error.strerror}). Name another place with "
            "--output, or set FDD_DATASETS to a root that can be written."
        ) from error

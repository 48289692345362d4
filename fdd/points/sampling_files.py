"""Drawing the point-label files of a data set with masks, for several numbers of points at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fdd.points.files import atomic_path
from fdd.points.format import write_points
from fdd.points.sampling import sample_panoptic
from fdd.points.structures import PointDataset, PointSegment

__all__ = [
    "check_writable",
    "cut_point_sets",
    "default_workers",
    "draw_point_sets",
    "first_points",
    "show_progress",
    "write_point_files",
]


def default_workers() -> int:
    """Processes to use if nobody says: the CPUs, but at most 8 (the disk is slower than more)."""
    return max(1, min(8, os.cpu_count() or 1))


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


def first_points(dataset: PointDataset, k: int) -> PointDataset:
    """The first ``k`` points of every segment, which are what a draw of ``k`` would give."""
    images = [
        replace(
            image,
            segments=[PointSegment(s.id, s.category_id, s.points[:k]) for s in image.segments],
        )
        for image in dataset.images
    ]
    return PointDataset(dataset.categories, images, {**dataset.info, "points_per_segment": k})


def cut_point_sets(dataset: PointDataset, counts: Sequence[int]) -> dict[int, PointDataset]:
    """A set for each of ``counts``, of a draw of as many points as the largest of them."""
    return {k: first_points(dataset, k) for k in sorted(set(counts))}


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

    Errors are those of :func:`fdd.points.sample_panoptic`.
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


def show_progress(images: Iterable[Any], total: int) -> Iterable[Any]:
    """A progress bar over images."""
    return tqdm(images, total=total, desc="points", unit="img", leave=False, disable=None)


def write_point_files(
    sets: Mapping[int, PointDataset], outputs: Mapping[int, str | os.PathLike[str]]
) -> None:
    """Write each set to the path of its number of points."""
    for k, dataset in sets.items():
        write_points(outputs[k], dataset)

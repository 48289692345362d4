"""Rules on classes and on training against validation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.dataset_file import DatasetFile
from fdd.points.findings import Finding
from fdd.points.structures import PointDataset

__all__ = ["check_class_list", "check_classes", "check_overlap"]


def check_class_list(file: DatasetFile, dataset: PointDataset, source: str) -> Iterator[Finding]:
    """Rule E109: the class list of the YAML file against that of the points, by name and kind."""
    if file.classes is None:
        return
    for difference in compare_classes(
        file.classes.categories, dataset.categories, ordered=False, ids=False
    ):
        text = describe_differences([difference], str(file.path), source, ids=False)
        yield Finding("E109", text, str(file.path))


def check_classes(dataset: PointDataset, validated: Collection[int] | None) -> Iterator[Finding]:
    """Rules W501 to W503.

    Args:
        dataset: the training data.
        validated: ids of the classes in the validation masks; None without any.
    """
    trained = {s.category_id for i in dataset.images for s in i.segments if s.points}
    for category in dataset.categories:
        text = f"class {category.name!r} (id {category.id}, {category.kind})"
        if category.id not in trained:
            yield Finding("W502" if category.id in (validated or ()) else "W501", text)
        elif validated is not None and category.id not in validated:
            yield Finding("W503", text)


def check_overlap(
    training: Iterable[tuple[Any, str | None]], validation: Iterable[tuple[Any, str | None]]
) -> Iterator[Finding]:
    """Rule E504: images of the same file or of the same bytes.

    Only files of equal length are read.

    Args:
        training: ids and paths of the images, None where there is no file.
        validation: likewise.
    """
    by_path: dict[str, Any] = {}
    by_size: dict[int, dict[str, Any]] = {}
    for image_id, path in training:
        if path:
            by_path[os.path.realpath(path)] = image_id
            by_size.setdefault(os.path.getsize(path), {})[path] = image_id
    digests: dict[int, dict[bytes, str]] = {}
    for image_id, path in validation:
        if not path:
            continue
        text = ""
        real, size = os.path.realpath(path), os.path.getsize(path)
        if real in by_path:
            text = f"the same file as training image {by_path[real]!r}"
        elif size and size in by_size:
            if size not in digests:
                digests[size] = {_digest(other): other for other in by_size[size]}
            twin = digests[size].get(_digest(path))
            if twin is not None:
                text = f"the same bytes as training image {by_size[size][twin]!r} ({twin})"
        if text:
            yield Finding("E504", f"image {image_id!r} ({path}): {text}", None, image_id)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read()).digest()

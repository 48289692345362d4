"""Rules on classes and on training against validation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.classes import ClassList
from fdd.points.dataset_file import DatasetFile
from fdd.points.rules.finding import Finding
from fdd.points.rules.masks import MaskSet
from fdd.points.rules.point_file import Labels
from fdd.points.structures import Category

__all__ = ["check_class_list", "check_classes", "check_overlap"]


def check_class_list(file: DatasetFile, classes: ClassList, labels: Labels) -> list[Finding]:
    """Rule E109: the list of the YAML file against that of the labels, by name and kind."""
    differences = compare_classes(
        classes.categories, labels.dataset.categories, ordered=False, ids=False
    )
    return [
        Finding(
            "E109",
            describe_differences([difference], str(file.path), str(labels.file), ids=False),
            str(file.path),
        )
        for difference in differences
    ]


def check_classes(labels: Labels, validation: MaskSet | None) -> list[Finding]:
    """Rules W501 to W503."""
    trained = _trained(labels)
    seen = validation.classes_seen() if validation else None
    findings = []
    for category in labels.dataset.categories:
        name = _describe(category)
        if category.id not in trained:
            missed = seen is not None and category.id in seen
            findings.append(Finding("W502" if missed else "W501", name, labels.file))
        elif seen is not None and category.id not in seen:
            findings.append(Finding("W503", name, labels.file))
    return findings


def _trained(labels: Labels) -> set[int]:
    return {s.category_id for i in labels.dataset.images for s in i.segments if s.points}


def _describe(category: Category) -> str:
    return f"class {category.name!r} (id {category.id}, {'thing' if category.isthing else 'stuff'})"


def check_overlap(
    training: Sequence[tuple[Any, str | None]],
    validation: Sequence[tuple[Any, str | None]],
    source: str,
) -> list[Finding]:
    """Rule E504: images of the same file or of the same bytes.

    Only files of equal length are read.

    Args:
        training: ids and paths of the images, None where there is no file.
        validation: likewise.
        source: file of the validation's labels, for the findings.
    """
    by_path = {os.path.realpath(path): n for n, path in training if path}
    by_size: dict[int, list[tuple[Any, str]]] = {}
    for image_id, path in training:
        if path:
            by_size.setdefault(os.path.getsize(path), []).append((image_id, path))
    digests: dict[int, dict[bytes, tuple[Any, str]]] = {}
    findings = []
    for image_id, path in validation:
        if not path:
            continue
        where = f"image {image_id!r} ({path})"
        real, size = os.path.realpath(path), os.path.getsize(path)
        if real in by_path:
            message = f"{where}: the same file as training image {by_path[real]!r}"
            findings.append(Finding("E504", message, source, image_id))
        elif size and size in by_size:
            if size not in digests:
                digests[size] = {_digest(p): (n, p) for n, p in by_size[size]}
            twin = digests[size].get(_digest(path))
            if twin is not None:
                message = f"{where}: the same bytes as training image {twin[0]!r} ({twin[1]})"
                findings.append(Finding("E504", message, source, image_id))
    return findings


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read()).digest()

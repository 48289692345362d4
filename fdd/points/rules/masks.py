"""Rules on COCO panoptic masks: what panopticapi, or fdd's own evaluation, would score absurdly.

What is wrong is said by :mod:`fdd.points.coco_panoptic`, which the readers share.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.coco_panoptic import (
    DECODED,
    PanopticDocument,
    check_pngs,
    compare_images,
    read_panoptic_document,
    unlisted_pngs,
)
from fdd.points.dataset_file import MaskFiles
from fdd.points.findings import Finding
from fdd.points.rules.images import Progress
from fdd.points.structures import Category, PointImage, PointLabelError

__all__ = ["check_mask_images", "check_masks", "classes_seen", "mask_images", "read_masks"]


def read_masks(files: MaskFiles) -> tuple[PanopticDocument | None, list[Finding]]:
    """Read a panoptic JSON entry by entry; what is invalid is left out (E401, E406, E407)."""
    source = os.fspath(files.json)
    try:
        document = read_panoptic_document(source)
    except (FileNotFoundError, PointLabelError) as error:
        return None, [Finding("E401", str(error).removeprefix(f"{source}: "))]
    findings = list(document.problems)
    if not os.path.isdir(files.folder):
        findings.append(Finding("E401", f"there is no folder {files.folder}"))
    return document, findings


def mask_images(document: PanopticDocument) -> list[PointImage]:
    """The entries of the JSON's ``images``, without segments."""
    keys = ("id", "file_name", "height", "width")
    return [PointImage(*(image[key] for key in keys)) for image in document.images]


def classes_seen(document: PanopticDocument) -> set[int]:
    """Ids of the categories that occur in segments."""
    annotations = document.annotations.values()
    return {s["category_id"] for annotation in annotations for s in annotation["segments_info"]}


def check_masks(
    document: PanopticDocument,
    folder: str | os.PathLike[str],
    categories: Sequence[Category],
    progress: Progress,
    read_files: bool = True,
    decode: bool = False,
) -> tuple[list[Finding], int]:
    """Rules W402, E403, W405 and E407 to W413.

    Args:
        document: the JSON.
        folder: of the PNGs.
        categories: those of the points.
        progress: see :data:`fdd.points.rules.images.Progress`.
        read_files: look at the PNGs at all.
        decode: decode all PNGs; otherwise 2,000 of them, spread evenly, and the headers of the
            rest.

    Returns:
        The findings, and the number of PNGs that were decoded.
    """
    findings = list(_check_categories(document.categories, categories))
    if not read_files or not os.path.isdir(folder):
        return findings, 0
    folder = os.fspath(folder)
    problems, decoded = check_pngs(
        document, folder, decode=None if decode else DECODED, progress=progress
    )
    return [*findings, *problems, *unlisted_pngs(document, folder)], decoded


def check_mask_images(
    document: PanopticDocument, images: Collection[Any], source: str | None
) -> list[Finding]:
    """Whether masks and points are of the same images.

    Args:
        document: the JSON of the masks.
        images: ids of the images that have points.
        source: file of the points, if an evaluation runs over its images: then it needs the same
            ones (E415). None: masks that only measure labels, where one may be missing (W414).
    """
    findings = compare_images(images, document, source or "the points")
    if source is not None:
        return findings
    return [replace(f, rule="W414") for f in findings if f.image_id not in document.annotations]


def _check_categories(
    of_masks: Sequence[Category], of_points: Sequence[Category]
) -> Iterator[Finding]:
    for kind in ("thing", "stuff"):
        if of_masks and all(c.kind != kind for c in of_masks):
            yield Finding("W402", f"no {kind} class")
    for difference in compare_classes(of_points, of_masks, ordered=False):
        text = describe_differences([difference], "the points' file", "the masks' file")
        yield Finding("E403", text)

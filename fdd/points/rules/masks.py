"""Rules on COCO panoptic masks: what panopticapi, or fdd's own evaluation, would score absurdly.

What is wrong is said by :mod:`fdd.points.coco_panoptic`, which the readers share.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.coco_panoptic import (
    DECODED,
    MaskProblem,
    PanopticDocument,
    check_pngs,
    compare_images,
    read_panoptic_document,
    unlisted_pngs,
)
from fdd.points.dataset_file import MaskFiles
from fdd.points.rules.finding import Finding
from fdd.points.rules.images import ImageEntry, Progress
from fdd.points.structures import Category, PointLabelError

__all__ = ["MaskSet", "check_mask_images", "check_masks", "read_masks"]


@dataclass
class MaskSet:
    """A panoptic JSON as far as it could be read.

    Attributes:
        document: the JSON.
        folder: of the PNGs.
        decoded: number of PNGs that were decoded.
    """

    document: PanopticDocument
    folder: str
    decoded: int = 0

    @property
    def file(self) -> str:
        """Path of the JSON."""
        return self.document.source

    @property
    def images(self) -> list[ImageEntry]:
        """Entries of the JSON's ``images``."""
        return [
            ImageEntry(i["id"], i["file_name"], i["width"], i["height"])
            for i in self.document.images
        ]

    @property
    def annotations(self) -> dict[Any, dict[str, Any]]:
        """Entries with a PNG and a list of segments, by image id."""
        return self.document.annotations

    def classes_seen(self) -> set[int]:
        """Ids of the categories that occur in segments."""
        return {
            s["category_id"]
            for annotation in self.annotations.values()
            for s in annotation["segments_info"]
        }


def read_masks(files: MaskFiles) -> tuple[MaskSet | None, list[Finding]]:
    """Read a panoptic JSON entry by entry; what is invalid is left out (E401, E406, E407)."""
    source, folder = os.fspath(files.json), os.fspath(files.folder)
    try:
        document = read_panoptic_document(source)
    except (FileNotFoundError, PointLabelError) as error:
        return None, [Finding("E401", str(error).removeprefix(f"{source}: "), source)]
    findings = []
    if not os.path.isdir(folder):
        findings.append(Finding("E401", f"there is no folder {folder}", source))
    return MaskSet(document, folder), findings + _findings(document.problems, source)


def _findings(problems: Iterable[MaskProblem], source: str) -> list[Finding]:
    return [Finding(p.rule, p.text, source, p.image_id, p.segment_id) for p in problems]


def check_masks(
    masks: MaskSet,
    categories: Sequence[Category] | None,
    progress: Progress,
    decode: bool = False,
) -> list[Finding]:
    """Rules W402, E403, W405 and E407 to W413.

    Args:
        masks: what was read.
        categories: those of the points.
        progress: ``progress(items, total, what)`` hands the items on.
        decode: decode all PNGs; otherwise 2,000 of them, spread evenly, and the headers of the
            rest.
    """
    findings = _check_categories(masks, categories)
    if not os.path.isdir(masks.folder):
        return findings
    problems, masks.decoded = check_pngs(
        masks.document, masks.folder, decode=None if decode else DECODED, progress=progress
    )
    problems += unlisted_pngs(masks.document, masks.folder)
    return findings + _findings(problems, masks.file)


def check_mask_images(masks: MaskSet, images: Collection[Any], what: str | None) -> list[Finding]:
    """Whether masks and points are of the same images.

    Args:
        masks: what was read.
        images: ids of the images that have points.
        what: file of the points, if an evaluation runs over its images: then it needs the same
            ones (E415). None: masks that only measure labels, where one may be missing (W414).
    """
    problems = compare_images(images, masks.document, what or "the points")
    if what is None:
        return [
            Finding("W414", p.text, masks.file, p.image_id)
            for p in problems
            if p.image_id not in masks.annotations
        ]
    return _findings(problems, masks.file)


def _check_categories(masks: MaskSet, categories: Sequence[Category] | None) -> list[Finding]:
    findings = []
    known = masks.document.categories
    for kind, isthing in (("thing", True), ("stuff", False)):
        if known and all(c.isthing != isthing for c in known):
            findings.append(Finding("W402", f"no {kind} class", masks.file))
    if categories is not None:
        for difference in compare_classes(categories, known, ordered=False):
            message = describe_differences([difference], "the points' file", "the masks' file")
            findings.append(Finding("E403", message, masks.file))
    return findings

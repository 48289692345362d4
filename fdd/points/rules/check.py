"""All rules on one data set."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fdd.points.coco_panoptic import PanopticDocument
from fdd.points.dataset_file import DatasetFile, MaskFiles, Validation, read_dataset_file
from fdd.points.findings import RULES, Finding
from fdd.points.format import PointFile, read_point_file
from fdd.points.rules.class_lists import check_class_list, check_classes, check_overlap
from fdd.points.rules.grid import Grid, check_cells
from fdd.points.rules.images import Progress, check_contents, check_files, unlisted_files
from fdd.points.rules.masks import (
    check_mask_images,
    check_masks,
    classes_seen,
    mask_images,
    read_masks,
)
from fdd.points.rules.suspicious import check_suspicious
from fdd.points.structures import PointDataset, PointImage
from fdd.points.validation import list_problems

__all__ = ["CheckOptions", "CheckResult", "CheckTarget", "check_data"]


@dataclass(frozen=True)
class CheckTarget:
    """What to look at.

    Attributes:
        points: point labels.
        images: their folder; None: no image is looked at.
        masks: masks of the same images.
        validation: as in a data set file.
        file: the data set file, where there is one.
    """

    points: Path
    images: Path | None = None
    masks: MaskFiles | None = None
    validation: Validation | None = None
    file: DatasetFile | None = None

    @classmethod
    def find(
        cls, path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None
    ) -> CheckTarget:
        """What a path stands for: a data set file (YAML), or point labels.

        Raises:
            FileNotFoundError, ValueError: the data set file is missing or invalid.
        """
        if Path(path).suffix.lower() not in (".yaml", ".yml"):
            return cls(Path(path), None if images is None else Path(images))
        file = read_dataset_file(path)
        folder = file.images if images is None else Path(images)
        return cls(file.points, folder, file.masks, file.validation, file)


@dataclass(frozen=True)
class CheckOptions:
    """How to look.

    Attributes:
        rules: codes of the rules to apply.
        grid: the training size and the dilation of points.
        num_queries: ``MODEL.FDD.PAN.NUM_QUERIES``; None: not known, so it is not compared with.
        min_side: ``INPUT.POINTS.MIN_IMAGE_SIDE``.
        read_files: look at image and mask files at all.
        decode: decode every image and mask, not only their headers (and some of the masks).
        progress: see :data:`fdd.points.rules.images.Progress`.
    """

    rules: Collection[str] = frozenset(RULES)
    grid: Grid = field(default_factory=Grid)
    num_queries: int | None = None
    min_side: int = 32
    read_files: bool = True
    decode: bool = False
    progress: Progress = lambda items, total, what: items


@dataclass
class CheckResult:
    """What was found, and in how much.

    Attributes:
        findings: in the order of the rules' numbers, within a rule in that of the files.
        point_file: the training labels as far as they could be read.
        images, points, segments: numbers of the training labels.
        remarks: what was not looked at, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    point_file: PointFile | None = None
    images: int = 0
    points: int = 0
    segments: int = 0
    remarks: list[str] = field(default_factory=list)

    def count(self, severity: str) -> int:
        return sum(f.severity == severity for f in self.findings)

    def failed(self, strict: bool = False) -> bool:
        """Whether there are errors, or, if ``strict``, warnings."""
        return any(f.rule[0] in ("EW" if strict else "E") for f in self.findings)

    def keep(self, rules: Collection[str]) -> None:
        """Leave out findings of other rules, and sort."""
        order = {code: n for n, code in enumerate(RULES)}
        chosen = [f for f in self.findings if f.rule in rules]
        self.findings = sorted(chosen, key=lambda f: order[f.rule])


def check_data(target: CheckTarget, options: CheckOptions | None = None) -> CheckResult:
    """Apply the rules to points, images and masks of training and validation.

    Raises:
        FileNotFoundError: there are no point labels at all. Whatever else is missing or broken is
            a finding.
    """
    check = _Check(target, options or CheckOptions())
    check.run()
    check.result.keep(check.options.rules)
    return check.result


class _Check:
    """One run of the rules; collects their findings and gives each the file that it is in."""

    def __init__(self, target: CheckTarget, options: CheckOptions) -> None:
        self.target, self.options = target, options
        self.result = CheckResult()

    def add(self, file: str | os.PathLike[str], findings: Iterable[Finding]) -> None:
        file = os.fspath(file)
        self.result.findings += [f if f.file else replace(f, file=file) for f in findings]

    def wanted(self, *rules: str) -> bool:
        return any(rule in self.options.rules for rule in rules)

    def run(self) -> None:
        target, options, result = self.target, self.options, self.result
        points, findings = read_point_file(target.points)
        self.add(target.points, findings)
        if points is None:
            result.remarks.append("nothing else was looked at: the points are not readable")
            return
        result.point_file, dataset = points, points.dataset
        result.images = len(dataset.images)
        result.segments = sum(len(i.segments) for i in dataset.images)
        result.points = sum(len(s.points) for i in dataset.images for s in i.segments)
        self.add(points.file, self.check_points(dataset))
        self.add(points.file, check_suspicious(dataset))
        self.add(points.file, check_contents(dataset, options.num_queries, options.min_side))
        if target.file is not None:
            self.add(points.file, check_class_list(target.file, dataset, points.file))
        trained = self.check_images(dataset.images, target.images, points.file)
        masks = self.read_masks(target.masks)
        if masks is not None and target.masks is not None:
            ids = [i.image_id for i in dataset.images if i.segments]
            self.add(masks.source, check_mask_images(masks, ids, None))
            self.check_masks(masks, target.masks, dataset)
        validated = self.check_validation(dataset, trained)
        if target.images is not None and options.read_files and self.wanted("W305"):
            used = [path for _, path in (*trained, *validated)]
            found = unlisted_files(target.images, used, self.folders_of_others())
            self.add(points.file, found)

    def check_points(self, dataset: PointDataset) -> list[Finding]:
        findings = list_problems(dataset, warnings=True)
        if self.wanted("W205", "W206"):
            images = self.options.progress(dataset.images, len(dataset.images), "cells")
            findings += check_cells(images, dataset.thing_ids, self.options.grid)
        return findings

    def check_images(
        self, images: list[PointImage], root: Path | None, source: str
    ) -> list[tuple[Any, str | None]]:
        """Ids and paths of the images, as far as files are looked at."""
        if root is None or not self.options.read_files:
            hint = ": name their folder with --images" if root is None else ""
            self.result.remarks.append(f"the images of {source} were not looked at{hint}")
            return []
        findings, paths = check_files(images, root, self.options.progress, self.options.decode)
        self.add(source, findings)
        return paths

    def read_masks(self, files: MaskFiles | None) -> PanopticDocument | None:
        if files is None:
            return None
        document, findings = read_masks(files)
        self.add(files.json, findings)
        return document

    def check_masks(self, masks: PanopticDocument, files: MaskFiles, dataset: PointDataset) -> None:
        options = self.options
        findings, decoded = check_masks(
            masks,
            files.folder,
            dataset.categories,
            options.progress,
            options.read_files,
            options.decode,
        )
        self.add(masks.source, findings)
        if options.read_files and decoded < len(masks.annotations):
            self.result.remarks.append(
                f"of {len(masks.annotations)} masks of {masks.source}, {decoded} were decoded: "
                "--decode looks at all"
            )

    def check_validation(
        self, dataset: PointDataset, trained: list[tuple[Any, str | None]]
    ) -> list[tuple[Any, str | None]]:
        """Ids and paths of the validation images."""
        validation = self.target.validation
        masks = self.read_masks(validation.masks) if validation else None
        seen = None if masks is None else classes_seen(masks)
        self.add(self.target.points, check_classes(dataset, seen))
        if validation is None or masks is None:
            return []
        if validation.points is not None:
            self.check_validation_points(validation.points, masks)
        self.check_masks(masks, validation.masks, dataset)
        images = self.check_images(mask_images(masks), validation.images, masks.source)
        if self.wanted("E504"):
            self.add(masks.source, check_overlap(trained, images))
        return images

    def check_validation_points(self, path: Path, masks: PanopticDocument) -> None:
        try:
            points, findings = read_point_file(path)
        except FileNotFoundError as error:
            points, findings = None, [Finding("E101", str(error))]
        if points is not None:
            findings += self.check_points(points.dataset)
            ids = [image.image_id for image in points.dataset.images]
            self.add(masks.source, check_mask_images(masks, ids, str(path)))
        # Only the training points are fixed: this file can be given by itself.
        self.add(path, (replace(f, fixable=False) for f in findings))

    def folders_of_others(self) -> list[Path]:
        """Folders of masks, and of validation images."""
        target = self.target
        folders = [target.masks.folder] if target.masks is not None else []
        if target.validation is not None:
            folders.append(target.validation.masks.folder)
            if target.validation.images != target.images:
                folders.append(target.validation.images)
        return folders

"""All rules on one data set."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fdd.points.dataset_file import DatasetFile, MaskFiles, Validation, read_dataset_file
from fdd.points.rules.class_lists import check_class_list, check_classes, check_overlap
from fdd.points.rules.finding import RULES, Finding
from fdd.points.rules.grid import Grid, check_cells
from fdd.points.rules.images import (
    ImageEntry,
    Progress,
    check_contents,
    check_files,
    unlisted_files,
)
from fdd.points.rules.masks import MaskSet, check_mask_images, check_masks, read_masks
from fdd.points.rules.point_file import Labels, check_labels, read_labels
from fdd.points.rules.suspicious import check_suspicious

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
            FileNotFoundError, ValueError: the data set file is missing or unsound.
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
        progress: ``progress(items, total, what)`` hands the items on.
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
        labels: the point labels as far as they could be read.
        images, points, segments, things: numbers of the training labels.
        remarks: what was not looked at, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    labels: Labels | None = None
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
    """Apply the rules to labels, images and masks of training and validation.

    Raises:
        FileNotFoundError: there are no point labels at all. Whatever else is missing or broken is
            a finding.
    """
    options = options or CheckOptions()
    result = CheckResult()
    labels, result.findings = read_labels(target.points)
    if labels is None:
        result.remarks.append("nothing else was looked at: the labels are not readable")
        result.keep(options.rules)
        return result
    result.labels = labels
    dataset = labels.dataset
    result.images = len(dataset.images)
    result.segments = sum(len(i.segments) for i in dataset.images)
    result.points = sum(len(s.points) for i in dataset.images for s in i.segments)
    result.findings += _check_training_labels(labels, target, options)
    _Files(target, options, result).check(labels)
    result.keep(options.rules)
    return result


def _check_training_labels(
    labels: Labels, target: CheckTarget, options: CheckOptions
) -> list[Finding]:
    findings = _check_points(labels, options)
    findings += check_suspicious(labels)
    findings += check_contents(labels, options.num_queries, options.min_side)
    if target.file is not None and target.file.classes is not None:
        findings += check_class_list(target.file, target.file.classes, labels)
    return findings


def _check_points(labels: Labels, options: CheckOptions) -> list[Finding]:
    findings = check_labels(labels)
    if _wanted(options, "W205", "W206"):
        images = labels.dataset.images
        findings += check_cells(
            labels, options.grid, options.progress(images, len(images), "cells")
        )
    return findings


def _wanted(options: CheckOptions, *rules: str) -> bool:
    return any(rule in options.rules for rule in rules)


def _entries(labels: Labels) -> list[ImageEntry]:
    return [ImageEntry(i.image_id, i.file_name, i.width, i.height) for i in labels.dataset.images]


@dataclass
class _Files:
    """The part of the check that opens images and masks."""

    target: CheckTarget
    options: CheckOptions
    result: CheckResult

    def check(self, labels: Labels) -> None:
        trained = self._check_images(_entries(labels), self.target.images, labels.file)
        masks = self._read_masks(self.target.masks)
        if masks is not None:
            ids = [i.image_id for i in labels.dataset.images if i.segments]
            self.result.findings += check_mask_images(masks, ids, None)
            self._check_masks(masks, labels)
        validated = self._check_validation(labels, trained)
        self._check_folders(labels, trained, validated)

    def _say(self, text: str) -> None:
        self.result.remarks.append(text)

    def _check_images(
        self, entries: list[ImageEntry], root: Path | None, source: str
    ) -> list[tuple[Any, str | None]]:
        if root is None or not self.options.read_files:
            self._say(
                f"the images of {source} were not looked at"
                + (": name their folder with --images" if root is None else "")
            )
            return []
        findings, paths = check_files(
            entries, root, source, self.options.progress, self.options.decode
        )
        self.result.findings += findings
        return [(e.image_id, path) for e, path in zip(entries, paths, strict=True)]

    def _read_masks(self, files: MaskFiles | None) -> MaskSet | None:
        if files is None:
            return None
        masks, findings = read_masks(files)
        self.result.findings += findings
        return masks

    def _check_masks(self, masks: MaskSet, labels: Labels) -> None:
        options = self.options
        if not options.read_files:
            masks = replace(masks, folder="")
        findings = check_masks(masks, labels.dataset.categories, options.progress, options.decode)
        self.result.findings += findings
        if options.read_files and masks.decoded < len(masks.annotations):
            self._say(
                f"of {len(masks.annotations)} masks of {masks.file}, {masks.decoded} were decoded: "
                "--decode looks at all"
            )

    def _check_validation(
        self, labels: Labels, trained: list[tuple[Any, str | None]]
    ) -> list[tuple[Any, str | None]]:
        validation = self.target.validation
        masks = self._read_masks(validation.masks) if validation else None
        if _wanted(self.options, "W501", "W502", "W503"):
            self.result.findings += check_classes(labels, masks)
        if validation is None or masks is None:
            return []
        if validation.points is not None:
            pointed = self._check_validation_points(validation.points)
            if pointed is not None:
                what = str(validation.points)
                self.result.findings += check_mask_images(masks, pointed, what)
        self._check_masks(masks, labels)
        images = self._check_images(masks.images, validation.images, masks.file)
        if _wanted(self.options, "E504"):
            self.result.findings += check_overlap(trained, images, masks.file)
        return images

    def _check_validation_points(self, path: Path) -> list[Any] | None:
        """Ids of the images; None where the file is not readable, which is a finding."""
        try:
            labels, findings = read_labels(path)
        except FileNotFoundError as error:
            labels, findings = None, [Finding("E101", str(error), str(path))]
        if labels is not None:
            findings += _check_points(labels, self.options)
        # Only the training labels are mended: this file can be given by itself.
        self.result.findings += [replace(f, fixable=False) for f in findings]
        return None if labels is None else [i.image_id for i in labels.dataset.images]

    def _check_folders(
        self,
        labels: Labels,
        trained: list[tuple[Any, str | None]],
        validated: list[tuple[Any, str | None]],
    ) -> None:
        target = self.target
        if (
            target.images is None
            or not self.options.read_files
            or not _wanted(self.options, "W305")
        ):
            return
        closed = [m.folder for m in (target.masks,) if m is not None]
        if target.validation is not None:
            closed.append(target.validation.masks.folder)
            if target.validation.images != target.images:
                closed.append(target.validation.images)
        used = [path for _, path in (*trained, *validated)]
        self.result.findings += unlisted_files(target.images, used, closed, labels.file)

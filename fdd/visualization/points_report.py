"""A page about points before any training: every image with its points, counts, and what the checks
find. No model is needed, and no PyTorch.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fdd.points.class_colors import read_color
from fdd.points.image_files import locate_files
from fdd.points.rules import RULES, CheckOptions, CheckTarget, Finding, check_data
from fdd.points.statistics import PointStatistics, count_points
from fdd.points.structures import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
    is_integer,
)
from fdd.points.wording import listed
from fdd.visualization.draw import draw_points
from fdd.visualization.files import read_rgb
from fdd.visualization.palette import Palette, as_palette
from fdd.visualization.report import (
    SHAPES,
    Card,
    Column,
    Progress,
    ReportText,
    Row,
    WrittenPage,
    check_page_options,
    made_now,
    sort_rows,
    spread,
    write_page,
)
from fdd.visualization.sheet import IMAGE, POINTS, fit_with_points, flatten_points

__all__ = ["PointsReport", "write_points_report"]

_COLUMNS = (
    Column("images", "Images", "Images in which a segment of the class has points.", percent=False),
    Column(
        "segments",
        "Segments",
        "Things one by one; of a stuff class, all of an image is one segment.",
        percent=False,
    ),
    Column("points", "Points", "Points of these segments.", percent=False),
)
_NUMBERS = (
    "The number beside a point is that of its segment in the label file, which the findings name; "
    "all points of a segment have one colour. Images with errors come first, then those with "
    "warnings."
)
_NAMES_SHOWN, _FINDINGS_SHOWN = 5, 6
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, kw_only=True)
class PointsReport(WrittenPage):
    """What was written; unreadable images are on the page, too, without a picture.

    Attributes:
        counts: of the labels, without what could not be read of them.
        errors, warnings: numbers of findings.
    """

    counts: PointStatistics
    errors: int
    warnings: int


@dataclass(frozen=True)
class _Image:
    """An image of the labels: what can be counted and drawn of it, where it is, what is wrong."""

    entry: PointImage
    path: str
    findings: Sequence[Finding]

    @property
    def badness(self) -> tuple[int, int]:
        """Sorts images: most errors first, then most warnings."""
        errors = sum(f.severity == "error" for f in self.findings)
        return -errors, errors - len(self.findings)


def write_points_report(
    path: str | os.PathLike[str],
    target: CheckTarget,
    options: CheckOptions | None = None,
    *,
    title: str = "",
    max_images: int | None = None,
    thumbnail: int = 480,
    progress: Progress = iter,
) -> PointsReport:
    """Check point labels, draw them, and write one self-contained HTML page about them.

    Args:
        path: the ``.html`` file.
        target: point labels and the folder of their images.
        options: how to check; notes are left out.
        title: of the page.
        max_images: at most this many: those with findings first, then some of the others, evenly
            spread over the label file.
        thumbnail: longer side of the pictures, in pixels.
        progress: wraps the list of images, for a progress bar.

    Raises:
        FileNotFoundError: there are no point labels.
        PointLabelError: they are not readable as a whole.
        ValueError: no folder of images, a number is out of its range, or the path is a folder.
    """
    check_page_options(path, "points.html", max_images, thumbnail)
    if target.images is None:
        raise ValueError(
            f"{target.points}: no folder of its images. Name a data set file (YAML), or the folder "
            "with --images"
        )
    options = options or CheckOptions()
    shown = frozenset(code for code in options.rules if code[0] in "EW")
    result = check_data(target, replace(options, rules=shown))
    if result.point_file is None:
        raise PointLabelError("\n".join(f"{f.file}: {f.message}" for f in result.findings))
    palette, dataset = _readable(result.point_file.document, result.point_file.dataset, target)
    images = _images(dataset, target.images, result.findings, result.point_file.file)
    problems: list[str] = []
    rows = sort_rows(
        Row(_sample(image, palette, dataset.categories, thumbnail, problems), thumbnail)
        for image in progress(_choose(images, max_images))
    )
    counts = count_points(dataset)
    text = ReportText(
        intro=f"The points of {target.points}, as they are: no model has seen them.",
        cards=list(_cards(counts, result.findings, images, len(rows), problems)),
        columns=_COLUMNS,
        classes=[vars(count) if count.segments else None for count in counts.classes],
        class_note=SHAPES,
        image_note=_NUMBERS,
        order_by="findings",
        foot={
            "Points": str(target.points),
            "Images": str(target.images),
            "Report": made_now(),
        },
    )
    title = title or f"Points of {target.file.name if target.file else target.points.name}"
    summary = {"Findings": _summary(result.findings, dataset.images)}
    return PointsReport(
        path=write_page(path, title, summary, rows, palette, text=text),
        images=len(rows),
        unreadable=problems,
        counts=counts,
        errors=result.count("error"),
        warnings=result.count("warning"),
    )


def _readable(
    document: Mapping[str, Any], dataset: PointDataset, target: CheckTarget
) -> tuple[Palette, PointDataset]:
    """What can be counted and drawn of labels that may be invalid; the rest has its findings.

    Classes come in the order of training, things first, and so have the colours of other pages.
    """
    known: dict[int, Category] = {}
    for c in dataset.categories:
        taken = {k.name for k in known.values()}
        if is_integer(c.id) and isinstance(c.name, str) and c.name and c.name not in taken:
            known.setdefault(c.id, c)
    categories = sorted(known.values(), key=lambda c: not c.isthing)
    colors = {
        entry.get("id"): read_color(entry.get("color"))
        for entry in document["categories"]
        if isinstance(entry, dict) and is_integer(entry.get("id"))
    }
    chosen = target.file.classes.colors if target.file and target.file.classes else {}
    palette = as_palette(
        [
            {"name": c.name, "isthing": c.isthing, "color": chosen.get(c.name, colors.get(c.id))}
            for c in categories
        ]
    )
    images = [
        replace(
            image,
            file_name=str(image.file_name),
            segments=[
                PointSegment(s.id, s.category_id, points)
                for s in image.segments
                if is_integer(s.category_id) and s.category_id in known
                if (points := [p for p in map(_pair, s.points) if p is not None])
            ],
        )
        for image in dataset.images
    ]
    return palette, PointDataset(categories, images)


def _pair(point: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in point)
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def _images(
    dataset: PointDataset, folder: Path, findings: Sequence[Finding], source: str
) -> list[_Image]:
    """The images of the label file, the worst first. Findings about masks or validation have other
    files; an invalid id may be anything, so ids are compared by their text."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.image_id is not None and finding.file == source:
            found.setdefault(repr(finding.image_id), []).append(finding)
    paths, _ = locate_files(folder, [image.file_name for image in dataset.images], True)
    images = [
        _Image(entry, path, found.get(repr(entry.image_id), ()))
        for entry, path in zip(dataset.images, paths, strict=True)
    ]
    return sorted(images, key=lambda image: image.badness)


def _choose(images: Sequence[_Image], count: int | None) -> list[_Image]:
    if count is None:
        return list(images)
    found = [image for image in images if image.findings][:count]
    return found + (
        spread([image for image in images if not image.findings], count - len(found))
        if count > len(found)
        else []
    )


def _sample(
    image: _Image,
    palette: Palette,
    categories: Sequence[Category],
    side: int,
    problems: list[str],
) -> dict[str, Any]:
    """One image for :func:`fdd.visualization.write_report`; why it cannot be read, if it cannot, is
    added to ``problems``."""
    place = {c.id: n for n, c in enumerate(categories)}
    segments = image.entry.segments
    classes = [place[s.category_id] for s in segments]
    by_class = Counter(classes)
    errors, others = image.badness
    sample: dict[str, Any] = {
        "file_name": image.entry.file_name,
        # Negative, because what is lowest comes first; an error counts more than any warnings.
        "score": 1e6 * errors + others,
        "figures": {"Segments": len(segments), "Points": sum(len(s.points) for s in segments)},
        "caption": ", ".join(f"{palette.names[k]} {n}" for k, n in sorted(by_class.items())),
        "values": {"instances": sum(bool(palette.isthing[k]) for k in classes)},
        "classes": dict.fromkeys(by_class),
        "warnings": _messages(image.findings),
    }
    try:
        full = read_rgb(image.path)
    except (OSError, ValueError) as error:
        text = str(error)
        problems.append(text if image.path in text else f"{image.path}: {text}")
        sample["warnings"].insert(0, "this image cannot be read, so there is no picture")
        return sample
    if not segments:
        sample["warnings"].append("no points")
    points = [
        {"category_id": k, "coords": s.points} for k, s in zip(classes, segments, strict=True)
    ]
    small, drawn = fit_with_points(full, points, side)
    numbers = [str(s.id) for s in segments]
    picture = draw_points(small, *flatten_points(drawn), palette, upscale_to=side, numbers=numbers)
    sample["panels"] = {IMAGE: small, POINTS: picture}
    return sample


def _messages(findings: Sequence[Finding]) -> list[str]:
    """The worst findings of an image, and how many more there are."""
    ordered = sorted(findings, key=lambda f: f.severity != "error")
    texts = [f"{f.rule} {f.severity}: {_shorten(f.message)}" for f in ordered[:_FINDINGS_SHOWN]]
    more = len(ordered) - len(texts)
    return [*texts, f"and {more} more findings"] if more > 0 else texts


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _summary(findings: Sequence[Finding], images: Sequence[PointImage]) -> dict[str, str]:
    """Rule and how often it found something -> the images, and what to do; for a table."""
    names = {repr(i.image_id): i.file_name for i in images if i.image_id is not None}
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.rule, []).append(finding)
    table = {}
    for code, found in groups.items():
        rule = RULES[code]
        where = dict.fromkeys(names.get(repr(f.image_id)) or _shorten(f.message) for f in found)
        table[f"{code} {rule.severity}: {rule.title} ({len(found):,})"] = (
            f"{listed(list(where), _NAMES_SHOWN)}. {rule.fix}"
        )
    return table


def _cards(
    counts: PointStatistics,
    findings: Sequence[Finding],
    images: Sequence[_Image],
    shown: int,
    problems: Sequence[str],
) -> Iterator[Card]:
    part = f" {shown:,} of them are on this page." if shown < counts.images else ""
    what = f"With {counts.segments:,} segments and {counts.points:,} points.{part}"
    yield Card("Images", f"{counts.images:,}", what, lead=True)
    for severity, why in (
        ("error", "Training or evaluation fails, or is silently wrong."),
        ("warning", "Probably not meant."),
    ):
        number = sum(f.severity == severity for f in findings)
        yield Card(f"{severity.capitalize()}s", f"{number:,}", why)
    found = sum(bool(image.findings) for image in images)
    yield Card(
        "Images with findings",
        f"{found:,}",
        "They come first, those with errors before the others.",
    )
    bare = f"{len(counts.without_points):,}"
    yield Card("Images without points", bare, "They are left out of training.")
    if counts.segments:
        mean = f"{counts.points / counts.segments:.1f}"
        yield Card("Points a segment", mean, f"Most things in an image: {counts.most_instances:,}.")
    if problems:
        yield Card("Unreadable images", f"{len(problems):,}", "On this page, without a picture.")

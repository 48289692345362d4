"""A page about points before any training: every image with its points, counts, and what the checks
find. No model is needed, and no PyTorch.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import fdd
from fdd.points.class_colors import read_color
from fdd.points.image_files import locate_files
from fdd.points.rules import RULES, CheckOptions, CheckTarget, Finding, check_data
from fdd.points.statistics import ClassCount, PointStatistics, count_points
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
from fdd.visualization.page.classes import Column
from fdd.visualization.page.parts import Card, shape_note
from fdd.visualization.page.rows import Row, reduce
from fdd.visualization.palette import Palette, as_palette
from fdd.visualization.report import ReportText, sort_rows, spread, write_page
from fdd.visualization.sheet import IMAGE, POINTS, flatten_points

__all__ = ["PointsReport", "write_points_report"]

Progress = Callable[[Sequence[Any]], Iterable[Any]]

_COLUMNS = (
    Column("images", "Images", "Images in which a segment of the class has points.", percent=False),
    Column(
        "segments",
        "Segments",
        "Things one by one; of a stuff class, all of an image is one segment.",
        percent=False,
    ),
    Column("points", "Points", "Points of these.", percent=False),
)
_NUMBERS = (
    '<p class="note">The number beside a point is that of its segment in the label file, which '
    "the findings name; all points of a segment have one colour. Images with errors come first, "
    "then those with warnings.</p>"
)
_NAMES_SHOWN, _FINDINGS_SHOWN = 5, 6
_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class PointsReport:
    """What was written.

    Attributes:
        path: of the page.
        counts: of the labels, without what could not be read of them.
        errors, warnings: numbers of findings.
        images: number of images on the page.
        unreadable: what is wrong with the images of the page that could not be read; they are named
            on it.
    """

    path: Path
    counts: PointStatistics
    errors: int
    warnings: int
    images: int
    unreadable: Sequence[str] = ()


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
        max_images: at most so many: those with findings first, then some of the others, evenly
            spread over the label file.
        thumbnail: longer side of the pictures, in pixels.
        progress: wraps the list of images, for a progress bar.

    Raises:
        FileNotFoundError: there are no point labels.
        PointLabelError: they are not readable as a whole.
        ValueError: no folder of images, a number is out of its range, or the path is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path}: a folder; name the file of the page, such as points.html")
    if target.images is None:
        raise ValueError(
            f"{target.points}: no folder of its images. Name a data set file (YAML), or the folder "
            "with --images"
        )
    for name, value, least in (("max_images", max_images, 1), ("thumbnail", thumbnail, 16)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    options = options or CheckOptions()
    shown = frozenset(code for code in options.rules if code[0] in "EW")
    result = check_data(target, replace(options, rules=shown))
    if result.point_file is None:
        raise PointLabelError("\n".join(f"{f.file}: {f.message}" for f in result.findings))
    palette, dataset = _readable(result.point_file.document, result.point_file.dataset, target)
    of_images = _by_image(result.findings, result.point_file.file)
    paths, _ = locate_files(target.images, [i.file_name for i in dataset.images], True)
    order = sorted(
        range(len(dataset.images)),
        key=lambda n: _badness(of_images.get(_key(dataset.images[n].image_id), ())),
    )
    chosen = _choose(order, dataset.images, of_images, max_images)
    counts = count_points(dataset)
    problems: list[str] = []
    samples = (
        _sample(
            dataset.images[n],
            paths[n],
            of_images.get(_key(dataset.images[n].image_id), ()),
            palette,
            dataset.categories,
            thumbnail,
            problems,
        )
        for n in progress(chosen)
    )
    rows = sort_rows(Row(sample, thumbnail) for sample in samples)
    name = target.file.name if target.file else target.points.name
    write_page(
        path,
        title or f"Points of {name}",
        {"Findings": _summary(result.findings, dataset.images)},
        rows,
        palette,
        text=_text(target, counts, result.findings, of_images, len(rows), problems),
    )
    errors, warnings = (result.count(name) for name in ("error", "warning"))
    return PointsReport(Path(path), counts, errors, warnings, len(rows), problems)


def _readable(
    document: Mapping[str, Any], dataset: PointDataset, target: CheckTarget
) -> tuple[Palette, PointDataset]:
    """What can be counted and drawn of labels that may be unsound; the rest has its findings.

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
            {
                "name": c.name,
                "isthing": c.isthing,
                "color": chosen.get(c.name, colors.get(c.id)),
            }
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


def _key(image_id: Any) -> str:
    return repr(image_id)  # an unsound id may be anything


def _by_image(findings: Sequence[Finding], source: str) -> dict[str, list[Finding]]:
    """Findings about images of the label file: those of masks or validation have other files."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.image_id is not None and finding.file == source:
            found.setdefault(_key(finding.image_id), []).append(finding)
    return found


def _badness(findings: Sequence[Finding]) -> tuple[int, int]:
    """Sorts images: most errors first, then most warnings."""
    errors = sum(f.severity == "error" for f in findings)
    return -errors, errors - len(findings)


def _choose(
    order: Sequence[int],
    images: Sequence[PointImage],
    of_images: Mapping[str, Sequence[Finding]],
    count: int | None,
) -> list[int]:
    if count is None:
        return list(order)
    found = [n for n in order if _key(images[n].image_id) in of_images][:count]
    others = [n for n in order if _key(images[n].image_id) not in of_images]
    return found + (spread(others, count - len(found)) if count > len(found) else [])


def _sample(
    image: PointImage,
    path: str,
    findings: Sequence[Finding],
    palette: Palette,
    categories: Sequence[Category],
    side: int,
    problems: list[str],
) -> dict[str, Any]:
    """One image for :func:`fdd.visualization.write_report`."""
    place = {c.id: n for n, c in enumerate(categories)}
    segments = [(place[s.category_id], s) for s in image.segments]
    by_class = Counter(k for k, _ in segments)
    points = sum(len(s.points) for _, s in segments)
    errors, others = _badness(findings)
    sample: dict[str, Any] = {
        "file_name": image.file_name,
        # Negative, because what is lowest comes first; an error counts more than any warnings.
        "score": 1e6 * errors + others,
        "figures": {"Segments": f"{len(segments)}", "Points": f"{points}"},
        "caption": ", ".join(f"{palette.names[k]} {n}" for k, n in sorted(by_class.items())),
        "values": {"instances": sum(bool(palette.isthing[k]) for k, _ in segments)},
        "classes": dict.fromkeys(by_class),
        "warnings": _messages(findings),
    }
    try:
        full = read_rgb(path)
    except (OSError, ValueError) as error:
        problems.append(f"{path}: {error}" if path not in str(error) else str(error))
        sample["warnings"].insert(0, "this image cannot be read, so there is no picture")
        return sample
    if not segments:
        sample["warnings"].append("no points")
    small = reduce(full, side)
    scale = np.array(small.shape[1::-1]) / full.shape[1::-1]
    drawn = [{"category_id": k, "coords": np.array(s.points) * scale} for k, s in segments]
    picture = draw_points(
        small,
        *flatten_points(drawn),
        palette,
        upscale_to=side,
        numbers=[str(s.id) for _, s in segments],
    )
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
    """Rule -> how often, what to do, and the images; for a table."""
    names = {_key(image.image_id): image.file_name for image in images}
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.rule, []).append(finding)
    table = {}
    for code, found in groups.items():
        rule = RULES[code]
        where = dict.fromkeys(
            names.get(_key(f.image_id), _shorten(f.message))
            if f.image_id is not None
            else _shorten(f.message)
            for f in found
        )
        table[f"{code} {rule.severity}: {rule.title} ({len(found):,})"] = (
            f"{listed(list(where), _NAMES_SHOWN)}. {rule.fix}"
        )
    return table


def _text(
    target: CheckTarget,
    counts: PointStatistics,
    findings: Sequence[Finding],
    of_images: Mapping[str, Sequence[Finding]],
    shown: int,
    problems: Sequence[str],
) -> ReportText:
    """All that stands around the images."""
    return ReportText(
        intro=f"The points of {target.points}, as they are: no model has seen them.",
        cards=list(_cards(counts, findings, of_images, shown, problems)),
        columns=_COLUMNS,
        classes=[_figures(count) for count in counts.classes],
        class_note=shape_note(labels=False),
        image_note=_NUMBERS,
        order_by="findings",
        foot={
            "Points": str(target.points),
            "Images": str(target.images),
            "Report": f"made {datetime.now():%Y-%m-%d %H:%M} with fdd {fdd.__version__}",
        },
    )


def _figures(count: ClassCount) -> dict[str, int] | None:
    if not count.segments:
        return None
    return {"images": count.images, "segments": count.segments, "points": count.points}


def _cards(
    counts: PointStatistics,
    findings: Sequence[Finding],
    of_images: Mapping[str, Sequence[Finding]],
    shown: int,
    problems: Sequence[str],
) -> Iterator[Card]:
    part = f" {shown:,} of them are on this page." if shown < counts.images else ""
    yield Card(
        "Images",
        f"{counts.images:,}",
        f"With {counts.segments:,} segments and {counts.points:,} points.{part}",
        lead=True,
    )
    for severity, why in (
        ("error", "Training or evaluation fails, or is quietly wrong."),
        ("warning", "Probably not meant."),
    ):
        number = sum(f.severity == severity for f in findings)
        yield Card(f"{severity.capitalize()}s", f"{number:,}", why)
    yield Card("Images with findings", f"{len(of_images):,}", "They come first, errors foremost.")
    yield Card(
        "Images without points",
        f"{len(counts.without_points):,}",
        "They are left out of training.",
    )
    if counts.segments:
        yield Card(
            "Points a segment",
            f"{counts.points / counts.segments:.1f}",
            f"Most things in an image: {counts.most_instances:,}.",
        )
    if problems:
        yield Card("Unreadable images", f"{len(problems):,}", "On this page, without a picture.")

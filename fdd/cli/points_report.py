"""One HTML page about points as they are, before any training: every image with its points in the
colours of their classes and the numbers of their segments, counts by class and image, and the
errors and warnings that `fdd points check` finds, images with findings first. The page is one file
that needs no network; no model is needed either.

DATA is a data set file (YAML; FILE#validation takes the points of its validation part), or a file
of point labels (JSON) with --images.

Exit status 1: images could not be read (they are named, here and on the page)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fdd.cli.page import add_page_options, check_page, page_size, show_images, tell
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.points.rules import CheckTarget

EXAMPLES = """
fdd points report cells.yaml --output points.html
fdd points report cells.yaml#validation --max-images 200
fdd points report points.json --images images --ignore W205,W206 --thumbnail 640
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help="data set file, or point labels")
    add("--images", metavar="DIR", help="folder of the images (default: the data set file's)")
    add_page_options(
        parser,
        name="points.html",
        which_images="those with findings first, the others evenly spread",
        thumbnail=480,
    )
    add("--ignore", metavar="LIST", help="leave these findings out, e.g. W205,W5")


def run(args: argparse.Namespace) -> int:
    from fdd.points.rules import CheckOptions, select_rules
    from fdd.visualization.points_report import write_points_report

    target = find_target(args.data, args.images)
    check_page(Path(args.output), "points.html")
    ignored = [part.strip() for part in (args.ignore or "").split(",") if part.strip()]
    report = write_points_report(
        args.output,
        target,
        CheckOptions(rules=select_rules((), ignored)),
        title=args.title,
        max_images=args.max_images,
        thumbnail=args.thumbnail,
        progress=show_images,
    )
    counts = report.counts
    found = (
        f"{counted(counts.images, 'image')}, {counted(counts.segments, 'segment')}, "
        f"{counted(counts.points, 'point')}; {counted(report.errors, 'error')}, "
        f"{counted(report.warnings, 'warning')}."
    )
    return tell(report, [page_size(report), found])


def find_target(data: str, images: str | None) -> CheckTarget:
    """Points and images of DATA, which may end in ``#validation``.

    Raises:
        FileNotFoundError, ValueError: it is missing or invalid, or has no validation points.
    """
    from fdd.points.rules import CheckTarget

    file, _, part = data.rpartition("#")
    if not file or Path(data).exists():
        return CheckTarget.find(data, images)
    if part == "points":
        return CheckTarget.find(file, images)
    target = CheckTarget.find(file, images)
    validation = target.validation
    if part != "validation" or target.file is None:
        raise ValueError(f"{data}: no such part; allowed: points, validation (of a data set file)")
    if validation is None or validation.points is None:
        raise ValueError(
            f"{data}: its validation part names no points to look at. Add 'points: FILE' there; "
            "masks alone are looked at by `fdd points check`, and by `fdd report` with a model"
        )
    folder = validation.images if images is None else Path(images)
    title = replace(target.file, name=f"{target.file.name}, validation")
    return CheckTarget(validation.points, folder, validation.masks, None, title)

"""One HTML page about points as they are, before any training: every image with its points in the
colours of their classes and the numbers of their segments, counts by class and image, and the
errors and warnings that `fdd points check` finds, images with findings first. The page is one file
that needs no network; no model is needed either.

DATA is a data set file (YAML; FILE#validation takes the points of its validation part), or a file
of point labels (JSON) with --images.

Exit status 1: images could not be read (they are named, here and on the page)."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fdd.cli.page import check_page
from fdd.cli.terminal import printable
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.points.rules import CheckTarget
    from fdd.visualization.points_report import PointsReport

EXAMPLES = """
fdd points report cells.yaml --output points.html
fdd points report cells.yaml#validation --max-images 200
fdd points report points.json --images images --ignore W205,W206 --thumbnail 640
"""

_PROBLEMS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help="data set file, or point labels")
    add("--output", default="points.html", metavar="FILE", help="the page (default: points.html)")
    add("--images", metavar="DIR", help="folder of the images (default: the data set file's)")
    add(
        "--max-images",
        type=int,
        metavar="N",
        help="at most N images, those with findings first, the others evenly spread; default: all",
    )
    add(
        "--thumbnail",
        type=int,
        default=480,
        metavar="PX",
        help="longer side of the pictures (default: 480). Smaller ones make a smaller page",
    )
    add("--title", default="", help="title of the page")
    add("--ignore", metavar="LIST", help="leave these findings out, e.g. W205,W5")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

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
        progress=lambda items: tqdm(items, unit="image", file=sys.stderr, disable=None),
    )
    for line in summary_lines(report):
        print(printable(line))
    if report.unreadable:
        print(f"{counted(len(report.unreadable), 'image')} could not be read:", file=sys.stderr)
        for problem in report.unreadable[:_PROBLEMS_SHOWN]:
            print(f"  {printable(problem)}", file=sys.stderr)
    return 1 if report.unreadable else 0


def find_target(data: str, images: str | None) -> CheckTarget:
    """Points and images of DATA, which may end in ``#validation``.

    Raises:
        FileNotFoundError, ValueError: it is missing or unsound, or has no validation points.
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


def summary_lines(report: PointsReport) -> list[str]:
    """What the terminal shows at the end."""
    counts, size = report.counts, report.path.stat().st_size / 2**20
    return [
        f"Wrote {report.path}: {counted(report.images, 'image')}, {size:.1f} MiB, for a browser",
        f"{counted(counts.images, 'image')}, {counted(counts.segments, 'segment')}, "
        f"{counted(counts.points, 'point')}; {counted(report.errors, 'error')}, "
        f"{counted(report.warnings, 'warning')}.",
    ]

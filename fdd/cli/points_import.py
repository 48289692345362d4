"""Turn the points of a labelling tool's export into one file of point labels (JSON), which all
other commands read.

Formats, detected by the content of the export or given with --format:

  labelme         LabelMe JSON, a file an image
  cvat            CVAT for images 1.1 (XML)
  datumaro        Datumaro JSON (CVAT writes it, too)
  label-studio    Label Studio JSON with keypoint labels
  coco-keypoints  COCO keypoints JSON
  pointsup        PointSup's COCO JSON (point_coords, point_labels)
  sparse-png      sparse PNGs of PSPS and Point2Mask, with --panoptic-json
  csv             CSV or TSV table with columns image, category, instance, x, y

An export holds points with class names; --classes is a small YAML file that says which classes are
things (objects that are counted; the points of one object belong together) and which are stuff
(regions such as sky or soil; all points of a class in an image belong together):

  classes:
    things: [cell, nucleus]
    stuff: [background]
  ignore: [ruler]          # labels to leave out, if there are any

Without --classes the message shows such a file, filled with the labels found, to be corrected.
Every point is checked; nothing is written unless all are valid."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdd.cli.options import refuse_existing
from fdd.cli.terminal import printable
from fdd.points.importers.assemble import DROPPABLE, EXIF, IMAGES_WITHOUT_POINTS
from fdd.points.importers.csv_table import COLUMNS, DECIMALS, DELIMITERS
from fdd.points.importers.pipeline import UNITS
from fdd.points.importers.registry import importer_names
from fdd.points.wording import counted, listed

if TYPE_CHECKING:
    from fdd.points.importers import Imported

EXAMPLES = """
fdd points import labels/ --images images --classes classes.yaml --output points.json
fdd points import annotations.xml --images images --classes classes.yaml --output points.json
fdd points import cells.csv --images images --classes classes.yaml --output points.json \\
    --column image=Image --column category=Classification \\
    --column "x=Centroid X px" --column "y=Centroid Y px"
fdd points import p10/ --panoptic-json panoptic.json --images images --output points.json
"""
_READER_OPTIONS = (
    *("skip_shapes", "pixel_centers", "image_key", "panoptic_json"),
    *("delimiter", "decimal", "pixel_size", "image", "category"),
)
_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", type=Path, help="the export: file or folder")
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder of the images; they are found by path below it, or else by name",
    )
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        type=Path,
        required=True,
        help="point labels to write, for example points.json",
    )
    parser.add_argument("--classes", metavar="FILE", type=Path, help="YAML file of the classes")
    parser.add_argument(
        "--format",
        metavar="NAME",
        choices=("auto", *importer_names()),
        default="auto",
        help="one of the formats above; by default detected",
    )
    parser.add_argument(
        "--skip-shapes",
        action="store_true",
        default=None,
        help="leave out boxes, polygons and other shapes that are not points; by default they are "
        "an error",
    )
    parser.add_argument(
        "--images-without-points",
        choices=IMAGES_WITHOUT_POINTS,
        default="listed",
        help="listed (default): keep those that the export names; keep: also all others of the "
        "image folder; skip: leave all out",
    )
    parser.add_argument(
        "--drop",
        metavar="KIND",
        action="append",
        choices=DROPPABLE,
        default=[],
        help="leave out, and count, points that are an error by default. outside: outside their "
        "image; shared-pixel: on one pixel with a point of another object. Can be given twice",
    )
    parser.add_argument(
        "--exif",
        choices=EXIF,
        default=EXIF[0],
        help="which picture the points follow, where EXIF tags turn images: displayed (default), "
        "upright as viewers show it; stored: the pixels as they are in the file, for tools that "
        "ignore the tag",
    )
    parser.add_argument(
        "--units",
        choices=UNITS,
        help="of x and y: pixel (default), percent or normalized (0 to 1) of the image's sides; to "
        "be given where all lie within 0 and 1. Label Studio's and sparse PNGs have their own",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    _add_table_arguments(parser)
    group = parser.add_argument_group("other formats")
    group.add_argument(
        "--pixel-centers",
        action=argparse.BooleanOptionalAction,
        help="tables and COCO keypoints: x = 0 is the centre of the first pixel (with no-: its "
        "left edge). Default: its edge in tables; in COCO keypoints its centre, unless there are "
        "fractions",
    )
    group.add_argument(
        "--image-key", metavar="KEY", help="Label Studio: the entry of a task that is the image"
    )
    group.add_argument(
        "--panoptic-json",
        metavar="FILE",
        type=Path,
        help="sparse PNGs: panoptic JSON with their classes",
    )


def _add_table_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "tables (CSV, TSV)", f"The first row names the columns: {', '.join(COLUMNS)}."
    )
    group.add_argument(
        "--column",
        metavar="NAME=HEADER",
        action="append",
        help="a column with another name, such as x=cx; can be given several times",
    )
    group.add_argument(
        "--image",
        metavar="NAME",
        help="the image of all rows, where no column has it; {stem} is the table's file name "
        "without extension, such as {stem}.tif",
    )
    group.add_argument(
        "--category", metavar="NAME", help="the class of all rows, where no column has it"
    )
    group.add_argument(
        "--pixel-size",
        metavar="NUMBER",
        type=float,
        help="x and y are in a unit of which a pixel has so many, such as 0.25 for µm",
    )
    group.add_argument(
        "--delimiter",
        metavar="CHAR",
        help=f"{', '.join(DELIMITERS)} or a character; by default detected",
    )
    group.add_argument(
        "--decimal", choices=DECIMALS, help="how x and y are written: 12.5 (point, default) or 12,5"
    )


def run(args: argparse.Namespace) -> None:
    from fdd.points import write_points
    from fdd.points.importers import import_points

    refuse_existing(args.output, args.overwrite)
    options: dict[str, Any] = {name: getattr(args, name) for name in _READER_OPTIONS}
    imported = import_points(
        args.source,
        args.images,
        args.classes,
        format=args.format,
        images_without_points=args.images_without_points,
        drop=args.drop,
        exif=args.exif,
        units=args.units,
        columns=_columns(args.column) if args.column else None,
        **options,
    )
    write_points(args.output, imported.dataset)
    print(printable("\n".join(_summary(args, imported))))


def _columns(given: list[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in given:
        name, equals, header = text.partition("=")
        if name not in COLUMNS or not equals or not header:
            raise ValueError(
                f"--column {text!r}: expected NAME=HEADER, NAME one of {', '.join(COLUMNS)}"
            )
        columns[name] = header
    return columns


def _summary(args: argparse.Namespace, imported: Imported) -> list[str]:
    from fdd.points.rules.suspicious import explain_single_points

    how = "recognized as" if args.format == "auto" else "read as"
    classes, notes = imported.classes, imported.notes
    segments, points = sum(c.segments for c in classes), sum(c.points for c in classes)
    lines = [
        f"{args.source}: {how} {imported.title} (--format {imported.format})",
        f"{args.output}: {counted(len(imported.dataset.images), 'image')}, "
        f"{counted(segments, 'segment')}, {counted(points, 'point')}",
        "",
    ]
    width = max(len("class"), *(len(c.category.name) for c in classes))
    lines.append(f"  {'class':<{width}}  kind   {'images':>7} {'segments':>9} {'points':>9}")
    for c in classes:
        kind = "thing" if c.category.isthing else "stuff"
        row = (
            f"  {c.category.name:<{width}}  {kind}  {c.images:>7,} {c.segments:>9,} {c.points:>9,}"
        )
        lines.append(row if c.points else f"{row}  never labelled")
    remarks = [f"left out or assumed: {n:,} {text}" for text, n in notes.left_out.items()]
    remarks += [
        f"left out: {counted(n, 'point')} of the label {label!r}, which the class file ignores"
        for label, n in notes.ignored.items()
    ]
    if notes.duplicates:
        remarks.append(
            f"left out: {counted(notes.duplicates, 'point')} exactly on another of the same segment"
        )
    if notes.skipped_images:
        remarks.append(f"left out: {counted(notes.skipped_images, 'image')} without points")
    if notes.turned:
        files = f"{counted(len(notes.turned), 'file')} ({listed(notes.turned, _SHOWN)})"
        if args.exif == "stored":
            text = f"turned: the points of {files}, from the stored to the displayed image"
        else:
            text = "assumed: points follow the image as displayed, turned upright by the EXIF tag "
            text += f"of {files}; if they follow the stored pixels, import with --exif stored"
        remarks.append(text)
    if notes.deep:
        remarks.append(
            f"beware: {counted(len(notes.deep), 'image')} of more than 8 bits a channel, which "
            f"training does not read; convert them first ({listed(notes.deep, _SHOWN)})"
        )
    single = explain_single_points(imported.dataset)
    if single:
        remarks.append(f"beware: {single}")
    if remarks:
        lines += ["", *(remark.replace("\n", "\\n") for remark in remarks)]
    words = ("fdd", "points", "check", str(args.output), "--images", str(args.images))
    return [*lines, "", f"next: {shlex.join(words)}"]

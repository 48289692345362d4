"""Write the dense labels that a trained model makes from points, as a data set for any trainer.

Every image of the data set gets a panoptic label: each pixel belongs to one of the things and kinds
of stuff that have a point, or to nothing (void). Segments keep the ids of the point labels. Beside
COCO panoptic, other forms can be written (--formats); they are made from the same labels:

  panoptic    panoptic.json and panoptic/*.png, always written
  semantic    semantic/*.png with class numbers, and semantic.json that explains them
  coco        instances.json: things as COCO instances
  yolo        yolo/: things as polygons, one a line
  detectron2  detectron2/: as Detectron2's own loaders want it

An interrupted call continues where it stopped when it is repeated, and another --formats adds to
what is there. Exit status 1: images could not be read (they are named)."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fdd.cli.options import add_model_options, add_weights_choice
from fdd.cli.terminal import printable
from fdd.points.wording import counted, listed

EXAMPLES = """
fdd labels export --model output/cells --dataset cells.yaml --output labels
fdd labels export --model output/cells --dataset cells.yaml --output labels --formats coco yolo
fdd labels export --model output/cells --dataset cells.yaml --output labels_sure \\
    --scales 1 1.5 --flip --min-confidence 0.6 --confidence-maps
"""
_FORMATS = ("panoptic", "semantic", "coco", "yolo", "detectron2")
_NAMES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_weights_choice(parser, "final")
    add = parser.add_argument
    add(
        "--dataset",
        required=True,
        metavar="DATASET.yaml",
        help="images with points: a data set file, or a registered name",
    )
    add("--output", required=True, metavar="DIR", help="folder for the labels; new or empty")
    add(
        "--formats",
        nargs="+",
        default=["panoptic"],
        choices=_FORMATS,
        metavar="FORM",
        help="forms to write, see above (default: panoptic)",
    )
    add(
        "--maker",
        default="",
        metavar="NAME",
        help="what makes the labels: learned, distance, semantic_nearest, dnn, prior, nearest, "
        "extent, polygon, point (default: what the model was trained with)",
    )
    add(
        "--min-confidence",
        type=float,
        metavar="P",
        help="make pixels void whose label has a lower probability, 0 to 1 (default: the model's "
        "MODEL.FDD.PSEUDO.LABEL_MIN_PROB, usually 0: keep all)",
    )
    add(
        "--confidence-maps",
        action="store_true",
        help="write confidence/*.png, the probability of each pixel's label times 255",
    )
    add(
        "--scales",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="S",
        help="average over the image at these sizes, as factors of the usual one (default: 1)",
    )
    add("--flip", action="store_true", help="average over the mirrored image, too")
    add("--batch", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read images (default: the model's DATALOADER.NUM_WORKERS)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace labels in DIR that were made with other settings",
    )
    add(
        "--skip-unreadable",
        action="store_true",
        help="write the data set without the images that cannot be read",
    )


def run(args: argparse.Namespace) -> int:
    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.engine.run_folder import describe_weights
    from fdd.inference.label_export import ExportOptions, export_labels

    options = ExportOptions(
        maker=args.maker,
        min_confidence=args.min_confidence,
        scales=tuple(args.scales),
        flip=args.flip,
        confidence_maps=args.confidence_maps,
        formats=tuple(args.formats),
        batch=args.batch,
        workers=args.workers,
        overwrite=args.overwrite,
        skip_unreadable=args.skip_unreadable,
    )
    opts = [word for word in args.opts if word != "--"]
    same = (
        ("MODEL.FDD.PSEUDO.LABEL_MIN_PROB", "--min-confidence", args.min_confidence),
        ("DATALOADER.NUM_WORKERS", "--workers", args.workers),
    )
    refuse_idle_keys(
        "labels export",
        opts,
        config_file=args.config_file,
        model=args.model,
        instead={key: option for key, option, value in same if value is not None},
    )
    summary = export_labels(
        args.model,
        args.dataset,
        args.output,
        options,
        args.config_file,
        opts,
        progress=True,
        weights=args.weights,
    )
    print(describe(summary), end="")
    if summary.checkpoint is not None:
        print(printable(describe_weights(summary.checkpoint)))
    if summary.unreadable:
        print(describe_unreadable(summary), file=sys.stderr, end="")
    return 1 if summary.unreadable else 0


def describe(summary: Any) -> str:
    """What an export wrote, for the terminal."""
    lines = [f"{counted(summary.images, 'image')} labelled in {summary.folder}"]
    if summary.resumed:
        lines[0] += f" ({summary.resumed} of them by an earlier call)"
    if empty := summary.images - summary.labelled:
        lines.append(f"  {empty} of them have no points: all void")
    sure = "" if summary.confidence is None else f", mean confidence {summary.confidence:.2f}"
    stuff = summary.segments - summary.things
    lines.append(
        f"  {counted(summary.things, 'thing')} and {counted(stuff, 'stuff segment')}{sure}"
    )
    lines.append(f"  {100 * summary.void:.1f} % of the pixels are void")
    if summary.vanished:
        shown = listed([f"{n} of image {i!r}" for i, n in summary.vanished], _NAMES_SHOWN)
        lost = counted(len(summary.vanished), "segment was", "segments were")
        lines.append(f"  {lost} left without a pixel: {shown}")
    lines += [f"  wrote {line}" for line in summary.written]
    return "\n".join(lines) + "\n"


def describe_unreadable(summary: Any) -> str:
    """Which images could not be read, and what that means."""
    lines = [f"{counted(len(summary.unreadable), 'image')} could not be read:"]
    lines += [f"  {printable(problem)}" for problem in summary.unreadable]
    if summary.complete:
        lines.append("They are not in the data set (--skip-unreadable).")
    else:
        lines.append(
            "No list of labels was written. Fix the files and repeat the command (the other images "
            "are done), or leave them out with --skip-unreadable."
        )
    return "\n".join(lines) + "\n"

"""Segment images, folders of images and videos with a trained model.

Points are not needed: they are for training only. What is written below --output:

  panoptic/NAME.png    the segment id of each pixel, R + 256 G + 65536 B; 0 is void
  segments/NAME.json   of each segment class, score, area and box
  overlays/NAME.jpg    the segments drawn over the image (of a video: NAME.mp4)
  panoptic.json        all of it as one COCO panoptic data set, for panopticapi and the like

Exit status 1: some files could not be read; they are listed at the end, the others are done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdd.cli.options import add_model_path, add_opts, add_weights_choice
from fdd.cli.terminal import printable
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.inference.prediction import PredictionReport

EXAMPLES = """
fdd predict --model output/cells photo.jpg --output results
fdd predict --model output/cells/model_final.pth images/ "more/*.tif" --output results
fdd predict --model output/cells film.mp4 --every 5 --output results
fdd predict --model output/cells val/ --image-ids panoptic_val.json --no-overlay --output results
fdd predict --model output/cells big/ --output results --opts INPUT.MIN_SIZE_TEST 480
fdd predict --model output/cells slide.tif --output results --tile 1024
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image, video, folder, or pattern in quotes"
    )
    add_model_path(parser)
    add_weights_choice(parser, "best")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write pictures of the segments over the image (default: yes)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.55,
        metavar="A",
        help="how strong the colours are in them, 0 to 1 (default: 0.55)",
    )
    parser.add_argument(
        "--max-side",
        type=int,
        default=1920,
        metavar="PIXELS",
        help="longest side of these pictures; the PNGs keep the image's size (default: 1920)",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="look into the sub-folders of folders, too"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="take every N-th frame of a video (default: 1)",
    )
    parser.add_argument(
        "--frames", action="store_true", help="of a video's frames, too, write PNG and JSON"
    )
    parser.add_argument(
        "--image-ids",
        metavar="JSON",
        help="a label file that has the images' ids, to compare panoptic.json with it; by default "
        "an image's id is its name without the ending",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="segment larger images in overlapping tiles of this side, each as an image of "
        "its own, and join what they share: for images that are too large for the memory, or in "
        "which things are as small as in a part of a training image",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        metavar="PIXELS",
        help="of two tiles, more than most things are wide (default: a quarter of a tile)",
    )
    add_opts(parser)


def run(args: argparse.Namespace) -> int:
    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.engine.run_folder import describe_weights
    from fdd.inference.prediction import (
        OUTPUT_FOLDERS,
        PredictionOptions,
        find_inputs,
        find_left_out,
        predict_files,
        read_image_ids,
    )
    from fdd.inference.predictor import Predictor
    from fdd.inference.tiles import Tiling
    from fdd.inference.trained_model import load_trained

    if args.tile is None and args.tile_overlap is not None:
        raise ValueError("--tile-overlap is of tiles; add --tile PIXELS, the side of one")
    overlap = args.tile // 4 if args.tile and args.tile_overlap is None else args.tile_overlap
    tiling = None if args.tile is None else Tiling(args.tile, overlap)
    options = PredictionOptions(args.overlay, args.alpha, args.max_side, args.every, args.frames)
    refuse_idle_keys("predict", args.opts, config_file=args.config_file, model=args.model)
    earlier = [Path(args.output, folder) for folder in OUTPUT_FOLDERS]
    inputs = find_inputs(args.inputs, recursive=args.recursive, leave_out=earlier)
    left_out = find_left_out(args.inputs, recursive=args.recursive, leave_out=earlier)
    ids = read_image_ids(args.image_ids) if args.image_ids else None
    trained = load_trained(
        args.model, args.config_file, args.opts, weights=args.weights, default="best"
    )
    predictor = Predictor(trained, tiling)
    report = predict_files(
        predictor, inputs, args.output, options, image_ids=ids, progress=show_progress
    )
    report.notes[:0] = left_out
    print_report(report, args.output)
    print(printable(describe_weights(trained.checkpoint)))
    return 1 if report.failures else 0


def show_progress(items: Iterator[Any], total: int | None, what: str) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(items, desc=what, total=total, leave=False, disable=None))


def print_report(report: PredictionReport, output: str) -> None:
    """What was found and written, to standard output; failures to standard error."""
    if done := report.images + report.frames:
        seen = [(report.images, "image"), (report.frames, "video frame")]
        print(
            f"Segmented {' and '.join(counted(n, word) for n, word in seen if n)}, "
            f"{report.seconds / done:.2f} s each: {counted(report.kinds[True], 'thing')}, "
            f"{counted(report.kinds[False], 'stuff region')}, "
            f"{report.void / report.pixels:.1%} of the pixels void"
        )
        print(f"Wrote to {printable(output)}:")
        width = max(map(len, report.files))
        for name in sorted(report.files):
            print(f"  {name:<{width}}  {report.files[name]}")
    for note in report.notes:
        print(f"Note: {printable(note)}")
    if report.failures:
        print(
            f"{len(report.failures)} of {counted(report.inputs, 'file')} could not be read:",
            file=sys.stderr,
        )
        for _, reason in report.failures:
            print(f"  {printable(reason)}", file=sys.stderr)

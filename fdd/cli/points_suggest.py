"""Where the next points are worth most, for every image of a data set, as a JSON file: the places
that `fdd annotate` shows as hints, with the reason for each, images with more to gain first: a
queue to work through. --images N keeps its first N; all images are examined in any case. Those
without a point come last, as nothing is known of their labels.

Exit status 1: images could not be read (they are named)."""

from __future__ import annotations

import argparse
import sys

from fdd.cli.options import add_model_options, add_weights_choice, refuse_existing
from fdd.cli.terminal import printable
from fdd.points.wording import counted

EXAMPLES = """
fdd points suggest --model output/cells --dataset cells.yaml --output suggestions.json
fdd points suggest --model output/cells --dataset cells.yaml --count 10 --output suggestions.json
fdd points suggest --model output/cells --dataset cells.yaml --images 20 --output today.json
"""
_SHOWN = 5


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
    add("--output", required=True, metavar="FILE.json", help="where they are written")
    add("--overwrite", action="store_true", help="replace an --output that is there")
    add("--count", type=int, default=3, metavar="N", help="places of an image (default: 3)")
    add(
        "--images", type=int, metavar="N", help="only the N images with most to gain (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    if args.count < 1:
        raise ValueError(f"--count {args.count}: expected at least 1")
    if args.images is not None and args.images < 1:
        raise ValueError(f"--images {args.images}: expected at least 1")
    refuse_existing(args.output, args.overwrite)
    from fdd.annotate.suggest_file import suggest_for_dataset
    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.inference.trained_model import load_trained
    from fdd.points.files import write_json

    refuse_idle_keys("points suggest", args.opts, config_file=args.config_file, model=args.model)
    trained = load_trained(args.model, args.config_file, args.opts, full=True, weights=args.weights)
    result, unreadable = suggest_for_dataset(
        trained, args.dataset, count=args.count, images=args.images, progress=_show
    )
    write_json(args.output, result)
    images = result["images"]
    places = sum(len(image["suggestions"]) for image in images)
    most = f", those with most to gain of {result['examined']:,}" * (args.images is not None)
    print(f"{counted(places, 'place')} in {counted(len(images), 'image')}{most}: {args.output}")
    for image in images[:_SHOWN]:
        for place in image["suggestions"][:1]:
            at = f"x {place['x']:g}, y {place['y']:g}"
            print(printable(f"  {image['file_name']}: {at}: {place['reason']}"))
    for text in unreadable:
        print(f"Left out: {printable(text)}", file=sys.stderr)
    return 1 if unreadable else 0


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} images", end="\n" if done == total else "", file=sys.stderr)

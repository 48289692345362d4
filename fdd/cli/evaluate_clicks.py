"""How good a model's labels get with each click, by a simulated annotator and full masks.

Of each image every segment gets one random point; then, one click after the other, the largest
wrong region is corrected by a point in it (--strategy middle: in its middle; random: anywhere in
it), or the place that `fdd annotate` suggests is clicked (suggested). After each click the whole
image is labelled again. To compare with, clicks go to random places of the image (anywhere), or of
each segment in turn (points). Beside the model's labels stand those of rules, each with clicks of
its own. Two figures, in percent, averaged over the images: segments, the IoU of an image's segments
where it is above 0.5, else 0; and PQ, averaged over the classes of an image.

Exit status 1: images could not be read (they are named)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fdd.annotate.choices import CLICK_MAKERS, STRATEGIES, SUGGESTING
from fdd.cli.options import (
    add_model_options,
    add_weights_choice,
    comma_list,
    refuse_existing,
)
from fdd.cli.terminal import printable

EXAMPLES = """
fdd evaluate-clicks --model output/cells --output curves.json --dataset cells.yaml#validation
fdd evaluate-clicks --model output/cells --dataset cells.yaml --strategy suggested --output s.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_weights_choice(parser, "final")
    add = parser.add_argument
    add(
        "--dataset",
        required=True,
        metavar="DATASET.yaml",
        help="data set file with masks; FILE#validation takes its validation part. Points in it "
        "are not looked at",
    )
    add("--output", required=True, metavar="FILE.json", help="where the curves are written")
    add("--overwrite", action="store_true", help="replace an --output that is there")
    add("--images", type=int, default=20, metavar="N", help="images, evenly spread (default: 20)")
    add("--clicks", type=int, default=5, metavar="K", help="clicks a segment (default: 5)")
    add("--strategy", choices=STRATEGIES, default="middle", help="(default: middle)")
    add(
        "--makers",
        default="learned,nearest",
        metavar="NAMES",
        help=f"of {', '.join(CLICK_MAKERS)} (default: learned,nearest)",
    )
    add("--seed", type=int, default=0, help="decides the random points (default: 0)")


def run(args: argparse.Namespace) -> int:
    makers = comma_list(args.makers)
    unknown = [name for name in makers if name not in CLICK_MAKERS]
    if unknown or not makers:
        raise ValueError(f"--makers {args.makers}: expected some of {', '.join(CLICK_MAKERS)}")
    for name in ("images", "clicks"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: expected at least 1")
    if args.strategy == "suggested" and not set(makers) <= set(SUGGESTING):
        known = " and ".join(SUGGESTING)
        raise ValueError(f"--strategy suggested: there are suggestions for {known} only")
    refuse_existing(args.output, args.overwrite)
    from fdd.annotate.click_curves import click_curves
    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.inference.trained_model import load_trained
    from fdd.points.files import write_json

    refuse_idle_keys("evaluate-clicks", args.opts, config_file=args.config_file, model=args.model)
    trained = load_trained(args.model, args.config_file, args.opts, full=True, weights=args.weights)
    result, unreadable = click_curves(
        trained,
        args.dataset,
        makers,
        images=args.images,
        clicks=args.clicks,
        strategy=args.strategy,
        seed=args.seed,
        progress=_show,
    )
    write_json(args.output, result)
    print(printable(table_of(result)))
    print(f"Wrote {printable(str(args.output))}.")
    for text in unreadable:
        print(f"Left out: {printable(text)}", file=sys.stderr)
    return 1 if unreadable else 0


def table_of(result: dict[str, Any]) -> str:
    """The curves as text: a line for each number of clicks a segment."""
    from tabulate import tabulate

    makers = result["makers"]
    heads = ["clicks a segment"]
    columns: list[Sequence[float]] = [result["clicks_a_segment"]]
    for maker, curve in makers.items():
        heads += [f"{maker} segments", f"{maker} PQ"]
        columns += [curve["segments"], curve["pq"]]
    lines = [list(line) for line in zip(*columns, strict=True)]
    text = tabulate(lines, headers=heads, floatfmt=".1f", tablefmt="simple")
    times = ", ".join(f"{maker} {curve['milliseconds']:.0f}" for maker, curve in makers.items())
    count = len(result["images"])
    return f"{text}\n{count} images. Median milliseconds from click to label: {times}."


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} images", end="\n" if done == total else "", file=sys.stderr)

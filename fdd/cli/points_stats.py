"""Count what is in point labels, and estimate what they cost to make.

Shows classes, points per segment, things per image and images without labels; then the time that
the points take one annotator, beside the time for outlines (polygons) of the same segments. The
seconds assumed for this are printed, and can be changed: "60" or, if you are not sure, "54-80"."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fdd.cli.terminal import printable
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.points.annotation_cost import Seconds

EXAMPLES = """
fdd points stats points.json
fdd points stats cells.yaml points_val.json
fdd points stats cells.yaml --seconds-per-polygon 20-40 --seconds-per-image 5
fdd points stats cells.yaml --config-file train.yaml
fdd points stats points.json --json > counts.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from fdd.points.annotation_cost import EXPLANATIONS, CostAssumptions

    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a point-label file, or a data set's YAML file"
    )
    parser.add_argument(
        "--num-queries",
        type=int,
        metavar="N",
        help="objects that the model can find in an image (default: MODEL.FDD.PAN.NUM_QUERIES of "
        "--config-file)",
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="the training config, to see if its queries suffice"
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    group = parser.add_argument_group("seconds of one annotator")
    for name, (option, what, source) in EXPLANATIONS.items():
        default = getattr(CostAssumptions(), name)
        group.add_argument(
            option,
            dest=name,
            type=_seconds,
            default=default,
            metavar="S",
            help=f"{what} (default: {default}; {source})",
        )


def _seconds(text: str) -> Seconds:
    from fdd.points.annotation_cost import Seconds

    try:
        return Seconds.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> None:
    from fdd.points.annotation_cost import (
        EXPLANATIONS,
        CostAssumptions,
        estimate_cost,
        format_cost,
    )
    from fdd.points.format import read_points
    from fdd.points.statistics import count_points, format_statistics

    if args.num_queries is not None and args.num_queries < 1:
        raise ValueError(f"--num-queries is {args.num_queries}; expected at least 1")
    queries = args.num_queries
    if queries is None and args.config_file:
        from fdd.config import most_things
        from fdd.engine.configs import merge_cfg

        queries = most_things(merge_cfg(args.config_file))
    assumptions = CostAssumptions(**{name: getattr(args, name) for name in EXPLANATIONS})
    paths = [_points_path(entry) for entry in args.files]
    files = [(path, count_points(read_points(path))) for path in paths]
    costs = [estimate_cost(counts, assumptions) for _, counts in files]
    if args.json:
        entries = [
            {"path": str(path), **counts.as_json(), "cost": cost.as_json()}
            for (path, counts), cost in zip(files, costs, strict=True)
        ]
        print(json.dumps({"files": entries}, indent=1, ensure_ascii=False))
        return
    for n, ((path, counts), cost) in enumerate(zip(files, costs, strict=True)):
        title = f"{path}: {counted(counts.images, 'image')}, {counted(counts.points, 'point')}"
        text = f"{format_statistics(counts, queries)}\n\n{format_cost(cost, counts)}"
        gap = "\n\n" if n else ""
        print(printable(f"{gap}{title}\n{'=' * min(len(title), 80)}\n\n{text}"))


def _points_path(entry: str) -> Path:
    """The point-label file of a path: the one that a data set file names, or itself."""
    if Path(entry).suffix.lower() not in (".yaml", ".yml"):
        return Path(entry)
    from fdd.points.dataset_file import read_dataset_file

    return read_dataset_file(entry).points

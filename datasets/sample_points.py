#!/usr/bin/env python3
"""Draw point labels from COCO panoptic data.

    python datasets/sample_points.py --dataset coco --split train --k 1 10
    python datasets/sample_points.py --panoptic-json J --panoptic-root R --output points.json --k 10

The same arguments always draw the same points. P1 is part of P10: several numbers after --k cost
one pass over the PNGs. Prints how many segments and points each class has.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fdd.data.builtin import builtin_roots
from fdd.data.point_files import (
    check_writable,
    default_workers,
    draw_point_sets,
    write_point_files,
)
from fdd.points import STRATEGIES, PointDataset, points_file_name, write_sparse_png
from fdd.points.panoptic import read_panoptic_json

SPLITS = {"coco": ("train", "val"), "voc": ("train_aug", "val")}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=SPLITS, help="fills in the usual paths")
    parser.add_argument("--split", choices=("train", "train_aug", "val"), help="with --dataset")
    parser.add_argument("--panoptic-json", type=Path, help="COCO panoptic annotations")
    parser.add_argument("--panoptic-root", type=Path, help="the folder of their PNGs")
    parser.add_argument(
        "--output",
        help="the file to write (--format json) or the folder (png); with several k, {k} in it",
    )
    parser.add_argument("--k", type=int, nargs="+", default=[10], help="points per segment")
    parser.add_argument("--strategy", choices=STRATEGIES, default="uniform")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--format", choices=("json", "png"), default="json", help="png: one sparse PNG per image"
    )
    parser.add_argument(
        "--skip-empty", action="store_true", help="leave out segments without a pixel in the PNG"
    )
    parser.add_argument("--workers", type=int, default=default_workers())
    args = parser.parse_args(argv)
    if min(args.k) < 1 or args.workers < 1:
        parser.error("--k and --workers take numbers of at least 1")
    if args.dataset:
        if args.split not in SPLITS[args.dataset]:
            parser.error(
                f"--dataset {args.dataset} needs --split {' or '.join(SPLITS[args.dataset])}"
            )
        _fill_paths(args)
    elif args.split:
        parser.error("--split goes with --dataset")
    missing = [n for n in ("panoptic_json", "panoptic_root", "output") if not getattr(args, n)]
    if missing:
        options = ", ".join("--" + name.replace("_", "-") for name in missing)
        parser.error(f"give --dataset and --split, or {options}")
    if len(set(args.k)) > 1 and "{k}" not in args.output:
        parser.error("several numbers after --k need {k} in --output, such as points_p{k}.json")
    return args


def _fill_paths(args: argparse.Namespace) -> None:
    """The paths of :mod:`fdd.data.builtin`, where nothing else is given."""
    downloads, prepared = builtin_roots()
    if args.dataset == "coco":
        name, folder = f"{args.split}2017", downloads / "coco"
        masks, json_file = folder / f"panoptic_{name}", f"annotations/panoptic_{name}.json"
        target = prepared / "coco" / "annotations"
    else:
        name, folder = args.split, prepared / "voc_panoptic"
        masks, json_file, target = (
            folder / f"voc_panoptic_{name}",
            f"voc_panoptic_{name}.json",
            folder,
        )
    args.panoptic_json = args.panoptic_json or folder / json_file
    args.panoptic_root = args.panoptic_root or masks
    path = target / points_file_name(name, "{k}", args.strategy)
    seed = f"_seed{args.seed}" if args.seed else ""
    extension = ".json" if args.format == "json" else ""
    args.output = args.output or str(path.with_name(path.stem + seed + extension))


def class_table(dataset: PointDataset) -> str:
    """Segments and points of every class that occurs, and their totals."""
    segments: Counter[int] = Counter()
    points: Counter[int] = Counter()
    for image in dataset.images:
        for segment in image.segments:
            segments[segment.category_id] += 1
            points[segment.category_id] += len(segment.points)
    absent = sum(category.id not in segments for category in dataset.categories)
    rows = [
        (c.name, "thing" if c.isthing else "stuff", str(segments[c.id]), str(points[c.id]))
        for c in dataset.categories
        if c.id in segments
    ]
    rows.append(("total", "", str(segments.total()), str(points.total())))
    table = [("class", "kind", "segments", "points"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {n:>{widths[2]}}  {p:>{widths[3]}}"
        for name, kind, n, p in table
    ]
    if absent:
        lines.append(f"({absent} of {len(dataset.categories)} classes without a segment)")
    return "\n".join(lines)


def summary(dataset: PointDataset) -> str:
    without = sum(not image.segments for image in dataset.images)
    text = f"{len(dataset.images)} images ({without} without a segment)"
    for key, what in (("skipped_crowd", "crowd"), ("skipped_empty", "empty")):
        if dataset.info.get(key):
            text += f", {dataset.info[key]} {what} segments left out"
    return text


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    outputs = {k: Path(args.output.replace("{k}", str(k))) for k in args.k}
    for path in outputs.values():
        if args.format == "png":
            _refuse_mask_folder(path, args.panoptic_root)
        check_writable(path if args.format == "png" else path.parent)
    sets = draw_point_sets(
        args.panoptic_json,
        args.panoptic_root,
        args.k,
        args.strategy,
        args.seed,
        skip_empty=args.skip_empty,
        workers=args.workers,
    )
    if args.format == "json":
        write_point_files(sets, outputs)
    else:
        _, images = read_panoptic_json(args.panoptic_json)
        names = {image.image_id: image.png_name for image in images}
        for k, dataset in sets.items():
            write_sparse_png(dataset, outputs[k], names)
    for k, dataset in sets.items():
        print(f"{class_table(dataset)}\n{outputs[k]}: P{k}, {summary(dataset)}\n")


def _refuse_mask_folder(output: Path, masks: Path) -> None:
    if os.path.realpath(output) == os.path.realpath(masks):
        raise ValueError(
            f"{output}: the folder of the masks; sparse PNGs of the same names would replace them. "
            "Name another folder with --output."
        )


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")

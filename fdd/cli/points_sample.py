"""Draw point labels from full masks, as a simulation of points that people set.

Three kinds of masks can be read:

  COCO panoptic      --panoptic-json FILE --panoptic-root DIR
  a pair of PNGs     --semantic DIR --instance DIR --classes FILE --images DIR
  of a known name    --dataset coco --split train (paths from DETECTRON2_DATASETS)

In a pair, the semantic PNG has the class of each pixel and the instance PNG tells objects apart:
8 or 16 bits, palette, or RGB as R + 256 G + 65536 B. Both have the name of the image. Each stuff
class is one segment of the image. Pixels of a thing with instance 0 are a group of unknown objects:
it gets no points, and is a crowd in the masks of --write-panoptic.

The same arguments always draw the same points, and P1 is part of P10."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fdd.cli.terminal import printable

if TYPE_CHECKING:
    from fdd.points import PointDataset

EXAMPLES = """
fdd points sample --panoptic-json panoptic.json --panoptic-root panoptic --output points.json
fdd points sample --panoptic-json panoptic.json --panoptic-root panoptic --k 1 10 \\
    --output points_p{k}.json
fdd points sample --images images --semantic semantic --instance instance \\
    --classes classes.yaml --write-panoptic masks --output points.json
fdd points sample --dataset coco --split train --k 1 10
"""

_PAIR = ("semantic", "instance", "classes", "images")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from fdd.points.sampling import STRATEGIES, default_workers

    group = parser.add_argument_group("masks in COCO's panoptic form")
    group.add_argument("--panoptic-json", type=Path, metavar="FILE", help="their annotations")
    group.add_argument("--panoptic-root", type=Path, metavar="DIR", help="folder of their PNGs")
    group.add_argument("--dataset", metavar="NAME", help="coco or voc: fills in the usual paths")
    group.add_argument(
        "--split", metavar="NAME", help="with --dataset: train (voc: train_aug) or val"
    )
    group = parser.add_argument_group("masks as pairs of PNGs")
    group.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    group.add_argument("--semantic", type=Path, metavar="DIR", help="folder of PNGs of class ids")
    group.add_argument(
        "--instance", type=Path, metavar="DIR", help="folder of PNGs of instance ids, 0 for none"
    )
    group.add_argument(
        "--classes", metavar="FILE", help="YAML that lists the classes, with the ids of the PNGs"
    )
    group.add_argument(
        "--void",
        type=int,
        nargs="*",
        default=[255],
        metavar="ID",
        help="values of the semantic PNGs that are not a class (default: 255)",
    )
    group.add_argument(
        "--write-panoptic",
        metavar="DIR",
        help="a new folder for the masks in COCO's panoptic form, to measure PQ with",
    )
    group = parser.add_argument_group("points")
    group.add_argument(
        "--k",
        type=int,
        nargs="+",
        default=[10],
        metavar="K",
        help="points per segment; several numbers give several files (default: 10)",
    )
    group.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="uniform",
        help="where in a segment: anywhere, or rather near its centre or its border "
        "(default: uniform)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another number, another draw (default: 0)"
    )
    group.add_argument(
        "--output",
        metavar="PATH",
        help="file to write (--format png: folder); with several K it has {k} in it",
    )
    group.add_argument(
        "--format",
        choices=("json", "png"),
        default="json",
        help="json: one file; png: one sparse panoptic PNG per image (default: json)",
    )
    group.add_argument(
        "--skip-empty", action="store_true", help="leave out segments without a pixel in the PNG"
    )
    group.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        metavar="N",
        help="processes that read PNGs (default: %(default)s)",
    )


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Check the arguments and fill in the paths of a known data set.

    Raises:
        ValueError: they do not go together.
    """
    if min(args.k) < 1 or args.workers < 1:
        raise ValueError("--k and --workers take numbers of at least 1")
    pair = [f"--{name}" for name in _PAIR if getattr(args, name)]
    if pair or args.write_panoptic:
        if args.dataset or args.split or args.panoptic_json or args.panoptic_root:
            raise ValueError("masks are either COCO panoptic ones or pairs of PNGs; name one kind")
        needed: tuple[str, ...] = ("images", "semantic", "classes", "output")
    else:
        _fill_paths(args)
        needed = ("panoptic_json", "panoptic_root", "output")
    missing = ["--" + name.replace("_", "-") for name in needed if not getattr(args, name)]
    if missing:
        other = "" if pair or args.write_panoptic else "--dataset and --split, or "
        raise ValueError(f"give {other}{', '.join(missing)}")
    if len(set(args.k)) > 1 and "{k}" not in args.output:
        raise ValueError("several numbers after --k need {k} in --output, such as points_p{k}.json")
    return args


def _fill_paths(args: argparse.Namespace) -> None:
    """The paths of a built-in data set, where nothing else is given."""
    if not args.dataset:
        if args.split:
            raise ValueError("--split goes with --dataset")
        return
    from fdd.data.builtin import builtin_masks
    from fdd.points.sampling import points_file_name

    masks = builtin_masks(args.dataset, args.split)
    args.panoptic_json = args.panoptic_json or masks.json
    args.panoptic_root = args.panoptic_root or masks.folder
    name = Path(points_file_name(masks.split, "{k}", args.strategy)).stem
    seed = f"_seed{args.seed}" if args.seed else ""
    extension = ".json" if args.format == "json" else ""
    args.output = args.output or str(masks.points_folder / (name + seed + extension))


def run(args: argparse.Namespace) -> None:
    from fdd.points.sampling import check_writable, write_point_files
    from fdd.points.statistics import class_table, summary

    complete(args)
    outputs = {k: Path(args.output.replace("{k}", str(k))).expanduser() for k in args.k}
    for path in outputs.values():
        if args.format == "png":
            _refuse_mask_folder(path, args)
        check_writable(path if args.format == "png" else path.parent)
    sets = _draw_pairs(args) if args.semantic else _draw_panoptic(args)
    if args.format == "json":
        write_point_files(sets, outputs)
    else:
        _write_pngs(args, sets, outputs)
    for k, dataset in sets.items():
        print(printable(f"{class_table(dataset)}\n{outputs[k]}: P{k}, {summary(dataset)}\n"))
    if args.write_panoptic:
        print(f"{args.write_panoptic}: the masks (panoptic.json, panoptic/*.png)")


def _draw_panoptic(args: argparse.Namespace) -> dict[int, PointDataset]:
    from fdd.points.sampling import draw_point_sets

    return draw_point_sets(
        args.panoptic_json,
        args.panoptic_root,
        args.k,
        args.strategy,
        args.seed,
        skip_empty=args.skip_empty,
        workers=args.workers,
    )


def _draw_pairs(args: argparse.Namespace) -> dict[int, PointDataset]:
    from fdd.points.classes import read_classes
    from fdd.points.mask_pair_sampling import sample_mask_pairs
    from fdd.points.sampling import cut_point_sets, show_progress

    dataset = sample_mask_pairs(
        args.images,
        args.semantic,
        args.instance,
        read_classes(args.classes).categories,
        max(args.k),
        args.strategy,
        args.seed,
        void=args.void,
        write_panoptic=args.write_panoptic,
        workers=args.workers,
        progress=show_progress,
    )
    return cut_point_sets(dataset, args.k)


def _write_pngs(
    args: argparse.Namespace, sets: Mapping[int, PointDataset], outputs: Mapping[int, Path]
) -> None:
    from fdd.points import write_sparse_png
    from fdd.points.coco_panoptic import read_panoptic_json

    if args.semantic:
        some = next(iter(sets.values()))
        names = {image.image_id: f"{image.image_id}.png" for image in some.images}
    else:
        names = {i.image_id: i.png_name for i in read_panoptic_json(args.panoptic_json)[1]}
    for k, dataset in sets.items():
        write_sparse_png(dataset, outputs[k], names)


def _refuse_mask_folder(output: Path, args: argparse.Namespace) -> None:
    for folder in (args.panoptic_root, args.semantic, args.instance):
        if folder and os.path.realpath(output) == os.path.realpath(folder):
            raise ValueError(
                f"{output}: the folder of the masks; sparse PNGs of the same names would replace "
                "them. Name another folder with --output."
            )

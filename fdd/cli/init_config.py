"""Write a training config for a data set: numbers of classes, iterations for the epochs, learning
rate for the batch, image size. It is a short YAML file, to be read and changed."""

from __future__ import annotations

import argparse

from fdd.cli.options import add_config_options

EXAMPLES = """
fdd init-config cells/dataset.yaml --output cells/config.yaml
fdd init-config cells/dataset.yaml --output cells/config.yaml --network small --epochs 100
fdd init-config cells/dataset.yaml --output cells/config.yaml --batch 2 MODEL.DEVICE cpu
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET.yaml", help="the file that describes the data")
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="the config to write")
    parser.add_argument(
        "--network",
        choices=("resnet50", "small"),
        default="resnet50",
        help="resnet50: the published network, from ImageNet weights, for a GPU (default); small: "
        "a small one trained from scratch, for small images and a CPU",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the images (default: 20, or as many more as the network needs)",
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="images a step (default: 8, or fewer if there are)"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PIXELS",
        help="size that images are resized to (default: what suits network and images)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing config")
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    import logging
    import os
    import shlex

    if os.path.isdir(args.output):
        raise IsADirectoryError(f"{args.output}: a folder; give the name of a file")
    if os.path.exists(args.output) and not args.overwrite:
        raise ValueError(f"{args.output} exists; name another --output, or add --overwrite")
    from detectron2.data import DatasetCatalog

    from fdd.data import get_metadata, register_dataset_file
    from fdd.engine.recipe import make_recipe
    from fdd.engine.recipe_file import write_config
    from fdd.points.dataset_file import read_dataset_file

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    name = register_dataset_file(args.dataset)
    recipe = make_recipe(
        read_dataset_file(args.dataset),
        DatasetCatalog.get(name),
        get_metadata(name).categories,
        network=args.network,
        epochs=args.epochs,
        batch=args.batch,
        short_side=args.short_side,
    )
    write_config(recipe, args.output, args.opts)
    for key in ("SOLVER.MAX_ITER", "SOLVER.BASE_LR", "INPUT.MIN_SIZE_TRAIN"):
        if key not in args.opts[::2]:
            print(f"{key}: {recipe.keys[key]} ({recipe.notes.get(key, '')})")
    output = os.path.join("output", os.path.splitext(os.path.basename(args.output))[0])
    print(f"Wrote {args.output}. To see how the points look at its sizes, and to train:")
    check = ["points", "check", args.dataset, "--config-file", args.output]
    train = ["train", "--config-file", args.output, "OUTPUT_DIR", output]
    for words in (check, train):
        print("  " + shlex.join(["fdd", *words]))

"""Write a training config for a data set: numbers of classes, image size for the objects,
iterations for the epochs, learning rate for the batch. It is a short YAML file, made to be read and
changed. Says how long the training will take on this machine."""

from __future__ import annotations

import argparse
import logging
import os
import shlex

from fdd.cli.options import add_config_options, refuse_existing

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
        choices=("resnet50", "reduced", "small"),
        help="resnet50: the published network, from ImageNet weights (default with a GPU); "
        "reduced: a frozen one of ImageNet weights with small heads (default on a "
        "CPU); "
        "small: a small one from scratch, for drawings and other plain images on a CPU",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the images (default: 20, or as many as the network needs and the machine "
        "can do in time)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images a step (default: 8; reduced: 4, or 2 large ones on a CPU)",
    )
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PIXELS",
        help="size that whole images are resized to (default: so that a thing can be seen, as "
        "far as the network can afford; where things are tiny, it is trained on crops)",
    )
    parser.add_argument(
        "--no-timing", action="store_true", help="do not measure how long the training will take"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing config")
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    refuse_existing(args.output, args.overwrite)
    from detectron2.data import DatasetCatalog

    from fdd.data import get_metadata, register_dataset_file
    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.engine.checks import runs_on_cpu
    from fdd.engine.configs import merge_cfg
    from fdd.points.dataset_file import read_dataset_file
    from fdd.recipe.recipe import default_network, make_recipe, write_config

    refuse_idle_keys("init-config", args.opts)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    on_cpu = runs_on_cpu(merge_cfg("", args.opts).MODEL.DEVICE)
    name = register_dataset_file(args.dataset)
    recipe = make_recipe(
        read_dataset_file(args.dataset),
        DatasetCatalog.get(name),
        get_metadata(name).categories,
        network=args.network or default_network(on_cpu),
        epochs=args.epochs,
        batch=args.batch,
        short_side=args.short_side,
        on_cpu=on_cpu,
    )
    write_config(recipe, args.output, args.opts)
    _say_network(args, recipe.network, on_cpu)
    for key in ("INPUT.MIN_SIZE_TRAIN", "INPUT.CROP.SIZE", "SOLVER.MAX_ITER", "SOLVER.BASE_LR"):
        if key in recipe.keys and key not in args.opts[::2]:
            note = recipe.notes.get(key)
            print(f"{key}: {recipe.keys[key]}" + (f" ({note})" if note else ""))
    if not args.no_timing:
        _say_time(args.output)
    folder, name = os.path.split(os.path.abspath(args.output))
    stem = os.path.splitext(name)[0]
    # Every data set may have a config.yaml, but training refuses a used folder.
    output = os.path.join("output", os.path.basename(folder) if stem == "config" else stem)
    print(f"Wrote {args.output}. To see how the points look at its sizes, and to train:")
    check = ["points", "check", args.dataset, "--config-file", args.output]
    train = ["train", "--config-file", args.output, "OUTPUT_DIR", output]
    for words in (check, train):
        print("  " + shlex.join(["fdd", *words]))


def _say_network(args: argparse.Namespace, network: str, on_cpu: bool) -> None:
    from fdd.recipe.recipe import NETWORKS

    others = ", ".join(f"--network {name}" for name in NETWORKS if name != network)
    why = ""
    if not args.network:
        given = "MODEL.DEVICE" in args.opts[::2]
        cause = "MODEL.DEVICE is not a GPU" if given else "torch finds no GPU"
        why = f", because {cause if on_cpu else 'torch finds a GPU'}"
    print(f"Network: {network}{why} (others: {others}): {NETWORKS[network].about}")


def _say_time(config: str) -> None:
    """The config is written already: no error ends the command."""
    from fdd.recipe.training_time import measure_training

    try:
        print(f"Training: {measure_training(config).describe()}")
    except Exception as error:
        print(f"Training: its time could not be measured ({type(error).__name__}: {error})")

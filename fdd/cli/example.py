"""Draw a small folder to try everything on: images, points as LabelMe writes them, a few more
images with masks for validation, and, to measure labels with, the masks of the labelled images
beside them."""

from __future__ import annotations

import argparse

EXAMPLES = """
fdd example my_data
fdd example my_data --images 40 --points 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder to draw, new or empty")
    parser.add_argument(
        "--images", type=int, default=10, metavar="N", help="images with points (default: 10)"
    )
    parser.add_argument(
        "--points", type=int, default=10, metavar="K", help="clicks an object (default: 10)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another one draws others (default: 0)"
    )


def run(args: argparse.Namespace) -> None:
    from fdd.data.example import DATASET_FILE, MASKED_FILE, draw_example
    from fdd.points.wording import counted

    folder = draw_example(args.folder, args.images, points=args.points, seed=args.seed)
    drawn = counted(args.images, "image")
    print(f"Drew {drawn} in {folder}/images, their points in {folder}/labelme, and")
    print(f"4 images for validation in {folder}/val_images with masks in {folder}/panoptic_val.")
    print(f"{folder}/{MASKED_FILE} names the masks of the {args.images} images, too: labels can be")
    print("measured with it, and no training reads them.")
    options = f"--images {folder}/images --classes {folder}/{DATASET_FILE}"
    print(f"next: fdd points import {folder}/labelme {options} --output {folder}/points.json")

#!/usr/bin/env python3
"""Look at training data: annotations as they are on disk, or what the mapper makes of them."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fdd  # before Detectron2, about whose import PyTorch warns

# isort: split
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import fdd.data  # noqa: F401  (registers the data sets)
from fdd.config import check_fdd_config
from fdd.engine.configs import load_cfg
from fdd.engine.logs import set_up_logs
from fdd.visualization import (
    Palette,
    as_palette,
    contact_sheet,
    draw_instance_labels,
    draw_points,
    draw_semantic,
    expand_cells,
    make_panels,
)
from fdd.visualization.files import read_ground_truth, read_rgb, write_rgb
from fdd.visualization.sheet import image_from_input, to_numpy

logger = logging.getLogger("fdd.visualize_data")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--source",
        choices=["annotation", "dataloader"],
        required=True,
        help="annotation: images with the points or masks of the set; dataloader: augmented images "
        "with the points and the stride-8 squares that supervise the model",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output-dir", default="./", metavar="DIR")
    parser.add_argument("--show", action="store_true", help="open each picture in a viewer as well")
    parser.add_argument("--num", type=int, default=None, help="stop after this many images")
    parser.add_argument("--seed", type=int, default=0, help="of the augmentations")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="config keys and values")
    return parser


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    cfg, _ = load_cfg(args.config_file, args.opts)
    check_fdd_config(cfg)
    if not len(cfg.DATASETS.TRAIN):
        raise ValueError("DATASETS.TRAIN is empty; name a set: DATASETS.TRAIN \"('my_set',)\"")
    cfg.freeze()
    return cfg


def annotation_panels(dataset_dict: Mapping[str, Any], palette: Palette) -> dict[str, np.ndarray]:
    """The image with its points, and with its masks where the set has them."""
    return make_panels(
        read_rgb(dataset_dict["file_name"]),
        palette,
        points=dataset_dict.get("points"),
        ground_truth=read_ground_truth(dataset_dict),
        upscale_to=640,
    )


def dataloader_panels(
    mapped: Mapping[str, Any], palette: Palette, image_format: str
) -> dict[str, np.ndarray]:
    """The augmented image with its points, their squares, and dense maps where the mapper has
    them.
    """
    image = image_from_input(mapped["image"], image_format)
    height, width = image.shape[:2]
    classes = to_numpy(mapped["classes"])
    panels: dict[str, np.ndarray] = {}
    if "point_coords" in mapped:
        coords, index = to_numpy(mapped["point_coords"]), to_numpy(mapped["point_index"])
        panels["Points"] = draw_points(image, coords, index, classes, palette, upscale_to=640)
    squares = len(mapped.get("point_coords", [])) > 0  # a mask set has none
    if squares and "point_instance_map" in mapped:
        cells = expand_cells(to_numpy(mapped["point_instance_map"]), 8, height, width)
        panels["Instances of the squares"] = draw_instance_labels(
            image, cells, classes, palette, void="plain", upscale_to=640
        )
    if squares and "point_semantic_map" in mapped:
        cells = expand_cells(to_numpy(mapped["point_semantic_map"]), 8, height, width)
        panels["Classes of the squares"] = draw_semantic(
            image, cells, palette, void="plain", upscale_to=640
        )
    if "instance_map" in mapped:
        cells = expand_cells(to_numpy(mapped["instance_map"]), 4, height, width)
        panels["Masks"] = draw_instance_labels(image, cells, classes, palette, upscale_to=640)
    return panels


def draw_set(name: str, cfg: CfgNode, args: argparse.Namespace, budget: int | None) -> int:
    """Draw up to ``budget`` images of one set; returns how many that were."""
    dicts = DatasetCatalog.get(name)
    palette = as_palette(MetadataCatalog.get(name))
    mapper = None
    if args.source == "dataloader":
        from fdd.data.mapper import FDDDatasetMapper

        mapper = FDDDatasetMapper(cfg, is_train=True)
    folder = Path(args.output_dir)
    if len(cfg.DATASETS.TRAIN) > 1:
        # Two sets may hold one file name. The name of a set may be a path.
        folder = folder / re.sub(r"[^\w.-]+", "_", name).strip("_")
    drawn = 0
    taken: set[str] = set()
    for position, dataset_dict in enumerate(dicts):
        if budget is not None and drawn >= budget:
            break
        if mapper is None:
            panels = annotation_panels(dataset_dict, palette)
            classes = dataset_dict.get("points") or dataset_dict.get("segments_info") or []
            present = {int(c["category_id"]) for c in classes}
        else:
            mapped = mapper({**dataset_dict, "_seed": [args.seed, position]})
            panels = dataloader_panels(mapped, palette, cfg.INPUT.FORMAT)
            present = set(to_numpy(mapped["classes"]).tolist())
        sheet = contact_sheet(
            [panels],
            captions=[str(dataset_dict["file_name"])],
            metadata=palette,
            legend_classes=sorted(present),
            cell_width=640,
        )
        stem = Path(dataset_dict["file_name"]).stem
        stem = stem if stem not in taken else f"{stem}_{position}"
        taken.add(stem)
        path = write_rgb(folder / f"{stem}_{args.source}.jpg", sheet)
        logger.info("Wrote %s", path)
        if args.show:
            Image.fromarray(sheet).show(title=stem)
        drawn += 1
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    set_up_logs(names=["fdd"])
    try:
        cfg = setup_cfg(args)
        total = 0
        for name in cfg.DATASETS.TRAIN:
            budget = None if args.num is None else args.num - total
            total += draw_set(name, cfg, args, budget)
    except (ValueError, OSError, KeyError) as error:
        print(f"visualize_data.py: {error}", file=sys.stderr)
        return 2
    logger.info("Drew %d images into %s", total, args.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())

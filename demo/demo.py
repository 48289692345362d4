#!/usr/bin/env python3
"""Segment images with a trained model: a picture, a COCO panoptic PNG and a JSON of each image."""

from __future__ import annotations

import argparse
import glob
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

import fdd.modeling  # noqa: F401  (registers the model)
from fdd.config import check_fdd_config
from fdd.data import get_metadata
from fdd.data.augmentation import ResizeShortestEdge
from fdd.data.dataset_files import resolve_name
from fdd.engine import load_for_inference, resolve_device
from fdd.engine.configs import merge_cfg
from fdd.visualization import Palette, as_palette, draw_panoptic
from fdd.visualization.files import read_rgb, write_panoptic_png, write_rgb

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
logger = logging.getLogger("fdd.demo")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's config")
    parser.add_argument(
        "--input", required=True, nargs="+", help="images, folders of images, or quoted globs"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--alpha", type=float, default=0.55, help="weight of the colours, 0 to 1")
    parser.add_argument(
        "--opts",
        default=[],
        nargs=argparse.REMAINDER,
        help="config keys and values, to stand last: --opts MODEL.WEIGHTS model.pth",
    )
    return parser


def setup_cfg(config_file: str, opts: Sequence[str]) -> CfgNode:
    """The frozen config of a file and ``KEY VALUE`` pairs."""
    cfg = merge_cfg(config_file, opts)
    check_fdd_config(cfg)
    if warning := resolve_device(cfg):
        logging.getLogger("fdd").warning(warning)
    cfg.freeze()
    return cfg


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files that paths, folders (not their sub-folders) and globs stand for, each once.

    Raises:
        FileNotFoundError: where one of them stands for no image.
    """
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry)
        # A name with brackets is tried as a file before it is tried as a pattern.
        if path.is_dir():
            hits = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        elif path.is_file():
            hits = [path]
        else:
            hits = sorted(Path(p) for p in glob.glob(entry, recursive=True) if Path(p).is_file())
        if not hits:
            endings = ", ".join(sorted(IMAGE_ENDINGS))
            raise FileNotFoundError(
                f"--input {entry!r} is no file, no pattern that matches one, and no folder with "
                f"images ({endings})"
            )
        found.update(dict.fromkeys(hits))
    return list(found)


def output_stems(paths: Sequence[Path]) -> list[str]:
    """A name for each image's results: its stem, made longer where two images share it."""
    stems: list[str] = []
    for path in paths:
        stem, number = path.stem, 2
        while stem in stems:
            stem, number = f"{path.stem}_{number}", number + 1
        stems.append(stem)
    return stems


def load_model(cfg: CfgNode) -> torch.nn.Module:
    """The model in evaluation mode with its weights.

    Raises:
        ValueError: without ``MODEL.WEIGHTS``, or where the file holds another model (only a
            backbone, or one with other classes).
        FileNotFoundError: where there is no such file.
    """
    model = build_model(cfg).eval()
    load_for_inference(model, cfg.MODEL.WEIGHTS)
    return model


def load_palette(cfg: CfgNode) -> tuple[Palette, list[int]]:
    """Names and colours of the classes, and the data set's own id of each contiguous id.

    The names come from the first set of ``DATASETS.TEST``; where that is not on disk, generic names
    stand in, and the contiguous ids are given as they are.
    """
    count = cfg.MODEL.FDD.NUM_THINGS + cfg.MODEL.FDD.NUM_STUFF
    try:
        if not len(cfg.DATASETS.TEST):
            raise ValueError("DATASETS.TEST is empty")
        name = resolve_name(cfg.DATASETS.TEST[0], "validation")
        categories = list(get_metadata(name).categories)
        if len(categories) != count:
            raise ValueError(f"data set {name!r} has {len(categories)} classes, the model {count}")
    except (AttributeError, KeyError, OSError, ValueError) as error:
        logger.warning("Generic class names are used: %s", error)
        generic = Palette.generic(cfg.MODEL.FDD.NUM_THINGS, cfg.MODEL.FDD.NUM_STUFF)
        return generic, list(range(count))
    return as_palette(categories), [int(c["id"]) for c in categories]


def make_predictor(
    model: torch.nn.Module, cfg: CfgNode
) -> Callable[[np.ndarray], tuple[np.ndarray, list[dict[str, Any]]]]:
    """A function from an RGB image to its panoptic map, int64 ``(H, W)``, and the segments."""
    resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def predict(image: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        height, width = image.shape[:2]
        pixels = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
        pixels = resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        output = model([{"image": tensor, "height": height, "width": width}])[0]
        seg, segments = output["panoptic_seg"]
        return seg.cpu().numpy().astype(np.int64), list(segments)

    return predict


def describe_segments(
    seg: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    palette: Palette,
    dataset_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """COCO panoptic ``segments_info`` with names and scores; areas and boxes are measured on the
    map.
    """
    described = []
    for segment in segments:
        rows, cols = np.nonzero(seg == int(segment["id"]))
        if not len(rows):
            continue
        k = int(segment["category_id"])
        left, top = int(cols.min()), int(rows.min())
        entry: dict[str, Any] = {
            "id": int(segment["id"]),
            "category_id": dataset_ids[k],
            "category_name": palette.names[k],
            "isthing": int(palette.isthing[k]),
            "area": len(rows),
            "bbox": [left, top, int(cols.max()) + 1 - left, int(rows.max()) + 1 - top],
            "iscrowd": 0,
        }
        if segment.get("score") is not None:
            entry["score"] = round(float(segment["score"]), 4)
        described.append(entry)
    return described


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the number of images that could not be read is the exit status (at most 1)."""
    args = get_parser().parse_args(argv)
    setup_logger(name="fdd")
    try:
        paths = find_images(args.input)
        cfg = setup_cfg(args.config_file, args.opts)
        model = load_model(cfg)
        predict = make_predictor(model, cfg)
    except (ValueError, OSError, KeyError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    palette, dataset_ids = load_palette(cfg)
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path, stem in zip(paths, output_stems(paths), strict=True):
        try:
            image = read_rgb(path)
        except (OSError, ValueError) as error:
            logger.error("Skipped: %s", error)
            failed += 1
            continue
        start = time.perf_counter()
        seg, segments = predict(image)
        seconds = time.perf_counter() - start
        picture = draw_panoptic(
            image, seg, segments, palette, alpha=args.alpha, scores=True, upscale_to=480
        )
        write_rgb(out / f"{stem}_overlay.jpg", picture)
        write_panoptic_png(out / f"{stem}_panoptic.png", seg)
        info = {
            "file_name": path.name,
            "panoptic_file_name": f"{stem}_panoptic.png",
            "height": image.shape[0],
            "width": image.shape[1],
            "segments_info": describe_segments(seg, segments, palette, dataset_ids),
        }
        text = json.dumps(info, indent=1, ensure_ascii=False)
        (out / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        logger.info("%s: %d segments in %.2f s", path, len(info["segments_info"]), seconds)
    done = len(paths) - failed
    logger.info("Wrote the results of %d of %d images to %s", done, len(paths), out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

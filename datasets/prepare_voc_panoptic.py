#!/usr/bin/env python3
"""Turn Pascal VOC 2012 and SBD into COCO panoptic data, and draw the point labels.

    DETECTRON2_DATASETS=/data python datasets/prepare_voc_panoptic.py

Reads <root>/VOC2012 (or <root>/VOCdevkit/VOC2012) and <root>/benchmark_RELEASE/dataset. Writes, for
the splits train_aug (VOC train and SBD without VOC val) and val: voc_panoptic_{split}.json,
voc_panoptic_{split}/*.png and points_{split}_p{1,10}.json. Running it again gives the same files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fdd.data.voc import (
    SBD_HINT,
    VOC_HINT,
    VocSource,
    compose_train_aug,
    convert_image,
    find_source,
    read_list,
    voc_categories,
)
from fdd.points.coco_panoptic import PanopticWriter
from fdd.points.sampling import (
    check_writable,
    default_workers,
    draw_point_sets,
    write_point_files,
)

SPLITS = ("train_aug", "val")
OFFICIAL_COUNTS = {"train_aug": 10582, "val": 1449}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    root = os.environ.get("DETECTRON2_DATASETS") or "datasets"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default=root, help="data root (default: $DETECTRON2_DATASETS)")
    parser.add_argument("--voc", help="the folder VOC2012, if not below the root")
    parser.add_argument("--sbd", help="SBD's folder benchmark_RELEASE/dataset, likewise")
    parser.add_argument(
        "--output",
        help="folder to write to (default: $FDD_DATASETS/voc_panoptic or <root>/voc_panoptic)",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument(
        "--points", nargs="*", type=int, default=[1, 10], help="points per segment; none: no points"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the points")
    parser.add_argument("--workers", type=int, default=default_workers())
    args = parser.parse_args(argv)
    if any(k < 1 for k in args.points) or args.workers < 1:
        parser.error("--points and --workers take numbers of at least 1")
    return args


def image_lists(source: VocSource, splits: Sequence[str]) -> dict[str, list[tuple[str, bool]]]:
    """For each split, its image ids and whether SBD's annotation is taken."""
    folder = source.voc / "ImageSets" / "Segmentation"
    val = read_list(folder / "val.txt", VOC_HINT)
    lists = {}
    if "train_aug" in splits:
        assert source.sbd is not None
        train = read_list(folder / "train.txt", VOC_HINT)
        sbd = [read_list(source.sbd / f"{name}.txt", SBD_HINT) for name in ("train", "val")]
        own = set(train)
        names = compose_train_aug(train, val, *sbd)
        lists["train_aug"] = [(name, name not in own) for name in names]
    if "val" in splits:
        lists["val"] = [(name, False) for name in sorted(val)]
    for split, images in lists.items():
        if not images:
            raise ValueError(f"{split} has no image: the lists below {folder} are empty")
    return lists


def convert_split(
    source: VocSource, output: Path, split: str, images: list[tuple[str, bool]], workers: int
) -> int:
    """Write the PNGs, then the JSON, so that a JSON always has its PNGs; the segments' number."""
    png_root = output / f"voc_panoptic_{split}"
    job = partial(convert_image, source, png_root=png_root)
    ids, from_sbd = zip(*images, strict=True)
    with ExitStack() as stack:
        results: Iterable[Any]
        if workers > 1:
            pool = ProcessPoolExecutor(min(workers, len(images)))
            # An error must not wait for the images that are still in the queue.
            stack.callback(pool.shutdown, cancel_futures=True)
            chunk = max(1, min(32, len(images) // workers))
            results = pool.map(job, ids, from_sbd, chunksize=chunk)
        else:
            results = map(job, ids, from_sbd)
        done = list(tqdm(results, total=len(images), desc=split, unit="img"))
    description = f"Pascal VOC 2012 with SBD, {split}, in COCO panoptic form"
    writer = PanopticWriter(voc_categories(), {"description": description})
    for entry, _ in done:
        writer.add(*entry)
    writer.write(output / f"voc_panoptic_{split}.json")
    lost = [f"{entry[0]} ({len(numbers)})" for entry, numbers in done if numbers]
    if lost:
        print(f"{split}: objects without a pixel of any class became void: {', '.join(lost)}")
    return sum(len(segments) for (*_, segments), _ in done)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    prepared = os.environ.get("FDD_DATASETS") or args.root
    output = Path(args.output or Path(prepared) / "voc_panoptic").expanduser()
    source = find_source(
        Path(args.root).expanduser(), args.voc, args.sbd, need_sbd="train_aug" in args.splits
    )
    lists = image_lists(source, args.splits)
    check_writable(output)
    for split, images in lists.items():
        segments = convert_split(source, output, split, images, args.workers)
        json_file = output / f"voc_panoptic_{split}.json"
        print(f"{json_file}: {len(images)} images, {segments} segments")
        if len(images) != OFFICIAL_COUNTS[split]:
            print(f"  (the complete data sets have {OFFICIAL_COUNTS[split]} images in this split)")
        if args.points:
            sets = draw_point_sets(
                json_file,
                output / f"voc_panoptic_{split}",
                args.points,
                seed=args.seed,
                workers=args.workers,
            )
            outputs = {k: output / f"points_{split}_p{k}.json" for k in sets}
            write_point_files(sets, outputs)
            for path in outputs.values():
                print(f"{path}: written")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")

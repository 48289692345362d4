"""A small panoptic data set that the package draws itself: try everything without a download.

    python -m fdd.data.shapes --root datasets --train 400 --val 60 --size 160 --seed 0

Layout below ``<root>/shapes``: ``{train,val}/*.png`` (images), ``panoptic_{split}.json`` and
``panoptic_{split}/`` (COCO panoptic), ``points_{split}_p{k}.json`` (point labels, drawn uniformly;
``..._center.json`` and ``..._border.json`` by other strategies, if asked for) and ``manifest.json``
(the arguments it was drawn with).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fdd.data.shapes_drawing import STUFF_NAMES, THING_NAMES, draw_scene
from fdd.points import STRATEGIES, points_file_name, sample_panoptic, write_points
from fdd.points.coco_panoptic import PanopticWriter, describe_segments, encode_ids

# Raise it whenever the same arguments would give other files, so that old copies are drawn again.
_VERSION = 5
_FIRST_STUFF_ID = 11
_SPLITS = ("train", "val")
_MIN_SIZE = 32


def generate_shapes(
    root: str | os.PathLike[str],
    num_train: int = 400,
    num_val: int = 60,
    size: int = 160,
    seed: int = 0,
    points: Sequence[int] = (1, 10),
    strategies: Sequence[str] = ("uniform",),
) -> Path:
    """Draw the shapes data set below ``root``, unless it is there with the same arguments.

    Every picture depends only on (seed, split, index, size): more images never change the first
    ones, and two processes draw the same files. The folder is written aside and then renamed, so a
    stopped run leaves nothing half done.

    Args:
        root: folder that will hold ``shapes/``; made where it is absent.
        num_train: number of training images.
        num_val: number of validation images.
        size: side of the square images in pixels, at least 32.
        seed: any non-negative number.
        points: numbers of points a segment for which point label files are written.
        strategies: how these are drawn, among ``fdd.points.STRATEGIES``; a file for each.

    Returns:
        The folder ``<root>/shapes``.

    Raises:
        ValueError: an argument is out of its range.
        FileExistsError: ``<root>/shapes`` exists and was not made by this function.
    """
    if num_train < 0 or num_val < 0 or seed < 0 or size < _MIN_SIZE or any(k < 1 for k in points):
        raise ValueError(
            f"cannot draw shapes with num_train={num_train}, num_val={num_val}, size={size}, "
            f"seed={seed}, points={tuple(points)}: counts and seed must be >= 0, "
            f"size >= {_MIN_SIZE} and points >= 1"
        )
    unknown = sorted(set(strategies) - set(STRATEGIES))
    if unknown:
        raise ValueError(
            f"cannot draw points by {', '.join(unknown)}; expected some of {', '.join(STRATEGIES)}"
        )
    target = Path(root) / "shapes"
    manifest: dict[str, Any] = {
        "generator": "fdd.data.shapes",
        "version": _VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "size": size,
        "seed": seed,
        "points": [int(k) for k in points],
        "strategies": list(strategies),
    }
    if _read_manifest(target) == manifest:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".shapes-{os.getpid()}-{time.monotonic_ns()}")
    try:
        for split, count in zip(_SPLITS, (num_train, num_val), strict=True):
            _write_split(aside, split, count, size, seed)
            for strategy in strategies:
                _write_points(aside, split, manifest["points"], strategy, seed)
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        _move_into_place(aside, target, manifest)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def shapes_categories() -> list[dict[str, Any]]:
    """The ``categories`` list of the data set, things first, as COCO panoptic writes it."""
    things = [
        {"id": n + 1, "name": name, "supercategory": "thing", "isthing": 1}
        for n, name in enumerate(THING_NAMES)
    ]
    stuff = [
        {"id": n + _FIRST_STUFF_ID, "name": name, "supercategory": "stuff", "isthing": 0}
        for n, name in enumerate(STUFF_NAMES)
    ]
    return things + stuff


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an existing data set; None where there is no folder.

    A folder of other origin is an error: replacing it would delete data.
    """
    if not folder.exists():
        return None
    try:
        found = json.loads((folder / "manifest.json").read_text())
        if found["generator"] == "fdd.data.shapes":
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise FileExistsError(
        f"{folder} exists but has no manifest.json of the shapes generator, so it may hold other "
        "data; remove it or choose another root"
    )


def _write_split(folder: Path, split: str, count: int, size: int, seed: int) -> None:
    for name in (split, f"panoptic_{split}"):
        (folder / name).mkdir(parents=True)
    info = {"description": "shapes, drawn by fdd.data.shapes", "seed": seed, "size": size}
    writer = PanopticWriter(shapes_categories(), info)
    for number in range(count):
        rng = np.random.default_rng([seed, _SPLITS.index(split), number])
        scene = draw_scene(rng, size)
        stem = f"{split}_{number:05d}"
        file_name = f"{stem}.png"
        # An id is unique in the image and never 0, which is void.
        classes = [k + _FIRST_STUFF_ID for k in scene.stuff] + [k + 1 for k in scene.things]
        categories = {category * 1000 + n: category for n, category in enumerate(classes)}
        ids = np.array([*categories], np.int32)[scene.index]
        _write_png(folder / split / file_name, scene.image)
        _write_png(folder / f"panoptic_{split}" / file_name, encode_ids(ids))
        segments = describe_segments(ids, categories)
        writer.add(stem, file_name, (size, size), file_name, segments)
    writer.write(folder / f"panoptic_{split}.json")


def _write_png(path: Path, rgb: np.ndarray) -> None:
    # cv2.imwrite cannot open every non-ASCII path, so the bytes are written here.
    ok, buffer = cv2.imencode(".png", rgb[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not ok:
        raise OSError(f"could not encode {path}")
    path.write_bytes(buffer.tobytes())


def _write_points(
    folder: Path, split: str, points: Sequence[int], strategy: str, seed: int
) -> None:
    json_file, png_folder = folder / f"panoptic_{split}.json", folder / f"panoptic_{split}"
    for k in points:
        dataset = sample_panoptic(json_file, png_folder, k, strategy, seed)
        write_points(folder / points_file_name(split, k, strategy), dataset)


def _move_into_place(aside: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Replace ``target`` by ``aside``, unless another process has just made the same."""
    for attempt in range(3):
        if _read_manifest(target) == manifest:
            return
        old = target.with_name(f"{aside.name}-old-{attempt}")
        try:
            if target.exists():
                os.rename(target, old)
            os.rename(aside, target)
            return
        except OSError:
            if attempt == 2:
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def main(args: Sequence[str] | None = None) -> None:
    default_root = os.environ.get("FDD_DATASETS") or os.environ.get("DETECTRON2_DATASETS")
    parser = argparse.ArgumentParser(
        prog="python -m fdd.data.shapes", description="Draw the shapes data set."
    )
    parser.add_argument(
        "--root",
        default=default_root or "datasets",
        help="folder that will hold shapes/ (default: $FDD_DATASETS or $DETECTRON2_DATASETS)",
    )
    parser.add_argument("--train", type=int, default=400, help="number of training images")
    parser.add_argument("--val", type=int, default=60, help="number of validation images")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--strategies",
        nargs="+",
        choices=STRATEGIES,
        default=["uniform"],
        help="how the points are drawn (default: uniform)",
    )
    options = parser.parse_args(args)
    start = time.perf_counter()
    folder = generate_shapes(
        options.root,
        options.train,
        options.val,
        size=options.size,
        seed=options.seed,
        strategies=options.strategies,
    )
    print(f"{folder} ready after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()

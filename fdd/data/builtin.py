"""The data sets that the package knows by name; ``datasets/README.md`` tells how to get them.

Roots: ``DETECTRON2_DATASETS`` (default ``datasets``) holds the downloads. ``FDD_DATASETS`` (the
same folder by default) holds what the preparing scripts write, in case that the downloads lie where
nothing can be written: the point labels, ``voc_panoptic/`` and ``shapes/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdd.data.catalog import forget, register_panoptic, register_points
from fdd.points import STRATEGIES, points_file_name

__all__ = ["SPLITS", "BuiltinMasks", "builtin_masks", "builtin_roots", "register_builtin"]

#: Splits of the sets whose points are drawn from downloaded masks.
SPLITS = {"coco": ("train", "val"), "voc": ("train_aug", "val")}

_POINTS = (1, 10)
_DOWNLOAD = (
    "It is downloaded, see datasets/README.md, and looked for below the folder that "
    "DETECTRON2_DATASETS names ({root})."
)
_MADE = (
    "{script} makes it, see datasets/README.md, below the folder that FDD_DATASETS names or, "
    "without it, DETECTRON2_DATASETS ({root})."
)
_SHAPES_HINT = (
    "Draw the data set with `python -m fdd.data.shapes --root {root}` (other points than uniform "
    "ones: --strategies uniform center border). It is looked for below the folder that "
    "FDD_DATASETS names or, without it, DETECTRON2_DATASETS."
)


def builtin_roots() -> tuple[Path, Path]:
    """The folders of downloaded and of prepared files, from the environment."""
    downloads = os.environ.get("DETECTRON2_DATASETS") or "datasets"
    prepared = os.environ.get("FDD_DATASETS") or downloads
    return Path(downloads).expanduser(), Path(prepared).expanduser()


@dataclass(frozen=True)
class BuiltinMasks:
    """Where a built-in split has its masks, and where its points belong.

    Attributes:
        json, folder: COCO panoptic masks.
        points_folder, split: what :func:`fdd.points.points_file_name` files are put into, and the
            name of the split in theirs.
    """

    json: Path
    folder: Path
    points_folder: Path
    split: str


def builtin_masks(dataset: str, split: str | None) -> BuiltinMasks:
    """The paths of a split, from the environment.

    Raises:
        ValueError: no such data set or split.
    """
    if dataset not in SPLITS:
        raise ValueError(f"--dataset {dataset!r}; expected one of {', '.join(SPLITS)}")
    if split not in SPLITS[dataset]:
        raise ValueError(f"--dataset {dataset} needs --split {' or '.join(SPLITS[dataset])}")
    downloads, prepared = builtin_roots()
    if dataset == "coco":
        name, folder = f"{split}2017", downloads / "coco"
        source, masks = (
            folder / "annotations" / f"panoptic_{name}.json",
            folder / f"panoptic_{name}",
        )
        return BuiltinMasks(source, masks, prepared / "coco" / "annotations", name)
    folder = prepared / "voc_panoptic"
    masks = folder / f"voc_panoptic_{split}"
    return BuiltinMasks(folder / f"{masks.name}.json", masks, folder, split)


def register_builtin(downloads: Path | None = None, prepared: Path | None = None) -> None:
    """Register all built-in names, in place of earlier registrations of the same names.

    Args:
        downloads: root of the downloaded files; from the environment if not given.
        prepared: root of the prepared files; ``downloads`` if only that is given.
    """
    if downloads is None:
        env_downloads, env_prepared = builtin_roots()
        downloads, prepared = env_downloads, prepared or env_prepared
    prepared = prepared or downloads
    download = _DOWNLOAD.format(root=downloads)
    drawn = _MADE.format(script="datasets/sample_points.py", root=prepared)
    converted = _MADE.format(script="datasets/prepare_voc_panoptic.py", root=prepared)
    for split in ("train", "val"):
        coco, points = downloads / "coco", prepared / "coco" / "annotations"
        _register_family(
            f"fdd_coco_2017_{split}",
            coco / f"{split}2017",
            coco / "annotations" / f"panoptic_{split}2017.json",
            coco / f"panoptic_{split}2017",
            (points, f"{split}2017"),
            _by_field(download, download, drawn),
        )
    for split in ("train_aug", "val"):
        voc = prepared / "voc_panoptic"
        _register_family(
            f"fdd_voc_2012_{split}",
            downloads,
            voc / f"voc_panoptic_{split}.json",
            voc / f"voc_panoptic_{split}",
            (voc, split),
            _by_field(download, converted, converted),
        )
    for split in ("train", "val"):
        shapes = prepared / "shapes"
        _register_family(
            f"fdd_shapes_{split}",
            shapes / split,
            shapes / f"panoptic_{split}.json",
            shapes / f"panoptic_{split}",
            (shapes, split),
            _SHAPES_HINT.format(root=prepared),
        )


def _by_field(images: str, masks: str, points: str) -> dict[str, str]:
    """Hints for the fields of :func:`fdd.data.register_points`."""
    return {
        "image_root": images,
        "panoptic_json": masks,
        "panoptic_root": masks,
        "points_json": points,
    }


def _register_family(
    prefix: str,
    image_root: Path,
    panoptic_json: Path,
    panoptic_root: Path,
    points: tuple[Path, str],
    hint: str | Mapping[str, str],
) -> None:
    """Register one split: its full masks and its point labels (folder, split), those of Table 7's
    strategies under ``..._center`` and ``..._border``."""
    name = f"{prefix}_panoptic"
    forget(name)
    register_panoptic(name, image_root, panoptic_json, panoptic_root, hint=hint)
    folder, split = points
    for k in _POINTS:
        for strategy in STRATEGIES:
            name = f"{prefix}_p{k}" + ("" if strategy == "uniform" else f"_{strategy}")
            points_json = folder / points_file_name(split, k, strategy)
            forget(name)
            register_points(name, image_root, points_json, panoptic_json, panoptic_root, hint=hint)


register_builtin()

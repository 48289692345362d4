"""Data sets by the path of their YAML file in ``DATASETS.TRAIN`` and ``DATASETS.TEST``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from fdd.data.catalog import forget, get_metadata, register_panoptic, register_points
from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.dataset_file import DatasetFile, read_dataset_file

__all__ = ["beside", "register_dataset_file", "resolve_dataset_files", "resolve_name"]

#: What a name may choose of a file: "points" is left out of the name.
PARTS = ("points", "masks", "validation")
_FILE = re.compile(r"^(?P<path>.+\.ya?ml)(?:#(?P<part>\w+))?$", re.IGNORECASE | re.DOTALL)


def register_dataset_file(path: str | os.PathLike[str], part: str = "points") -> str:
    """Register what a data set file describes, in place of an earlier registration.

    Args:
        path: the YAML file, see :mod:`fdd.points.dataset_file`.
        part: ``points``, the labelled images with their points; ``masks``, the same images with
            full masks; ``validation``, what PQ is measured on: the part of that name, or else the
            masks of the labelled images.

    Returns:
        The name for ``DatasetCatalog``: the absolute path, with ``#part`` unless it is ``points``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is invalid, does not have the part, or names other classes than its labels.
    """
    if part not in PARTS:
        raise ValueError(f"{os.fspath(path)}#{part}: no such part; allowed: {', '.join(PARTS)}")
    file = read_dataset_file(path)
    name = str(file.path) + ("" if part == "points" else f"#{part}")
    forget(name)
    known: dict[str, Any] = {
        "hint": f"{file.path} names it.",
        "colors": file.classes.colors if file.classes else None,
    }
    if part == "points":
        masks = (file.masks.json, file.masks.folder) if file.masks else ()
        register_points(name, file.images, file.points, *masks, **known)
    elif part == "validation" and file.validation is not None:
        images, masks, points = (getattr(file.validation, k) for k in ("images", "masks", "points"))
        if points is None:
            register_panoptic(name, images, masks.json, masks.folder, **known)
        else:
            register_points(name, images, points, masks.json, masks.folder, **known)
    elif file.masks is not None:
        register_panoptic(name, file.images, file.masks.json, file.masks.folder, **known)
    else:
        raise ValueError(
            f"{file.path}: no {part} in it. To measure PQ, add masks to compare with:\n"
            "validation:\n  images: val_images\n  masks: {json: panoptic_val.json, "
            "folder: panoptic_val}"
        )
    _check_classes(file, name)
    return name


def resolve_dataset_files(cfg: CfgNode, config_file: str | os.PathLike[str] = "") -> None:
    """Register the data set files that ``DATASETS.TRAIN`` and ``.TEST`` name; writes their names.

    A path stands for the points in ``TRAIN`` (the masks, if ``MODEL.FDD.PAN_SUPERVISION`` is
    "full") and for the validation part in ``TEST``; ``path#part`` chooses. A path starts from the
    working folder or from the folder of the config file, wherever the file is. (What a config file
    names, and lies beside it, has its absolute path by now: see :func:`beside`.)

    Raises:
        FileNotFoundError, ValueError: see :func:`register_dataset_file`.
    """
    full = cfg.MODEL.FDD.PAN_SUPERVISION == "full"
    roles = {"TRAIN": "masks" if full else "points", "TEST": "validation"}
    for key, role in roles.items():
        names = [resolve_name(n, role, config_file, f"DATASETS.{key}") for n in cfg.DATASETS[key]]
        if names != list(cfg.DATASETS[key]):
            cfg.DATASETS[key] = tuple(names)


def resolve_name(
    entry: str, part: str, config_file: str | os.PathLike[str] = "", key: str = "the command line"
) -> str:
    """The registered name of a name, or of the path of a data set file, which is registered then.

    Args:
        entry: a registered name, ``path``, or ``path#part``.
        part: what a path without one stands for.
        config_file: see :func:`resolve_dataset_files`.
        key: who names it, for errors.
    """
    if not isinstance(entry, str):
        raise ValueError(
            f"{key} has {entry!r} in it; expected names of data sets or paths of data set files"
        )
    match = _FILE.match(entry)
    if match is None or (entry in DatasetCatalog and not os.path.exists(match["path"])):
        return entry
    path = _find(match["path"], Path(config_file).parent, key)
    return register_dataset_file(path, match["part"] or part)


def beside(entry: Any, folder: Path) -> Any:
    """``path`` or ``path#part`` with an absolute path, if there is such a file below ``folder``;
    all else as it is."""
    match = _FILE.match(entry) if isinstance(entry, str) else None
    if match is None or not (folder / match["path"]).is_file():
        return entry
    part = f"#{match['part']}" if match["part"] else ""
    return os.path.abspath(folder / match["path"]) + part


def _find(path: str, beside: Path, key: str) -> Path:
    places = (Path(os.path.expanduser(path)), beside / path)
    candidates = dict.fromkeys(Path(os.path.abspath(place)) for place in places)
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{key} names the data set file {path}, which is not there (looked for "
            f"{' and '.join(map(str, candidates))})"
        )
    if len(found) > 1 and not os.path.samefile(*found):
        raise ValueError(
            f"{key} names the data set file {path}, which may be {found[0]} or {found[1]}; write "
            "the whole path"
        )
    return found[-1]


def _check_classes(file: DatasetFile, name: str) -> None:
    """Refuse classes that differ from those of the labels; labels that are not there wait."""
    metadata = MetadataCatalog.get(name)
    source = metadata.get("points_json") or metadata.get("panoptic_json")
    if file.classes is None or not os.path.exists(source):
        return
    # Ids and order are those of the labels: they only say how a file writes a class.
    differences = compare_classes(
        file.classes.categories, get_metadata(name).categories, ordered=False, ids=False
    )
    if differences:
        raise ValueError(
            f"the classes of {file.path} and of {source} differ: "
            f"{describe_differences(differences, 'the first', 'the second', ids=False)}. "
            "Correct the list, or import the points again with it."
        )

"""One YAML file that describes a data set of images and points, so that no script has to.

::

    name: cells                     # optional
    images: images                  # folder that the file names of the labels start from
    points: points.json             # point labels
    classes:                        # optional: the points file has them, too (see classes.py)
      things: [cell]
      stuff: [background]
    masks: {json: panoptic.json, folder: panoptic}   # optional, of these images; no training
    validation:                                      # optional, what PQ is measured on
      images: val_images                             # default: the folder above
      masks: {json: panoptic_val.json, folder: panoptic_val}
      points: points_val.json                        # optional

Paths start from the folder of the YAML file.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdd.points.classes import ClassFileError, ClassList, parse_classes, read_yaml, shown

__all__ = ["DatasetFile", "MaskFiles", "Validation", "read_dataset_file"]

_KEYS = ("name", "images", "points", "classes", "ignore", "masks", "validation")
_MASK_KEYS = ("json", "folder")
_SUCH_AS = {
    "images": "'images: pictures', the folder",
    "points": "'points: points.json', the point labels",
    "json": "'json: panoptic.json', of COCO panoptic masks",
    "folder": "'folder: panoptic', that of the masks' PNGs",
}
_VALIDATION_KEYS = ("images", "masks", "points")


@dataclass(frozen=True)
class MaskFiles:
    """COCO panoptic masks: the JSON, and the folder of the PNGs."""

    json: Path
    folder: Path


@dataclass(frozen=True)
class Validation:
    """Images with masks to measure PQ on, and maybe points."""

    images: Path
    masks: MaskFiles
    points: Path | None = None


@dataclass(frozen=True)
class DatasetFile:
    """A data set as its YAML file describes it; paths are absolute, and need not exist.

    Attributes:
        path: of the YAML file.
        name: by default the file's stem.
        images: folder.
        points: point labels of these images.
        classes: None where the file leaves them to the points.
        masks: full masks of the same images, for evaluation of pseudo labels and as the ceiling.
        validation: what PQ is measured on.
    """

    path: Path
    name: str
    images: Path
    points: Path
    classes: ClassList | None = None
    masks: MaskFiles | None = None
    validation: Validation | None = None


def read_dataset_file(path: str | os.PathLike[str]) -> DatasetFile:
    """Read and check the file itself; the files that it names are not looked at.

    Raises:
        FileNotFoundError: there is no such file.
        ClassFileError: it is not YAML, or a key is missing, unknown or of a wrong kind.
    """
    source = Path(os.path.abspath(os.path.expanduser(path)))
    document = read_yaml(source if source.is_file() else path)
    _check_keys(document, _KEYS, f"{path}")
    root = source.parent
    classes = None
    if document.get("classes") is not None:
        classes = parse_classes(document["classes"], document.get("ignore") or (), str(path))
    images = _path(document, "images", root, f"{path}")
    name = document.get("name", source.stem)
    if not isinstance(name, str) or not name:
        raise ClassFileError(f"{path}: 'name' is {shown(name)}; expected a text")
    return DatasetFile(
        path=source,
        name=name,
        images=images,
        points=_path(document, "points", root, f"{path}"),
        classes=classes,
        masks=_masks(document.get("masks"), root, f"{path}: masks"),
        validation=_validation(document.get("validation"), images, root, f"{path}: validation"),
    )


def _validation(node: Any, images: Path, root: Path, where: str) -> Validation | None:
    if node is None:
        return None
    if not isinstance(node, dict):
        raise ClassFileError(
            f"{where} is {shown(node)}; expected keys {', '.join(_VALIDATION_KEYS)}"
        )
    _check_keys(node, _VALIDATION_KEYS, where)
    masks = _masks(node.get("masks"), root, f"{where}: masks")
    if masks is None:
        raise ClassFileError(
            f"{where} has no masks; PQ is measured against masks: {{json, folder}}"
        )
    points = _path(node, "points", root, where) if node.get("points") is not None else None
    return Validation(
        images=_path(node, "images", root, where) if node.get("images") is not None else images,
        masks=masks,
        points=points,
    )


def _masks(node: Any, root: Path, where: str) -> MaskFiles | None:
    if node is None:
        return None
    if not isinstance(node, dict):
        raise ClassFileError(
            f"{where} is {shown(node)}; expected {{json: panoptic.json, folder: panoptic}}"
        )
    _check_keys(node, _MASK_KEYS, where)
    return MaskFiles(*(_path(node, key, root, where) for key in _MASK_KEYS))


def _path(node: dict[str, Any], key: str, root: Path, where: str) -> Path:
    value = node.get(key)
    if value is None:
        raise ClassFileError(f"{where}: no {key!r}; expected a line such as {_SUCH_AS[key]}")
    if not isinstance(value, str) or not value:
        raise ClassFileError(f"{where}: {key!r} is {shown(value)}; expected a path")
    # A file that was written on Windows is to be read elsewhere, too.
    text = value if os.path.exists(root / value) else value.replace("\\", "/")
    return Path(os.path.normpath(root / os.path.expanduser(text)))


def _check_keys(node: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in map(str, node):
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ClassFileError(f"{where}: unknown key {key!r}; {hint}expected {', '.join(known)}")

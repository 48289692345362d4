"""The point-label file: reading, writing, checking (``datasets/README.md`` documents it)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fdd.points.files import atomic_path
from fdd.points.strict_json import parse_json
from fdd.points.structures import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
)
from fdd.points.validation import is_integer, validate_points

__all__ = [
    "FORMAT",
    "VERSION",
    "Category",
    "PointDataset",
    "PointImage",
    "PointLabelError",
    "PointSegment",
    "read_points",
    "validate_points",
    "write_document",
    "write_points",
]

FORMAT = "fdd-points"
VERSION = 1

# What point supervision must not know. Refused anywhere but under "info", so that labels which
# carry masks or boxes are noticed and not quietly trained from.
DENSE_KEYS = frozenset(
    {
        "area",
        "bbox",
        "bboxes",
        "box",
        "boxes",
        "counts",
        "mask",
        "masks",
        "polygon",
        "polygons",
        "rle",
        "segmentation",
        "segmentations",
        "segments_info",
    }
)


def read_points(path: str | os.PathLike[str]) -> PointDataset:
    """Read and check a point-label file (UTF-8, with or without a byte order mark).

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not a point-label file of this version, or its labels are unsound.
    """
    source = os.fspath(path)
    dataset = _parse_document(load_document(Path(path), source), source)
    validate_points(dataset, source)
    return dataset


def write_points(path: str | os.PathLike[str], dataset: PointDataset) -> None:
    """Check ``dataset`` and write it; a reader sees the old file or the whole new one.

    Raises:
        PointLabelError: the labels are unsound; nothing is written.
    """
    validate_points(dataset, f"point labels for {os.fspath(path)}")
    document = {
        "format": FORMAT,
        "version": VERSION,
        "info": dataset.info,
        "categories": [
            {"id": int(c.id), "name": c.name, "isthing": bool(c.isthing)}
            for c in dataset.categories
        ],
    }
    write_document(path, document, map(_image_record, dataset.images))


def write_document(
    path: str | os.PathLike[str], head: dict[str, Any], images: Iterable[Any]
) -> None:
    """Write a label file atomically, unchecked; ``head`` is all but the list ``images``."""
    text = json.dumps(head, ensure_ascii=False, allow_nan=False)
    # File names that are no UTF-8 on disk: Python's stand-ins for their bytes become escapes.
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        # One line per image: a file that can be read, compared and mended by hand.
        file.write(text[:-1] + ', "images": [')
        for i, image in enumerate(images):
            record = json.dumps(image, ensure_ascii=False, allow_nan=False)
            file.write(("," if i else "") + "\n" + record)
        file.write("\n]}\n")


def _image_record(image: PointImage) -> dict[str, Any]:
    return {
        "id": image.image_id if isinstance(image.image_id, str) else int(image.image_id),
        "file_name": image.file_name,
        "height": int(image.height),
        "width": int(image.width),
        "segments": [
            {
                "id": int(segment.id),
                "category_id": int(segment.category_id),
                "points": [[float(x), float(y)] for x, y in segment.points],
            }
            for segment in image.segments
        ],
    }


def load_document(path: Path, source: str) -> Any:
    """The JSON of a file; errors are those of :func:`read_points`, whatever it describes."""
    if path.is_dir():
        raise PointLabelError(f"{source}: a folder; expected a point-label file (JSON)")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{source}: no such point-label file. Make one with datasets/sample_points.py, or see "
            "datasets/README.md for the layout."
        ) from None
    except UnicodeDecodeError as error:
        raise PointLabelError(
            f"{source}: not UTF-8 text (byte {error.start}). Save the file as UTF-8."
        ) from error
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        broken = isinstance(error, json.JSONDecodeError)
        hint = ". Was it cut short? Write or download it again." if broken else ""
        raise PointLabelError(f"{source}: not valid JSON: {error}{hint}") from error


def _parse_document(document: Any, source: str) -> PointDataset:
    check_head(document, source)
    _refuse_dense(document, f"{source}")
    categories = [
        parse_category(entry, f"{source}: category at position {i}")
        for i, entry in enumerate(_list(document, "categories", source))
    ]
    images = [
        parse_image(entry, f"{source}: image at position {i}", source)
        for i, entry in enumerate(_list(document, "images", source))
    ]
    return PointDataset(categories, images, document.get("info", {}))


def check_head(document: Any, source: str) -> None:
    """Refuse what is no document of this format and version, with PointLabelError."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        hint = " `fdd points import` makes one of a labelling tool's export."
        if isinstance(document, dict) and "annotations" in document:
            hint = (
                " It looks like COCO annotations: `fdd points import` reads their keypoints, "
                "datasets/sample_points.py draws points from masks."
            )
        raise PointLabelError(
            f'{source}: not a point-label file; expected an object with "format": "{FORMAT}".{hint}'
        )
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise PointLabelError(
            f"{source}: version {version!r} of the format; this package reads version {VERSION}. "
            "Update the package, or write the file again."
        )
    info = document.get("info", {})
    if not isinstance(info, dict):
        raise PointLabelError(f"{source}: 'info' is {_kind(info)}; expected an object")


def parse_category(entry: Any, where: str) -> Category:
    """One entry of ``categories``; raises PointLabelError."""
    _require(entry, ("id", "name", "isthing"), where)
    isthing = entry["isthing"]
    if not (isinstance(isthing, bool) or (is_integer(isthing) and isthing in (0, 1))):
        raise PointLabelError(f"{where}: 'isthing' is {isthing!r}; expected true or false")
    if not is_integer(entry["id"]):
        raise PointLabelError(f"{where}: 'id' is {entry['id']!r}; expected an integer")
    if not isinstance(entry["name"], str):
        raise PointLabelError(f"{where}: 'name' is {entry['name']!r}; expected a text")
    return Category(entry["id"], entry["name"], bool(isthing))


def parse_image(entry: Any, where: str, source: str) -> PointImage:
    """One entry of ``images``, its values not yet checked; raises PointLabelError."""
    _require(entry, ("id", "file_name", "height", "width", "segments"), where)
    if not isinstance(entry["id"], str) and not is_integer(entry["id"]):
        raise PointLabelError(f"{where}: 'id' is {entry['id']!r}; expected a text or an integer")
    where = f"{source}: image {entry['id']!r}"
    segments = []
    for i, segment in enumerate(_list(entry, "segments", where)):
        here = f"{where}, segment at position {i}"
        _require(segment, ("id", "category_id", "points"), here)
        for key in ("id", "category_id"):
            if not is_integer(segment[key]):
                raise PointLabelError(f"{here}: {key!r} is {segment[key]!r}; expected an integer")
        points: list[Any] = [
            tuple(point) if isinstance(point, list) else point
            for point in _list(segment, "points", here)
        ]
        segments.append(PointSegment(segment["id"], segment["category_id"], points))
    return PointImage(entry["id"], entry["file_name"], entry["height"], entry["width"], segments)


def _require(entry: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise PointLabelError(f"{where}: {_kind(entry)}; expected an object with {', '.join(keys)}")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise PointLabelError(f"{where}: without {', '.join(map(repr, missing))}; add it")
    _refuse_dense(entry, where)


def _refuse_dense(entry: dict[str, Any], where: str) -> None:
    found = sorted(key for key in entry if key.lower() in DENSE_KEYS)
    if found:
        raise PointLabelError(
            f"{where}: the key {found[0]!r} belongs to masks or boxes, which point labels do not "
            "carry. Remove it."
        )


def _list(entry: dict[str, Any], key: str, where: str) -> list[Any]:
    if not isinstance(entry.get(key), list):
        raise PointLabelError(f"{where}: {key!r} is {_kind(entry.get(key))}; expected a list")
    return entry[key]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "missing"}
    return names.get(type(value), repr(value))

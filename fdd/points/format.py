"""The point-label file: reading and writing (``datasets/README.md`` documents it).

A file is read entry by entry, so that one invalid entry hides no other: :func:`read_points` raises
what is wrong, and ``fdd points check`` lists it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fdd.points.collector import paused_collector
from fdd.points.files import atomic_path
from fdd.points.findings import Finding, raise_errors
from fdd.points.parsing import kind_of, load_json, require
from fdd.points.structures import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
)
from fdd.points.validation import validate_points
from fdd.points.void import parse_stroke, stroke_record

__all__ = [
    "FORMAT",
    "VERSION",
    "Category",
    "PointDataset",
    "PointFile",
    "PointImage",
    "PointLabelError",
    "PointSegment",
    "dense_entries",
    "read_point_file",
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
    [
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
    ]
)


@dataclass
class PointFile:
    """A point-label file as far as it could be read.

    Attributes:
        file: its path.
        document: the parsed JSON, as it is.
        dataset: the entries that have the right form; their values may be invalid.
    """

    file: str
    document: dict[str, Any]
    dataset: PointDataset


def read_points(path: str | os.PathLike[str]) -> PointDataset:
    """Read and check a point-label file (UTF-8, with or without a byte order mark).

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not a point-label file of this version, or its labels are invalid.
    """
    with paused_collector():
        points, findings = read_point_file(path)
        raise_errors(os.fspath(path), findings)
        assert points is not None, "or else there is a finding"
        validate_points(points.dataset, points.file)
        return points.dataset


def read_point_file(path: str | os.PathLike[str]) -> tuple[PointFile | None, list[Finding]]:
    """Read a point-label file; an entry that has not the right form is left out.

    Returns:
        What was read, None where the file as a whole is not a point-label file; the findings of
        the rules E101 and E102.

    Raises:
        FileNotFoundError: there is no such file.
    """
    source = os.fspath(path)
    try:
        document = load_json(path)
        _check_head(document)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{source}: no such point-label file. Make one with datasets/sample_points.py, or see "
            "datasets/README.md for the layout."
        ) from None
    except PointLabelError as error:
        return None, [Finding("E101", str(error).removeprefix(source).lstrip(",: "), source)]
    findings = []
    for entry, image_id, segment_id, where in dense_entries(document):
        keys = dense_keys(entry)
        text = (
            f"{where}: {', '.join(map(repr, keys))}: point labels do not carry masks or boxes. "
            f"Remove {'it' if len(keys) == 1 else 'them'}."
        )
        findings.append(Finding("E102", text, source, image_id, segment_id, fixable=True))
    dataset = PointDataset([], [], document.get("info", {}))
    for i, entry in enumerate(document["categories"]):
        try:
            dataset.categories.append(_parse_category(entry, f"category at position {i}"))
        except PointLabelError as error:
            findings.append(Finding("E101", str(error), source))
    for i, entry in enumerate(document["images"]):
        try:
            dataset.images.append(_parse_image(entry, f"image at position {i}"))
        except PointLabelError as error:
            image_id = entry.get("id") if isinstance(entry, dict) else None
            findings.append(Finding("E101", str(error), source, image_id))
    return PointFile(source, document, dataset), findings


def _check_head(document: Any) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        hint = "`fdd points import` makes one of a labelling tool's export."
        if isinstance(document, dict) and "annotations" in document:
            hint = (
                "It looks like COCO annotations: `fdd points import` reads their keypoints, "
                "datasets/sample_points.py draws points from masks."
            )
        raise PointLabelError(
            f'not a point-label file; expected an object with "format": "{FORMAT}". {hint}'
        )
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise PointLabelError(
            f"version {version!r} of the format; this package reads version {VERSION}. Update the "
            "package, or write the file again."
        )
    if not isinstance(document.get("info", {}), dict):
        raise PointLabelError(f"'info' is {kind_of(document['info'])}; expected an object")
    for key in ("categories", "images"):
        require(document, key, list, "the file")


def _parse_category(entry: Any, where: str) -> Category:
    category_id, name = require(entry, "id", int, where), require(entry, "name", str, where)
    isthing = require(entry, "isthing", (bool, int), where)
    if isthing not in (0, 1):
        raise PointLabelError(f"{where}: 'isthing' is {isthing!r}; expected true or false")
    return Category(category_id, name, bool(isthing))


def _parse_image(entry: Any, where: str) -> PointImage:
    image_id = require(entry, "id", (str, int), where)
    where = f"image {image_id!r}"
    image = PointImage(
        image_id, *(require(entry, key, object, where) for key in ("file_name", "height", "width"))
    )
    for i, segment in enumerate(require(entry, "segments", list, where)):
        here = f"{where}, segment at position {i}"
        segment_id = require(segment, "id", int, here)
        category_id = require(segment, "category_id", int, here)
        points: list[Any] = require(segment, "points", list, here)
        points = [tuple(point) if isinstance(point, list) else point for point in points]
        image.segments.append(PointSegment(segment_id, category_id, points))
    if "void" in entry:
        strokes = require(entry, "void", list, where)
        places = (f"{where}, void stroke at position {i}" for i in range(len(strokes)))
        image.void = list(map(parse_stroke, strokes, places))
    return image


def dense_entries(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, Any, str]]:
    """Objects of a label document that have a key of masks or boxes (see :func:`dense_keys`).

    Yields:
        The object, the ids of image and segment that it belongs to, and what it is.
    """
    if dense_keys(document):
        yield document, None, None, "the file"
    for i, category in enumerate(document["categories"]):
        if dense_keys(category):
            yield category, None, None, f"category at position {i}"
    for i, image in enumerate(document["images"]):
        if not isinstance(image, dict):
            continue
        image_id = image.get("id")
        where = f"image {image_id!r}" if "id" in image else f"image at position {i}"
        if dense_keys(image):
            yield image, image_id, None, where
        segments = image.get("segments")
        for segment in segments if isinstance(segments, list) else ():
            if dense_keys(segment):
                segment_id = segment.get("id")
                yield segment, image_id, segment_id, f"{where}, segment {segment_id!r}"


def dense_keys(entry: Any) -> list[str]:
    """The keys of masks or boxes that an object has."""
    if not isinstance(entry, dict):
        return []
    return sorted(key for key in entry if key.lower() in DENSE_KEYS)


def write_points(path: str | os.PathLike[str], dataset: PointDataset) -> None:
    """Check ``dataset`` and write it; a reader sees the old file or the whole new one.

    Raises:
        PointLabelError: the labels are invalid; nothing is written.
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
    path: str | os.PathLike[str],
    head: dict[str, Any],
    images: Iterable[Any],
    *,
    durable: bool = False,
) -> None:
    """Write a label file atomically, unchecked; ``head`` is all but the list ``images``.

    ``durable`` as in :func:`fdd.points.files.atomic_path`.
    """
    text = json.dumps(head, ensure_ascii=False, allow_nan=False)
    # File names that are not UTF-8 on disk: Python's stand-ins for their bytes become escapes.
    with (
        atomic_path(path, durable=durable) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        # One line per image: a file that can be read, compared and fixed by hand.
        file.write(text[:-1] + ', "images": [')
        for i, image in enumerate(images):
            record = json.dumps(image, ensure_ascii=False, allow_nan=False)
            file.write(("," if i else "") + "\n" + record)
        file.write("\n]}\n")


def _image_record(image: PointImage) -> dict[str, Any]:
    void = {"void": list(map(stroke_record, image.void))} if image.void else {}
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
        **void,
    }

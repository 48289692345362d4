"""What the formats that extend COCO's JSON share: images, categories, annotations that name them.

Boxes, areas and segmentations of an annotation are not looked at: they say more than points may.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fdd.points.importers.records import RawImage
from fdd.points.parsing import json_exports, positive_int, require
from fdd.points.structures import PointLabelError

__all__ = ["AnnotationReader", "has_annotations_with", "read_coco"]

#: Called with the annotation, its image, the category's name, the annotation's place for messages
#: and a key that no other annotation has.
AnnotationReader = Callable[[dict[str, Any], RawImage, str, str, tuple[str, int]], None]


def read_coco(source: Path, key: str, take: AnnotationReader) -> list[list[RawImage]]:
    """Hand each annotation that has ``key`` to ``take``, except crowds; the images of each file.

    Left out, and counted in the notes: crowds (regions of many objects), annotations without the
    key. Images are those of the file, also without annotations. Their ids are kept where one file
    is read; those of several files may clash.

    Args:
        source: a JSON file, or a folder of them.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and element; also where no annotation has the key.
    """
    images = [_read_file(str(path), d, key, take) for path, d in json_exports(Path(source))]
    if len(images) > 1:
        for image in (image for found in images for image in found):
            image.image_id = None
    return images


def has_annotations_with(document: Any, key: str) -> bool:
    """Whether parsed JSON is COCO-like and an annotation has the key."""
    annotations = document.get("annotations") if isinstance(document, dict) else None
    return (
        isinstance(annotations, list)
        and isinstance(document.get("images"), list)
        and any(isinstance(a, dict) and key in a for a in annotations)
    )


def _read_file(source: str, document: Any, key: str, take: AnnotationReader) -> list[RawImage]:
    images = _images(require(document, "images", list, source), source)
    names = _names(require(document, "categories", list, source), source)
    annotations = require(document, "annotations", list, source)
    if annotations and not has_annotations_with(document, key):
        raise PointLabelError(f"{source}: none of {len(annotations)} annotations has {key!r}")
    for position, annotation in enumerate(annotations):
        place = f"position {position}"
        image_id = require(annotation, "image_id", (int, str), f"{source}, annotation {place}")
        where = f"{source}, annotation {annotation.get('id', place)}"
        if image_id not in images:
            raise PointLabelError(f"{where}: no image has the id {image_id!r}")
        category = require(annotation, "category_id", int, where)
        if category not in names:
            raise PointLabelError(f"{where}: no category has the id {category}")
        image = images[image_id]
        if annotation.get("iscrowd"):
            image.notes["crowd annotations (regions of many objects)"] += 1
        elif key not in annotation:
            image.notes[f"annotations without {key!r}"] += 1
        else:
            take(annotation, image, names[category], where, (source, position))
    return list(images.values())


def _images(entries: list[Any], source: str) -> dict[str | int, RawImage]:
    images: dict[str | int, RawImage] = {}
    for position, entry in enumerate(entries):
        image_id = require(entry, "id", (int, str), f"{source}, 'images', position {position}")
        where = f"{source}, image {image_id!r}"
        if image_id in images:
            raise PointLabelError(f"{where}: two images have this id")
        width, height = (
            positive_int(entry[side], f"{where}: {side!r}") if entry.get(side) is not None else None
            for side in ("width", "height")
        )
        name = require(entry, "file_name", str, where)
        images[image_id] = RawImage(name, [], width, height, where, image_id)
    return images


def _names(entries: list[Any], source: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for position, entry in enumerate(entries):
        where = f"{source}, 'categories', position {position}"
        number = require(entry, "id", int, where)
        if number in names:
            raise PointLabelError(f"{where}: two categories have the id {number}")
        names[number] = require(entry, "name", str, where)
    return names

"""Formats of an export: a registry, and the formats made from its panoptic PNGs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from fdd.export_formats.panoptic import (
    PANOPTIC,
    Export,
    ExportedImage,
    category_entries,
    image_entries,
    make_unique,
    panoptic_document,
)
from fdd.export_formats.polygons import mask_polygon
from fdd.points.files import atomic_path, write_json

__all__ = [
    "FORMATS",
    "ExportFormat",
    "check_formats",
    "export_format_names",
    "get_export_format",
    "register_export_format",
    "write_formats",
    "written_formats",
]

#: Pixels without a label, in semantic PNGs of 8 bits.
IGNORE = 255

_Images = Iterable[ExportedImage]
Writer = Callable[[Export, _Images], str]
#: Wraps the images that a format goes through, to show how far it is.
Progress = Callable[[str, Sequence[ExportedImage]], _Images]


@dataclass(frozen=True)
class ExportFormat:
    """A format that exported labels can be written in.

    Attributes:
        name: as in ``fdd labels export --formats``.
        write: writes an export's images, and returns a line about what it wrote.
        last_file: the file below the export's folder that is written last.
        things_only: stuff is left out.
        max_stuff: largest number of stuff classes; None: any.
    """

    name: str
    write: Writer
    last_file: str
    things_only: bool = False
    max_stuff: int | None = None

    def __call__(self, export: Export, images: _Images) -> str:
        return self.write(export, images)

    def check(self, categories: Sequence[Mapping[str, Any]]) -> None:
        """Refuse classes (dicts with ``isthing``) whose labels the format cannot hold."""
        stuff = sum(not c["isthing"] for c in categories)
        if self.things_only and stuff == len(categories):
            raise ValueError(
                f"format {self.name!r} holds things only, and none of the {stuff} classes is a "
                "thing. Leave it out of --formats; 'panoptic' and 'semantic' hold stuff"
            )
        if self.max_stuff is not None and stuff > self.max_stuff:
            raise ValueError(
                f"{stuff} stuff classes; format {self.name!r} holds at most {self.max_stuff}. "
                "Leave it out of --formats"
            )


#: By name, in the order of their registration.
FORMATS: dict[str, ExportFormat] = {}


def register_export_format(
    name: str, *, last_file: str, things_only: bool = False, max_stuff: int | None = None
) -> Callable[[Writer], Writer]:
    """Register a function as the export format ``name``; for the arguments see
    :class:`ExportFormat`.

    Raises:
        ValueError: the name is taken.
    """

    def register(write: Writer) -> Writer:
        if name in FORMATS:
            raise ValueError(f"export format {name!r} is registered already")
        FORMATS[name] = ExportFormat(name, write, last_file, things_only, max_stuff)
        return write

    return register


def export_format_names() -> list[str]:
    """Names of all formats."""
    return list(FORMATS)


def get_export_format(name: str) -> ExportFormat:
    """The format called ``name``.

    Raises:
        ValueError: there is no such format; the message lists the registered ones.
    """
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is unknown; allowed: {', '.join(FORMATS)}")
    return FORMATS[name]


def check_formats(names: Iterable[str], categories: Sequence[Mapping[str, Any]]) -> None:
    """Refuse formats that cannot hold labels of some classes, before the labels are made.

    Args:
        names: of formats.
        categories: dicts with ``isthing``.

    Raises:
        ValueError: an unknown format, one of things alone where no class is a thing, or too many
            classes of stuff.
    """
    for name in names:
        get_export_format(name).check(categories)


def write_formats(
    export: Export, names: Iterable[str], progress: Progress = lambda _, images: images
) -> list[str]:
    """Write an export in the formats ``names``; ``panoptic`` always, and last.

    Returns:
        A line about each.

    Raises:
        ValueError: a format is unknown or cannot hold these labels.
    """
    wanted = set(names) - {PANOPTIC}
    check_formats(wanted, export.categories)
    others = [form for name, form in FORMATS.items() if name in wanted]
    lines = [form.write(export, progress(form.name, export.images)) for form in others]
    return [FORMATS[PANOPTIC].write(export, export.images), *lines]


def written_formats(root: Path) -> list[str]:
    """The formats beside ``panoptic`` that an export's folder holds completely."""
    forms = [form for name, form in FORMATS.items() if name != PANOPTIC]
    return [form.name for form in forms if (root / form.last_file).is_file()]


@register_export_format(PANOPTIC, last_file=f"{PANOPTIC}.json")
def write_panoptic(export: Export, images: _Images) -> str:
    """``panoptic.json``; its PNGs are there already."""
    write_json(export.root / f"{PANOPTIC}.json", panoptic_document(export))
    return f"{PANOPTIC}.json, {PANOPTIC}/: COCO panoptic"


@register_export_format("semantic", last_file="semantic.json")
def write_semantic(export: Export, images: _Images) -> str:
    """``semantic/*.png``: contiguous class ids, things first, in 8 bits (16 from 256 classes on);
    the largest value is void. ``semantic.json`` says which value is which class."""
    count = len(export.categories)
    dtype, void = (np.uint8, IGNORE) if count <= IGNORE else (np.uint16, 65535)
    value = {c["id"]: n for n, c in enumerate(export.categories)}
    for image in images:
        table = {s["id"]: value[s["category_id"]] for s in image.segments}
        _save_png(export.root / "semantic" / image.png, _lookup(export, image, table, void, dtype))
    classes = [{"value": n, **entry} for n, entry in enumerate(category_entries(export.categories))]
    write_json(export.root / "semantic.json", {"void": void, "classes": classes})
    return f"semantic.json, semantic/: class ids 0 to {count - 1}, {void} void"


@register_export_format("coco", last_file="instances.json", things_only=True)
def write_coco(export: Export, images: _Images) -> str:
    """``instances.json``: things as COCO instances, masks as compressed run lengths."""
    document = instances_document(export, images)
    write_json(export.root / "instances.json", document)
    return f"instances.json: COCO instances, {len(document['annotations'])} things"


def instances_document(export: Export, images: _Images) -> dict[str, Any]:
    """The content of a COCO instance JSON."""
    things = {c["id"] for c in export.things()}
    annotations: list[dict[str, Any]] = []
    for image in images:
        for segment, mask in _things_of(export, image, things):
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode("ascii")
            kept = {k: segment[k] for k in ("category_id", "area", "bbox", "iscrowd")}
            kept |= {k: segment[k] for k in ("score",) if k in segment}
            head = {"id": len(annotations) + 1, "image_id": image.image_id}
            annotations.append({**head, **kept, "segmentation": rle})
    return {
        "info": dict(export.info),
        "images": image_entries(export.images),
        "annotations": annotations,
        "categories": category_entries(export.things()),
    }


@register_export_format("yolo", last_file="yolo/data.yaml", things_only=True)
def write_yolo(export: Export, images: _Images) -> str:
    """``yolo/``: ``data.yaml``, ``images/`` (links) and ``labels/`` with one polygon a thing."""
    root = export.root / "yolo"
    things = {c["id"]: n for n, c in enumerate(export.things())}
    rows = 0
    for image in images:
        # An empty file would say that there is nothing in the image.
        if not image.labelled:
            continue
        lines = []
        for segment, mask in _things_of(export, image, things):
            polygon = mask_polygon(mask) / [image.width, image.height]
            numbers = " ".join(f"{v:.6f}" for v in polygon.ravel())
            lines.append(f"{things[segment['category_id']]} {numbers}\n")
        stem = _yolo_stem(image.stem)
        with atomic_path(root / "labels" / f"{stem}.txt") as path:
            path.write_text("".join(lines), encoding="utf-8")
        _link(image.source, root / "images" / f"{stem}{Path(image.file_name).suffix}")
        rows += len(lines)
    names = {n: c["name"] for n, c in enumerate(export.things())}
    # Without "path" the folders start from this file.
    content = {"train": "images", "val": "images", "names": names}
    with atomic_path(root / "data.yaml") as path:
        path.write_text(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
    return f"yolo/: {rows} polygons of things; data.yaml uses all images for train and val"


def _yolo_stem(stem: str) -> str:
    """A name in which no folder is called ``images``.

    Trainers look for an image's labels by putting ``labels`` in place of the last ``images`` in its
    path, and take an image without a label file for one without things.
    """
    return re.sub(r"(?<![^/])(images_*)(?=/)", r"\1_", stem)


@register_export_format("detectron2", last_file=f"detectron2/{PANOPTIC}.json", max_stuff=IGNORE - 1)
def write_detectron2(export: Export, images: _Images) -> str:
    """``detectron2/``: what Detectron2's own ``register_coco_panoptic`` and
    ``register_coco_panoptic_separated`` can read.

    They want integer image ids, ``.jpg`` images, one folder without others in it, and stuff PNGs
    with 0 for things, 1, 2, ... for stuff and 255 for void. Without a class of things there is no
    ``instances.json``.
    """
    root = export.root / "detectron2"
    stuff = {c["id"]: n for n, c in enumerate(export.stuff(), start=1)}
    renamed = []
    for image, new in zip(images, _renamed(export.images), strict=True):
        table = {s["id"]: stuff.get(s["category_id"], 0) for s in image.segments}
        _save_png(root / "stuff" / new.png, _lookup(export, image, table, IGNORE, np.uint8))
        _link(image.source, root / "images" / new.file_name)
        _link(export.root / PANOPTIC / image.png, root / PANOPTIC / new.png, hard=True)
        renamed.append(new)
    copy = replace(export, root=root, images=renamed)
    instances = root / "instances.json"
    if export.things():
        write_json(instances, instances_document(copy, renamed))
        kinds = "register_coco_panoptic and ..._separated"
    else:
        # Detectron2 reads no COCO file without a category.
        instances.unlink(missing_ok=True)
        kinds = "register_coco_panoptic and load_sem_seg (no class is a thing: no instances.json)"
    write_json(root / f"{PANOPTIC}.json", panoptic_document(copy))
    return f"detectron2/: for Detectron2's {kinds}"


def _renamed(images: Sequence[ExportedImage]) -> Iterator[ExportedImage]:
    """Integer ids (kept if all are), and flat names ending in .jpg."""
    keep = all(isinstance(image.image_id, int) for image in images)
    stems = make_unique(image.stem.replace("/", "_") for image in images)
    for n, (image, stem) in enumerate(zip(images, stems, strict=True), start=1):
        image_id = image.image_id if keep else n
        yield replace(image, image_id=image_id, file_name=f"{stem}.jpg", png=f"{stem}.png")


def _things_of(
    export: Export, image: ExportedImage, things: Iterable[int]
) -> Iterator[tuple[Any, np.ndarray]]:
    """Thing segments of an image with their (H, W) bool masks."""
    ids = export.ids(image)
    wanted = set(things)
    for segment in image.segments:
        if segment["category_id"] in wanted:
            yield segment, ids == segment["id"]


def _lookup(
    export: Export, image: ExportedImage, table: dict[int, int], void: int, dtype: Any
) -> np.ndarray:
    """The image's map with the values of ``table`` in place of segment ids."""
    keys = np.array([0, *table])
    values = np.array([void, *table.values()]).astype(dtype)
    order = np.argsort(keys)
    return values[order][np.searchsorted(keys[order], export.ids(image))]


def _save_png(path: Path, values: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def _link(source: str | os.PathLike[str], target: Path, *, hard: bool = False) -> None:
    """A symbolic or hard link to a file, or a copy where links cannot be made."""
    with atomic_path(target) as temporary:
        try:
            (os.link if hard else os.symlink)(os.path.abspath(source), temporary)
        except OSError:
            shutil.copyfile(source, temporary)

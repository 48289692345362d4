"""The COCO panoptic data set that an export is, and what other forms are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fdd.points.coco_panoptic import PanopticWriter, load_segment_ids
from fdd.points.files import write_json

__all__ = [
    "PANOPTIC",
    "Export",
    "ExportedImage",
    "panoptic_document",
    "png_names",
    "write_json",
]

#: Folder of the PNGs; the JSON beside it has the same name, as panopticapi expects it.
PANOPTIC = "panoptic"


@dataclass(frozen=True)
class ExportedImage:
    """An image with its segments.

    Attributes:
        image_id, file_name, height, width: as the point labels have them.
        source: path of the image file.
        png: path of the panoptic PNG below the folder of PNGs, with ``/``.
        segments: see :class:`fdd.export_formats.segments.SegmentedImage`.
        labelled: whether it has any point.
    """

    image_id: str | int
    file_name: str
    height: int
    width: int
    source: str
    png: str
    segments: Sequence[Mapping[str, Any]]
    labelled: bool = True

    @property
    def stem(self) -> str:
        """The PNG's name without its ending; no other image of the export has it."""
        return self.png[: -len(".png")]


@dataclass(frozen=True)
class Export:
    """All that other forms are made from.

    Attributes:
        root: folder of the export.
        categories: dicts with ``id``, ``name``, ``isthing`` and ``color``, in the order of the
            contiguous ids: things first.
        images: whose PNGs are below ``root``.
        info: for the JSON files.
    """

    root: Path
    categories: Sequence[Mapping[str, Any]]
    images: Sequence[ExportedImage]
    info: Mapping[str, Any]

    def ids(self, image: ExportedImage) -> np.ndarray:
        """(H, W) int32 segment ids of an image, 0 for void."""
        return load_segment_ids(self.root / PANOPTIC / image.png, image.height, image.width)

    def things(self) -> list[Mapping[str, Any]]:
        """The thing categories, in order."""
        return [c for c in self.categories if c["isthing"]]

    def stuff(self) -> list[Mapping[str, Any]]:
        """The stuff categories, in order."""
        return [c for c in self.categories if not c["isthing"]]


def png_names(file_names: Sequence[str]) -> list[str]:
    """Names for the PNGs of images: theirs with another ending, folders included, all different.

    Where only the ending told two images apart (``a.jpg``, ``a.png``), all of it is kept
    (``a.jpg.png``). Nothing leads out of the folder, wherever a file name leads to.
    """
    plain = [_inside(name) for name in file_names]
    stems = [str(PurePosixPath(name).with_suffix("")) for name in plain]
    shared = Counter(stem.casefold() for stem in stems)
    names = []
    taken: set[str] = set()
    for full, stem in zip(plain, stems, strict=True):
        base = name = stem if shared[stem.casefold()] == 1 else full
        number = 2
        while name.casefold() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names


def _inside(file_name: str) -> str:
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    kept = [p.replace(":", "_") for p in parts if p not in ("/", "//", "..", ".")]
    return "/".join(kept) or "image"


def panoptic_document(export: Export) -> dict[str, Any]:
    """The content of ``panoptic.json``."""
    writer = PanopticWriter(category_entries(export.categories), export.info)
    for i in export.images:
        writer.add(i.image_id, i.file_name, (i.height, i.width), i.png, i.segments)
    return writer.content()


def image_entries(images: Sequence[ExportedImage]) -> list[dict[str, Any]]:
    """``images`` of a COCO JSON."""
    return [
        {"id": i.image_id, "file_name": i.file_name, "height": i.height, "width": i.width}
        for i in images
    ]


def category_entries(categories: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``categories`` of a COCO panoptic JSON."""
    return [
        {
            "id": int(c["id"]),
            "name": c["name"],
            "isthing": int(c["isthing"]),
            "color": [int(v) for v in c["color"]],
        }
        for c in categories
    ]

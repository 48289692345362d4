"""Dense labels as a COCO panoptic data set, which the other formats are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy import ndimage

from fdd.points.coco_panoptic import (
    MAX_SEGMENT_ID,
    PanopticWriter,
    describe_segments,
    load_segment_ids,
)

__all__ = [
    "PANOPTIC",
    "Export",
    "ExportedImage",
    "Instance",
    "SegmentedImage",
    "make_segments",
    "panoptic_document",
    "png_names",
]

#: Folder of the PNGs; the JSON beside it has the same name, as panopticapi expects it.
PANOPTIC = "panoptic"


@dataclass(frozen=True)
class Instance:
    """What an index of an instance map stands for.

    Attributes:
        id: of the point labels, from 1 on, unique in the image.
        category_id: of the label file.
        isthing: stuff of one category is one segment, of any number of instances.
    """

    id: int
    category_id: int
    isthing: bool


@dataclass(frozen=True)
class SegmentedImage:
    """Panoptic labels of an image.

    Attributes:
        ids: (H, W) int32 segment ids, 0 for void.
        segments: of every segment a dict with ``id``, ``category_id``, ``area`` (pixels), ``bbox``
            (x, y, width, height in whole pixels), ``iscrowd`` (0) and, if there is a confidence,
            ``score`` (its mean over the segment).
        vanished: ids of the segments that were left without a pixel.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]
    vanished: list[int]


def make_segments(
    label: np.ndarray,
    instances: Sequence[Instance],
    confidence: np.ndarray | None = None,
    where: str = "this image",
) -> SegmentedImage:
    """Turn an instance map into panoptic segments, which keep the ids of the point labels.

    Stuff of one category becomes one segment, which has the id of the first instance of it: as
    :class:`fdd.evaluation.PseudoLabelEvaluator` sees the labels.

    Args:
        label: (H, W) integer index in ``instances``, -1 for void.
        instances: in the order of the indices.
        confidence: (H, W) float in [0, 1].
        where: what errors call the image.

    Raises:
        ValueError: an index without an instance, or an id that a panoptic PNG cannot hold.
    """
    if label.size and not (label.min() >= -1 and label.max() < len(instances)):
        raise ValueError(
            f"{where}: instances from {label.min()} to {label.max()}; expected -1 (void) to "
            f"{len(instances) - 1}"
        )
    for instance in instances:
        if not 0 < instance.id <= MAX_SEGMENT_ID:
            raise ValueError(
                f"{where}: segment id {instance.id} of the point labels; a panoptic PNG holds 1 to "
                f"{MAX_SEGMENT_ID}. Renumber the segment."
            )
    first: dict[int, Instance] = {}  # of each category of stuff: it gives its segment the id
    merged = [i if i.isthing else first.setdefault(i.category_id, i) for i in instances]
    segment_ids = np.array([*(i.id for i in merged), 0], dtype=np.int32)
    ids = segment_ids[label]  # index -1 is the last entry
    segments_of = {i.id: i.category_id for i in merged}
    segments = describe_segments(ids, segments_of)
    left = [segment["id"] for segment in segments]
    if confidence is not None:
        means = ndimage.mean(confidence, ids, left)
        for segment, mean in zip(segments, means, strict=True):
            segment["score"] = round(float(mean), 4)
    return SegmentedImage(ids, segments, [n for n in segments_of if n not in left])


@dataclass(frozen=True)
class ExportedImage:
    """An image with its segments.

    Attributes:
        image_id, file_name, height, width: as the point labels have them.
        source: path of the image file.
        png: path of the panoptic PNG below the folder of PNGs, with ``/``.
        segments: see :class:`SegmentedImage`.
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
    pairs = zip(plain, stems, strict=True)
    unique = make_unique(stem if shared[stem.casefold()] == 1 else full for full, stem in pairs)
    return [f"{name}.png" for name in unique]


def make_unique(names: Iterable[str]) -> list[str]:
    """The names, with -2, -3, ... behind those that are taken; upper and lower case are equal."""
    taken: set[str] = set()
    unique = []
    for base in names:
        name, number = base, 2
        while name.casefold() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.casefold())
        unique.append(name)
    return unique


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

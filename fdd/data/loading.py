"""From label files to Detectron2's dataset dicts, and the choice of images to train on."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fdd.points import Category, PointLabelError, read_points
from fdd.points.coco_panoptic import read_panoptic_json
from fdd.points.collector import paused_collector
from fdd.points.image_files import locate_files
from fdd.points.void import stroke_record, without_void
from fdd.points.wording import counted

__all__ = ["FilterReport", "filter_training_dicts", "load_panoptic_dicts", "load_point_dicts"]

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 5


class MissingFilesError(FileNotFoundError):
    """Files of a data set that are not there.

    Attributes:
        root: the folder that they were looked for in.
    """

    def __init__(self, root: str, message: str) -> None:
        super().__init__(message)
        self.root = root


def load_point_dicts(
    image_root: str | os.PathLike[str],
    points_json: str | os.PathLike[str],
    contiguous: Sequence[Category],
) -> list[dict[str, Any]]:
    """Read a point-label file into one dict per image.

    Args:
        image_root: the folder that the file names of the label file start from.
        points_json: point labels, read and checked by :func:`fdd.points.read_points`.
        contiguous: categories in the order of their training ids.

    Returns:
        Dicts with ``file_name, height, width, image_id`` (as in the file) and ``points``, a list of
        ``{"instance_id", "category_id" (contiguous), "isthing", "coords": [[x, y], ...]}``, without
        those under the void; where there is void, ``void``, a list of its strokes (``{"width",
        "line": [[x, y], ...]}``). Nothing else: no box, area or mask reaches the training.

    Raises:
        FileNotFoundError: the label file or images are missing.
        PointLabelError: the labels are invalid.
    """
    with paused_collector():
        dataset = read_points(points_json)
        training_id = {category.id: n for n, category in enumerate(contiguous)}
        wanted = [(i.image_id, i.file_name) for i in dataset.images]
        files = _locate(image_root, wanted, points_json, True)
        return [
            {
                "file_name": file_name,
                "height": int(image.height),
                "width": int(image.width),
                "image_id": image.image_id,
                "points": [
                    {
                        "instance_id": segment.id,
                        "category_id": training_id[segment.category_id],
                        "isthing": contiguous[training_id[segment.category_id]].isthing,
                        "coords": [[float(x), float(y)] for x, y in segment.points],
                    }
                    for segment in without_void(image).segments
                ],
                **(
                    {"void": [stroke_record(stroke) for stroke in image.void]} if image.void else {}
                ),
            }
            for image, file_name in zip(dataset.images, files, strict=True)
        ]


def load_panoptic_dicts(
    image_root: str | os.PathLike[str],
    panoptic_json: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    contiguous: Sequence[Category],
) -> list[dict[str, Any]]:
    """Read a COCO panoptic data set into one dict per image.

    Annotations are joined to images by their ids, never by their order; a missing ``iscrowd`` is 0.

    Returns:
        Dicts with ``file_name, height, width, image_id`` (as in the file), ``pan_seg_file_name``
        and ``segments_info``, a list of ``{"id", "category_id", "isthing", "iscrowd"}``, where
        ``category_id`` is contiguous.

    Raises:
        FileNotFoundError: the JSON, images or PNGs are missing.
        PointLabelError: the JSON is invalid.
    """
    _, images = read_panoptic_json(panoptic_json)
    training_id = {category.id: n for n, category in enumerate(contiguous)}
    files = _locate(image_root, [(i.image_id, i.file_name) for i in images], panoptic_json, True)
    maps = _locate(panoptic_root, [(i.image_id, i.png_name) for i in images], panoptic_json, False)
    dicts = []
    for image, file_name, map_name in zip(images, files, maps, strict=True):
        segments = []
        for segment_id, category_id, crowd in zip(
            image.segment_ids, image.category_ids, image.crowd, strict=True
        ):
            index = training_id.get(category_id)
            if index is None:  # the file was written again after its classes were read
                raise PointLabelError(
                    f"{panoptic_json}: image {image.image_id!r}, segment {segment_id!r}: "
                    f"category_id {category_id!r} is not among the data set's classes. Correct it, "
                    "or register the data set again."
                )
            segments.append(
                {
                    "id": segment_id,
                    "category_id": index,
                    "isthing": contiguous[index].isthing,
                    "iscrowd": bool(crowd),
                }
            )
        dicts.append(
            {
                "file_name": file_name,
                "height": image.height,
                "width": image.width,
                "image_id": image.image_id,
                "pan_seg_file_name": map_name,
                "segments_info": segments,
            }
        )
    return dicts


def _locate(
    root: str | os.PathLike[str],
    wanted: Sequence[tuple[str | int, str]],
    source: str | os.PathLike[str],
    any_extension: bool,
) -> list[str]:
    """Paths of the wanted files, see :func:`fdd.points.image_files.locate_files`."""
    found, absent = locate_files(root, [name for _, name in wanted], any_extension)
    missing = [f"image {wanted[n][0]!r}: {found[n]}" for n in absent]
    if missing:
        shown = "\n".join(f"  {line}" for line in missing[:_NAMES_SHOWN])
        more = f"\n  ... and {len(missing) - _NAMES_SHOWN} more" * (len(missing) > _NAMES_SHOWN)
        raise MissingFilesError(
            os.fspath(root),
            f"{len(missing)} of {counted(len(wanted), 'file')} that {os.fspath(source)} lists "
            f"{'is' if len(wanted) == 1 else 'are'} not below {os.fspath(root)}:\n{shown}{more}\n"
            "Put the files there, or name the folder that they are in.",
        )
    return found


@dataclass
class FilterReport:
    """How many images :func:`filter_training_dicts` kept and left out, and the first names of each.

    Attributes:
        total: images before.
        kept: images after.
        dropped: reason -> number of images.
        examples: reason -> up to five file names.
    """

    total: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def filter_training_dicts(
    dicts: Sequence[dict[str, Any]], require_thing: bool, min_side: int
) -> tuple[list[dict[str, Any]], FilterReport]:
    """Leave out images that cannot teach anything, and log how many and which.

    Works on point sets and on mask sets, whose crowd segments do not count as labelled.

    Args:
        dicts: dataset dicts; not changed.
        require_thing: leave out images whose labelled segments are all stuff.
        min_side: leave out images with a side below this number of pixels.

    Returns:
        The kept dicts in their order, and the counts.

    Raises:
        ValueError: no image is left.
    """
    report = FilterReport(total=len(dicts))
    kept = []
    for record in dicts:
        reason = _reason_to_drop(record, require_thing, min_side)
        if reason is None:
            kept.append(record)
            continue
        report.dropped[reason] = report.dropped.get(reason, 0) + 1
        names = report.examples.setdefault(reason, [])
        if len(names) < _NAMES_SHOWN:
            names.append(record["file_name"])
    report.kept = len(kept)
    for reason, count in report.dropped.items():
        logger.warning(
            "Left out %d of %d training images: %s. The first: %s",
            count,
            report.total,
            reason,
            ", ".join(report.examples[reason]),
        )
    if not kept:
        raise ValueError(
            f"none of the {report.total} training images is left: {report.dropped}. Check the "
            "label files, INPUT.POINTS.REQUIRE_THING and INPUT.POINTS.MIN_IMAGE_SIDE."
        )
    return kept, report


def _reason_to_drop(record: dict[str, Any], require_thing: bool, min_side: int) -> str | None:
    if "points" in record:
        segments = [s for s in record["points"] if s["coords"]]
    else:
        segments = [s for s in record.get("segments_info", []) if not s["iscrowd"]]
    if not segments:
        return "no labelled segment"
    if require_thing and not any(s["isthing"] for s in segments):
        return "no labelled thing"
    if min(record["height"], record["width"]) < min_side:
        return f"a side below {min_side} px"
    return None

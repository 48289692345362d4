"""An import without one point is an error: what was found instead, and what may have been meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fdd.points.importers.assemble import ImportNotes
from fdd.points.importers.records import RawImage
from fdd.points.importers.registry import Format
from fdd.points.structures import PointLabelError
from fdd.points.wording import counted

__all__ = ["explain_nothing_left", "refuse_nothing"]

_MASKS = "Are the labels masks? `fdd points sample` draws points from them."
_SHAPES = (
    "Only points count: label with the point tool. --skip-shapes leaves other shapes out, and "
    "makes no points of them."
)
#: What may have been meant, by format.
_HINTS = {
    "labelme": _SHAPES,
    "cvat": _SHAPES + " Was the task exported with its annotations saved, and from the right job?",
    "datumaro": _SHAPES,
    "label-studio": "Only keypoints of submitted annotations count: predictions of a model become "
    "annotations when somebody accepts them, or by the action 'Create annotations from "
    "predictions' of the Data Manager; then export again. " + _SHAPES,
    "coco-keypoints": "A keypoint counts with visibility 1 or 2, and not in a crowd. Are the "
    "points in 'point_coords'? Give --format pointsup. " + _MASKS,
    "pointsup": "Only points that lie on their object (label 1) count. Are the points in "
    "'keypoints'? Give --format coco-keypoints. " + _MASKS,
    "sparse-png": "No PNG has a labelled pixel of an object or region: is it the right folder, "
    "and the --panoptic-json that belongs to it?",
    "csv": "There is no row below the header. Are the rows in another file, or separated by "
    "another character (--delimiter)?",
}


def refuse_nothing(source: Path, format: Format, images: Iterable[RawImage]) -> None:
    """Refuse an export without a point.

    Args:
        source: the export.
        format: that it was read as.
        images: what was read.

    Raises:
        PointLabelError: says what was found, and what may have been meant.
    """
    images = list(images)
    if any(image.points for image in images):
        return
    raise PointLabelError(
        f"{source}: not one point; nothing was imported. Read as {format.summary} (--format "
        f"{format.name}), it has {counted(len(images), 'image')}{_found(_total(images))}. "
        f"{_HINTS.get(format.name, '')} Another format? --format names it."
    )


def explain_nothing_left(source: Path, images: Iterable[RawImage], notes: ImportNotes) -> str:
    """Where the points of an export went, of which none is left."""
    points = sum(len(image.points) for image in images)
    found = Counter(notes.left_out)
    for label, count in notes.ignored.items():
        found[f"points of the label {label!r}, which the class file ignores"] += count
    return (
        f"{source}: none of {counted(points, 'point')} is left; nothing was imported"
        f"{_found(found)}. Correct 'ignore' of the class file, or do without --drop and see what "
        "is wrong with the points."
    )


def _total(images: Iterable[RawImage]) -> Counter[str]:
    total: Counter[str] = Counter()
    for image in images:
        total.update(image.notes)
    return total


def _found(counts: Counter[str]) -> str:
    # What a file calls its shapes may have a line break in it.
    parts = [f"{count:,} {what}".replace("\n", "\\n") for what, count in counts.items() if count]
    return f" (left out: {'; '.join(parts)})" if parts else ""

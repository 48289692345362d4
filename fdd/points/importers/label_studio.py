"""Label Studio's JSON and JSON-MIN exports of keypoints.

**Points.** Results of type ``keypointlabels`` (or ``keypoint`` with a ``labels`` result of the same
region). ``x`` and ``y`` are percents of ``original_width`` and ``original_height``, from the upper
left corner of the image as the browser shows it: 50 of 5 pixels is 2.5, the centre of the third
pixel, as in our own convention. ``image_rotation`` is how the image was turned on the screen;
coordinates are of the unturned image (before version 1.0 they were not: such files are refused).

**An instance** is one keypoint. Keypoints which the annotator moved under one region of the list
(the same ``parentID``), or linked by relations, are one instance with it, as far as their label is
the same. JSON-MIN has neither: there each keypoint is an instance; export JSON to keep them.

**Which annotation.** One a task: the one marked as ground truth, else the one that was changed
last (the last of the file, where no times are given). Skipped ("cancelled") ones do not count.
Others, predictions, and the negative clicks of smart keypoints are left out and counted in the
notes. Boxes, polygons and brush strokes are refused, or left out with ``skip_shapes``; what belongs
to the whole image (choices, texts) is passed over.

**The image** is the entry of ``data`` that looks like one, see
:mod:`fdd.points.importers.label_studio_images`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fdd.points.importers import label_studio_regions as regions
from fdd.points.importers.label_studio_images import image_entry, image_names
from fdd.points.importers.records import RawImage
from fdd.points.parsing import json_exports, kind_of, require
from fdd.points.structures import PointLabelError

__all__ = ["TITLE", "image_names", "read", "recognizes"]

TITLE = "Label Studio JSON"
#: Percent of the image's sides, see the module.
DEFINES_UNIT = True

#: What JSON-MIN puts beside the task's data.
_OF_THE_ROW = frozenset(
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
)
_OTHERS = "annotations of a task besides the one that is taken"


def read(
    source: Path, *, skip_shapes: bool = False, image_key: str | None = None
) -> list[RawImage]:
    """Read an export, see the module.

    Args:
        source: a JSON file, or a folder of them.
        skip_shapes: leave out what is no keypoint instead of refusing it.
        image_key: the key of the task's data that holds the image's path, where it is not plain.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file, task and region.
    """
    images: list[RawImage] = []
    for path, document in json_exports(Path(source)):
        tasks = document if isinstance(document, list) else [document]
        if not tasks:
            raise PointLabelError(f"{path}: no task; nothing was exported")
        rows: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
        for position, task in enumerate(tasks):
            if not isinstance(task, dict):
                raise PointLabelError(
                    f"{path}, position {position}: {kind_of(task)}; expected a task"
                )
            where = f"{path}, task {task.get('id', f'at position {position}')}"
            if "data" in task:
                images.append(_task(task, where, image_key, skip_shapes))
            elif "annotation_id" in task:
                # One row an annotation: the rows of a task belong together.
                rows.setdefault(str(task.get("id", where)), []).append((where, task))
            else:
                raise PointLabelError(
                    f"{where}: neither 'data' (JSON) nor 'annotation_id' (JSON-MIN); found "
                    f"{', '.join(map(repr, task)) or 'nothing'}. Export the project as JSON"
                )
        images += [_rows(found, image_key, skip_shapes) for found in rows.values()]
    return images


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format; ``document`` is its parsed JSON, if it is JSON."""
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict):
        return False
    full = isinstance(first.get("data"), dict) and (
        "annotations" in first or "completions" in first
    )
    return full or {"annotation_id", "annotator", "lead_time"} <= set(first)


def _task(task: dict[str, Any], where: str, image_key: str | None, skip_shapes: bool) -> RawImage:
    """One task of the full JSON."""
    data = require(task, "data", dict, where)
    name, other_names = image_names(image_entry(data, image_key, where), where)
    image = RawImage(name, other_names=other_names, where=where)
    old = "annotations" not in task and "completions" in task
    annotations = require(task, "completions" if old else "annotations", list, where)
    if isinstance(task.get("predictions"), list) and task["predictions"]:
        image.notes["predictions of a model"] += len(task["predictions"])
    usable: list[tuple[dict[str, Any], list[Any]]] = []
    for position, annotation in enumerate(annotations):
        results = require(annotation, "result", list, f"{where}, annotation {position}")
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            image.notes["skipped (cancelled) annotations"] += 1
        else:
            usable.append((annotation, results))
    if not usable:
        image.notes["tasks without a finished annotation"] += 1
        return image
    _, results = max(reversed(usable), key=lambda pair: _rank(pair[0]))
    if len(usable) > 1:
        image.notes[_OTHERS] += len(usable) - 1
    regions.add_results(image, results, skip_shapes=skip_shapes, old=old)
    return image


def _rows(
    rows: list[tuple[str, dict[str, Any]]], image_key: str | None, skip_shapes: bool
) -> RawImage:
    """The rows (one an annotation) of one task of JSON-MIN."""
    where, row = max(reversed(rows), key=lambda pair: _rank(pair[1]))
    plain = {k: v for k, v in row.items() if k not in _OF_THE_ROW}
    name, other_names = image_names(image_entry(plain, image_key, where), where)
    image = RawImage(name, other_names=other_names, where=where)
    if len(rows) > 1:
        image.notes[_OTHERS] += len(rows) - 1
    regions.add_values(image, row, skip_shapes=skip_shapes)
    return image


def _rank(annotation: dict[str, Any]) -> tuple[bool, str]:
    """Orders annotations: ground truth first, then by the time of the last change (ISO 8601).

    Before version 1.0 times were seconds.
    """
    said = annotation.get("updated_at") or annotation.get("created_at") or ""
    seconds = isinstance(said, (int, float))
    time = str(said).partition(".")[0].zfill(20) if seconds else str(said)
    return bool(annotation.get("ground_truth")), time

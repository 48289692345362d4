"""Label Studio's JSON and JSON-MIN exports of keypoints.

**Points.** Results of type ``keypointlabels`` (or ``keypoint`` with a ``labels`` result of the same
region). ``x`` and ``y`` are percents of ``original_width`` and ``original_height``, from the upper
left corner of the image as the browser shows it: 50 of 5 pixels is 2.5, the centre of the third
pixel, as in our own convention. ``image_rotation`` is how the image was turned on the screen;
coordinates are of the unturned image (before version 1.0 they were not: such files are refused).

**An instance** is one keypoint. Keypoints that the annotator moved under one region of the list
(the same ``parentID``), or linked by relations, are one instance with it, as far as their label is
the same. JSON-MIN has neither: there each keypoint is an instance; export JSON to keep them.

**Which annotation.** One a task: the one marked as ground truth, else the one that was changed
last (the last of the file, where no times are given). Skipped ("cancelled") ones do not count.
Others, predictions, and the negative clicks of smart keypoints are left out and counted in the
notes. Boxes, polygons and brush strokes are refused, or left out with ``skip_shapes``; what belongs
to the whole image (choices, texts) is not read.

**The image** is the entry of ``data`` that looks like one, see :func:`image_entry`, and its file is
called as :func:`image_names` says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fdd.points.importers.registry import ONLY_POINTS, RawImage, RawPoint, register_importer
from fdd.points.parsing import (
    coordinate,
    json_exports,
    kind_of,
    positive_int,
    refuse_shape,
    require,
)
from fdd.points.structures import PointLabelError

__all__ = ["image_entry", "image_names", "read", "recognizes"]

#: What JSON-MIN puts beside the task's data.
_OF_THE_ROW = frozenset(
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
)
_OTHERS = "annotations of a task besides the one that is taken"

_IMAGE_NAME = re.compile(r"\.(jpe?g|png|tiff?|bmp|webp|gif)(\?.*)?$", re.IGNORECASE)
#: Label Studio puts eight digits in front of the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
_USUAL_KEYS = ("image", "img", "photo", "picture", "captioning", "ocr")

_SHAPES = ("rectangle", "polygon", "brush", "ellipse", "vector", "bitmask", "magicwand", "cube")
_SHAPE_TYPES = frozenset(name + end for name in _SHAPES for end in ("", "labels"))
_SHAPE_KEYS = frozenset({"points", "rle", "radiusX", "vertices", "height"})
_POINT_TYPES = frozenset({"keypoint", "keypointlabels"})
_NEGATIVE = "negative clicks of smart keypoints"


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format, see :class:`.registry.Importer`."""
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict):
        return False
    full = isinstance(first.get("data"), dict) and (
        "annotations" in first or "completions" in first
    )
    return full or {"annotation_id", "annotator", "lead_time"} <= set(first)


@register_importer(
    "label-studio",
    title="Label Studio JSON",
    summary="Label Studio JSON with keypoint labels",
    hint="Only keypoints of submitted annotations count: predictions of a model become "
    "annotations when somebody accepts them, or by the action 'Create annotations from "
    f"predictions' of the Data Manager; then export again. {ONLY_POINTS}",
    recognizes=recognizes,
    defines_unit=True,  # percent
)
def read(
    source: Path, *, skip_shapes: bool = False, image_key: str | None = None
) -> list[RawImage]:
    """Read an export, see the module.

    Args:
        source: a JSON file, or a folder of them.
        skip_shapes: leave out what is not a keypoint instead of refusing it.
        image_key: the key of the task's data that holds the image's path, where it is ambiguous.

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
                images.append(_read_task(task, where, image_key, skip_shapes))
            elif "annotation_id" in task:
                # One row an annotation: the rows of a task belong together.
                rows.setdefault(str(task.get("id", where)), []).append((where, task))
            else:
                raise PointLabelError(
                    f"{where}: neither 'data' (JSON) nor 'annotation_id' (JSON-MIN); found "
                    f"{', '.join(map(repr, task)) or 'nothing'}. Export the project as JSON"
                )
        images += [_read_rows(found, image_key, skip_shapes) for found in rows.values()]
    return images


def _read_task(
    task: dict[str, Any], where: str, image_key: str | None, skip_shapes: bool
) -> RawImage:
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
    _add_results(image, results, skip_shapes=skip_shapes, old=old)
    return image


def _read_rows(
    rows: list[tuple[str, dict[str, Any]]], image_key: str | None, skip_shapes: bool
) -> RawImage:
    """The rows (one an annotation) of one task of JSON-MIN."""
    where, row = max(reversed(rows), key=lambda pair: _rank(pair[1]))
    plain = {k: v for k, v in row.items() if k not in _OF_THE_ROW}
    name, other_names = image_names(image_entry(plain, image_key, where), where)
    image = RawImage(name, other_names=other_names, where=where)
    if len(rows) > 1:
        image.notes[_OTHERS] += len(rows) - 1
    _add_values(image, row, skip_shapes=skip_shapes)
    return image


def _rank(annotation: dict[str, Any]) -> tuple[bool, str]:
    """Orders annotations: ground truth first, then by the time of the last change (ISO 8601).

    Before version 1.0 times were seconds.
    """
    changed = annotation.get("updated_at") or annotation.get("created_at") or ""
    seconds = isinstance(changed, (int, float))
    time = str(changed).partition(".")[0].zfill(20) if seconds else str(changed)
    return bool(annotation.get("ground_truth")), time


def image_entry(data: dict[str, Any], key: str | None, where: str) -> str:
    """The path or address of the image in the data of a task.

    This is the named key; else the only text; else the only text that ends like an image's name;
    else a key that is usual for images.

    Raises:
        PointLabelError: there is none, or several that could be; or several images a task.
    """
    listed = ", ".join(repr(name) for name in data) or "nothing"
    if key is not None:
        if key not in data:
            raise PointLabelError(f"{where}: the data has no {key!r}; found {listed}")
        if not isinstance(data[key], str) or not data[key]:
            raise PointLabelError(
                f"{where}: {key!r} is not a text; tasks of several images are not imported"
            )
        return data[key]
    texts = {k: v for k, v in data.items() if isinstance(v, str) and v}
    likely = {k: v for k, v in texts.items() if _IMAGE_NAME.search(v)}
    for candidates in (texts, likely):
        if len(candidates) == 1:
            return next(iter(candidates.values()))
    for usual in _USUAL_KEYS:
        if usual in (likely or texts):
            return texts[usual]
    raise PointLabelError(
        f"{where}: which entry of the data is the image? Found {listed}. Name it with --image-key "
        "KEY (image_key)"
    )


def image_names(address: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The file's name below an image folder, and other names that it may have there.

    * ``/data/upload/1/0a1b2c3d-cat.jpg``: ``0a1b2c3d-cat.jpg``, as the server keeps it; or else
      ``cat.jpg``, as it was before the upload;
    * ``/data/local-files/?d=farm/cat.jpg``: ``farm/cat.jpg``;
    * ``s3://bucket/farm/cat.jpg``, ``gs://...``, ``https://host/farm/cat.jpg?token=...``:
      ``farm/cat.jpg``;
    * anything else, also ``C:\\farm\\cat.jpg``: as it is.

    Raises:
        PointLabelError: the image itself is in the export (``data:image/png;base64,...``), or the
            address names no file.
    """
    if address.startswith("data:"):
        raise PointLabelError(
            f"{where}: the image is part of the export (data:...); save it as a file and name that"
        )
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise PointLabelError(f"{where}: the image's address {address[:60]!r}: {error}") from error
    query = parse_qs(parts.query).get("d")
    # A scheme of one letter is a drive. Other paths may have % and ? in their names.
    remote = len(parts.scheme) > 1 and "://" in address
    if query and parts.path.rstrip("/").endswith("/local-files"):
        name = query[0]
    elif remote or address.startswith("/data/upload/"):
        name = unquote(parts.path).lstrip("/")
    else:
        name = address
    if not name or name.endswith("/"):
        raise PointLabelError(f"{where}: the image's address {address[:60]!r} names no file")
    base = name.rsplit("/", 1)[-1]
    if "data/upload/" in name and _UPLOAD_PREFIX.match(base):
        return base, (_UPLOAD_PREFIX.sub("", base),)
    return name, ()


@dataclass
class _Links:
    """Which regions belong together."""

    parents: dict[str, str] = field(default_factory=dict)

    def root(self, region: str) -> str:
        path = [region]
        while (above := self.parents.get(path[-1], path[-1])) != path[-1]:
            path.append(above)
        self.parents.update(dict.fromkeys(path[:-1], path[-1]))
        return path[-1]

    def join(self, one: str, other: str) -> None:
        self.parents[self.root(one)] = self.root(other)


def _add_results(image: RawImage, results: list[Any], *, skip_shapes: bool, old: bool) -> None:
    """Add the keypoints of one annotation's ``result`` to the image.

    Args:
        old: the file is of a version before 1.0.
    """
    keypoints: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = []
    labels: dict[str, list[str]] = {}
    links = _Links()
    for position, result in enumerate(results):
        kind = require(result, "type", str, f"{image.where}, result {position}")
        region = str(result.get("id", f"at position {position}"))
        where = f"{image.where}, region {region}"
        if kind == "relation":
            ends = (str(require(result, key, (str, int), where)) for key in ("from_id", "to_id"))
            links.join(*ends)
        elif kind in _POINT_TYPES:
            if old and result.get("image_rotation"):
                raise PointLabelError(
                    f"{where}: the image was turned by {result['image_rotation']} degrees in a "
                    "version before 1.0, which turned the coordinates with it. Export from a "
                    "newer version"
                )
            keypoints.append((region, where, require(result, "value", dict, where), result))
            if result.get("parentID"):
                links.join(region, str(result["parentID"]))
        elif kind == "labels":
            labels.setdefault(region, []).extend(_labels_of(result.get("value"), where))
        elif kind in _SHAPE_TYPES:
            _leave_out(image, kind, where, skip_shapes)
    for region, where, value, result in keypoints:
        if result.get("is_positive") is False:
            image.notes[_NEGATIVE] += 1
            continue
        if result.get("item_index"):
            raise PointLabelError(f"{where}: tasks of several images are not imported")
        names = [*_labels_of(value, where), *labels.get(region, [])]
        _add_point(image, value, result, names, (image.where, links.root(region)), where)


def _add_values(image: RawImage, row: dict[str, Any], *, skip_shapes: bool) -> None:
    """Add the keypoints of one row of JSON-MIN to the image; each is an instance of its own."""
    labelled: set[tuple[str, str]] = set()
    without: list[tuple[str, tuple[str, str]]] = []
    for key, values in row.items():
        for position, value in enumerate(values if isinstance(values, list) else ()):
            if not isinstance(value, dict):
                continue
            where = f"{image.where}, {key!r}, position {position}"
            place = repr(value.get("x")), repr(value.get("y"))
            if "labels" in value or "keypointlabels" in value:
                labelled.add(place)
            shape = next((name for name in _SHAPE_TYPES if name in value), None)
            if shape or not _SHAPE_KEYS.isdisjoint(value):
                _leave_out(image, shape or "shape", where, skip_shapes)
            elif "x" in value and "y" in value:
                names = _labels_of(value, where)
                if names:
                    _add_point(image, value, value, names, None, where)
                else:
                    without.append((where, place))
    # A keypoint is also listed without its labels, under a key of its own.
    for where, place in without:
        if place not in labelled:
            raise PointLabelError(f"{where}: a keypoint without a label; give it one")


def _leave_out(image: RawImage, kind: str, where: str, skip_shapes: bool) -> None:
    if not skip_shapes:
        refuse_shape(where, f"region of type {kind!r}")
    image.notes[f"{kind} regions"] += 1


def _labels_of(value: Any, where: str) -> list[str]:
    """The class names in a result's value."""
    if not isinstance(value, dict):
        raise PointLabelError(f"{where}: 'value' is {kind_of(value)}; expected an object")
    found: list[str] = []
    for key in ("keypointlabels", "labels"):
        names = value.get(key) or []
        if not isinstance(names, list):
            raise PointLabelError(f"{where}: {key!r} is {kind_of(names)}; expected a list")
        for name in names:
            if not isinstance(name, str):
                raise PointLabelError(f"{where}: the label {kind_of(name)}; expected a text")
        found += names
    return found


def _add_point(
    image: RawImage,
    value: dict[str, Any],
    result: dict[str, Any],
    labels: list[str],
    instance: Any,
    where: str,
) -> None:
    """Add a keypoint: ``value`` has its place, ``result`` the size of the image."""
    names = list(dict.fromkeys(labels))
    if len(names) != 1:
        raise PointLabelError(
            f"{where}: a keypoint with {len(names)} labels {names or ''}".rstrip()
            + "; expected one. Give each keypoint exactly one label"
        )
    width, height = (
        positive_int(result.get(f"original_{side}"), f"{where}: 'original_{side}'")
        for side in ("width", "height")
    )
    if image.width is not None and (image.width, image.height) != (width, height):
        raise PointLabelError(
            f"{where}: the image has {width} x {height} pixels here, {image.width} x "
            f"{image.height} in an earlier region; tasks of several images are not imported"
        )
    image.width, image.height = width, height
    x, y = (
        coordinate(coordinate(value.get(axis), where) * side / 100, where)
        for axis, side in (("x", width), ("y", height))
    )
    image.points.append(RawPoint(names[0], x, y, instance, where))

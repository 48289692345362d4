"""Rules on the label file itself: read entry by entry, so that one bad entry hides no other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fdd.points.format import DENSE_KEYS, check_head, load_document, parse_category, parse_image
from fdd.points.rules.finding import Finding
from fdd.points.structures import PointDataset, PointLabelError
from fdd.points.validation import FlatPoints, LabelProblem, is_integer, list_problems
from fdd.points.wording import listed

__all__ = ["ROUNDING", "Labels", "check_labels", "dense_entries", "read_labels"]

#: A point at most so far outside, in pixels, was rounded or is one of a pixel's other corner.
ROUNDING = 1.0

_RULE_OF_KIND = {
    "categories": "E103",
    "image_id": "E104",
    "image_entry": "E105",
    "segment_id": "E106",
    "category_id": "E107",
    "no_points": "E108",
    "not_a_pair": "E201",
    "not_finite": "E201",
    "outside": "E202",
    "one_pixel": "E203",
}


@dataclass
class Labels:
    """A label file as far as it could be read.

    Attributes:
        file: its path.
        document: the parsed JSON, as it is.
        dataset: the entries that have the right form; their values may be unsound.
    """

    file: str
    document: dict[str, Any]
    dataset: PointDataset


def read_labels(path: str | os.PathLike[str]) -> tuple[Labels | None, list[Finding]]:
    """Read a label file; what has not the right form is left out and becomes a finding.

    Returns:
        The labels, None where the file as a whole is no label file; the findings of E101 and E102.

    Raises:
        FileNotFoundError: there is no such file.
    """
    source = os.fspath(path)
    try:
        document = load_document(Path(path), source)
        check_head(document, source)
        for key in ("categories", "images"):
            if not isinstance(document.get(key), list):
                raise PointLabelError(f"{source}: no list {key!r}; expected one")
    except PointLabelError as error:
        return None, [_unreadable(error, source)]
    findings = [_dense_finding(entry, source) for entry in dense_entries(document)]
    dataset = PointDataset([], [], document.get("info", {}))
    for i, entry in enumerate(document["categories"]):
        parse = partial(parse_category, where=f"{source}: category at position {i}")
        _keep(dataset.categories, parse, entry, source, findings)
    for i, entry in enumerate(document["images"]):
        parse_entry = partial(parse_image, where=f"{source}: image at position {i}", source=source)
        _keep(dataset.images, parse_entry, entry, source, findings)
    return Labels(source, document, dataset), findings


def _keep(
    kept: list[Any],
    parse: Callable[[Any], Any],
    entry: Any,
    source: str,
    findings: list[Finding],
) -> None:
    try:
        kept.append(parse(_without_dense(entry)))
    except PointLabelError as error:
        image_id = entry.get("id") if isinstance(entry, dict) and "segments" in entry else None
        findings.append(_unreadable(error, source, image_id))


def _unreadable(error: PointLabelError, source: str, image_id: Any = None) -> Finding:
    return Finding("E101", str(error).removeprefix(f"{source}: "), source, image_id)


def dense_entries(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, Any, str]]:
    """Objects of a label document that have a key of masks or boxes.

    Yields:
        The object, the ids of image and segment that it belongs to, and what it is.
    """
    yield from _dense(document, None, None, "the file")
    for i, category in enumerate(document["categories"]):
        yield from _dense(category, None, None, f"category at position {i}")
    for i, image in enumerate(document["images"]):
        if not isinstance(image, dict):
            continue
        image_id = image.get("id")
        where = f"image {image_id!r}" if "id" in image else f"image at position {i}"
        yield from _dense(image, image_id, None, where)
        segments = image.get("segments")
        for segment in segments if isinstance(segments, list) else ():
            if isinstance(segment, dict):
                segment_id = segment.get("id")
                yield from _dense(segment, image_id, segment_id, f"{where}, segment {segment_id!r}")


def dense_keys(entry: dict[str, Any]) -> list[str]:
    """The keys of masks or boxes that an object has."""
    return sorted(key for key in entry if key.lower() in DENSE_KEYS)


def _dense(
    entry: Any, image_id: Any, segment_id: Any, where: str
) -> Iterator[tuple[dict[str, Any], Any, Any, str]]:
    if isinstance(entry, dict) and dense_keys(entry):
        yield entry, image_id, segment_id, where


def _dense_finding(found: tuple[dict[str, Any], Any, Any, str], source: str) -> Finding:
    entry, image_id, segment_id, where = found
    keys = ", ".join(map(repr, dense_keys(entry)))
    return Finding("E102", f"{where}: {keys}", source, image_id, segment_id, fixable=True)


def _without_dense(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    result = {key: value for key, value in entry.items() if key.lower() not in DENSE_KEYS}
    if isinstance(result.get("segments"), list):
        result["segments"] = [_without_dense(segment) for segment in result["segments"]]
    return result


def check_labels(labels: Labels) -> list[Finding]:
    """Rules E103 to W204: what :func:`fdd.points.validate_points` refuses, and doubles."""
    dataset = labels.dataset
    stuff = {c.id for c in dataset.categories if not c.isthing}
    twins = _classes_by_id(dataset)
    findings = [_finding(problem, labels, stuff, twins) for problem in list_problems(dataset)]
    return findings + _doubled_stuff(labels, stuff) + _doubled_points(labels)


def _classes_by_id(dataset: PointDataset) -> dict[tuple[int, int], set[int]]:
    """Classes of the segments of an image (by position) that have one id."""
    found: dict[tuple[int, int], set[int]] = {}
    for position, image in enumerate(dataset.images):
        for segment in image.segments:
            found.setdefault((position, segment.id), set()).add(segment.category_id)
    return found


def _finding(
    problem: LabelProblem,
    labels: Labels,
    stuff: set[int],
    twins: dict[tuple[int, int], set[int]],
) -> Finding:
    image = None if problem.image is None else labels.dataset.images[problem.image]
    fixable = problem.kind in ("no_points", "not_finite")
    if image is not None and problem.kind == "outside" and problem.point is not None:
        x, y = problem.point
        reach = (image.width + ROUNDING, image.height + ROUNDING)
        fixable = -ROUNDING <= x <= reach[0] and -ROUNDING <= y <= reach[1]
    if problem.image is not None and problem.kind == "segment_id":
        classes = twins[problem.image, problem.segment_id]
        one_stuff = len(classes) == 1 and classes <= stuff
        fixable = is_integer(problem.segment_id) and (problem.segment_id <= 0 or one_stuff)
    return Finding(
        _RULE_OF_KIND[problem.kind],
        problem.text,
        labels.file,
        None if image is None else image.image_id,
        problem.segment_id,
        problem.point,
        fixable,
    )


def _doubled_stuff(labels: Labels, stuff: set[int]) -> list[Finding]:
    findings = []
    names = {c.id: c.name for c in labels.dataset.categories}
    for image in labels.dataset.images:
        counts = Counter(s.category_id for s in image.segments if s.category_id in stuff)
        for category_id, count in counts.items():
            if count > 1:
                ids = [s.id for s in image.segments if s.category_id == category_id]
                message = (
                    f"image {image.image_id!r}: {count} segments ({listed(ids, 5)}) of the stuff "
                    f"class {names[category_id]!r}"
                )
                found = Finding("W110", message, labels.file, image.image_id, ids[1], fixable=True)
                findings.append(found)
    return findings


def _doubled_points(labels: Labels) -> list[Finding]:
    flat = FlatPoints(labels.dataset.images)
    order = np.lexsort((flat.xy[:, 1], flat.xy[:, 0], flat.segment))  # stable: file order in ties
    before, after = order[:-1], order[1:]
    same = (flat.segment[before] == flat.segment[after]) & (flat.xy[before] == flat.xy[after]).all(
        axis=1
    )
    findings = []
    for i in np.sort(after[same]).tolist():
        image = flat.images[flat.image[i]]
        segment_id = flat.segments[flat.segment[i]].id
        x, y = flat.xy[i].tolist()
        message = (
            f"image {image.image_id!r}, segment {segment_id!r}: the point ({x:g}, {y:g}) is listed "
            "more than once"
        )
        findings.append(
            Finding("W204", message, labels.file, image.image_id, segment_id, (x, y), True)
        )
    return findings

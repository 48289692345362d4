"""Rules on COCO panoptic masks: what panopticapi, or fdd's own evaluation, would score absurdly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from fdd.points.check_rules.images import ImageEntry, Progress
from fdd.points.check_rules.rules import Finding
from fdd.points.checks import is_integer
from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.dataset_file import MaskFiles
from fdd.points.importers.parsing import load_json
from fdd.points.panoptic import MAX_SEGMENT_ID, ids_of_picture, looks_like_points, mostly_isolated
from fdd.points.structures import Category, PointLabelError

__all__ = ["MaskSet", "check_masks", "read_masks"]

_SAMPLE = 200  # PNGs to decode where not all are


@dataclass
class MaskSet:
    """A panoptic JSON as far as it could be read.

    Attributes:
        file: the JSON.
        folder: of the PNGs.
        categories: those of the JSON that have the right form.
        images: entries of the JSON's ``images``.
        annotations: entries with a PNG and a list of segments, by image id.
        decoded: number of PNGs that were decoded.
    """

    file: str
    folder: str
    categories: list[Category] = field(default_factory=list)
    images: list[ImageEntry] = field(default_factory=list)
    annotations: dict[Any, dict[str, Any]] = field(default_factory=dict)
    decoded: int = 0

    def classes_seen(self) -> set[int]:
        """Ids of the categories that occur in segments."""
        return {
            s["category_id"]
            for annotation in self.annotations.values()
            for s in annotation["segments_info"]
        }


def read_masks(files: MaskFiles) -> tuple[MaskSet | None, list[Finding]]:
    """Read a panoptic JSON entry by entry; what is unsound is left out (E401, E406)."""
    source, folder = os.fspath(files.json), os.fspath(files.folder)
    try:
        document = load_json(source)
        for key in ("images", "annotations", "categories"):
            if not isinstance(document, dict) or not isinstance(document.get(key), list):
                raise PointLabelError(f"{source}: no list {key!r}; expected COCO panoptic JSON")
    except (FileNotFoundError, PointLabelError) as error:
        return None, [Finding("E401", str(error).removeprefix(f"{source}: "), source)]
    masks = MaskSet(source, folder)
    findings: list[Finding] = []
    if not os.path.isdir(folder):
        findings.append(Finding("E401", f"there is no folder {folder}", source))
    for i, entry in enumerate(document["categories"]):
        if _has(entry, "id", "name", "isthing") and is_integer(entry["id"]):
            category = Category(entry["id"], str(entry["name"]), bool(entry["isthing"]))
            masks.categories.append(category)
        else:
            message = f"category at position {i}: expected an object with id, name and isthing"
            findings.append(Finding("E401", message, source))
    for i, entry in enumerate(document["images"]):
        named = _has(entry, "id", "file_name", "height", "width") and _is_id(entry["id"])
        if named and isinstance(entry["file_name"], str):
            sides = entry["width"], entry["height"]
            masks.images.append(ImageEntry(entry["id"], entry["file_name"], *sides))
        else:
            message = f"image at position {i}: expected an object with id, file_name, height, width"
            findings.append(Finding("E401", message, source))
    known = {c.id for c in masks.categories}
    for i, entry in enumerate(document["annotations"]):
        findings += _read_annotation(entry, i, masks, known)
    return masks, findings + _unpaired(masks)


def _has(entry: Any, *keys: str) -> bool:
    return isinstance(entry, dict) and all(key in entry for key in keys)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or is_integer(value)


def _read_annotation(entry: Any, position: int, masks: MaskSet, known: set[int]) -> list[Finding]:
    keys = ("image_id", "file_name", "segments_info")
    if not (
        _has(entry, *keys)
        and _is_id(entry["image_id"])
        and isinstance(entry["file_name"], str)
        and isinstance(entry["segments_info"], list)
    ):
        message = f"annotation at position {position}: expected an object with {', '.join(keys)}"
        return [Finding("E401", message, masks.file)]
    image_id = entry["image_id"]
    where = f"image {image_id!r}"
    if image_id in masks.annotations:
        return [Finding("E401", f"{where}: annotated twice", masks.file, image_id)]
    findings = []
    segments: dict[int, dict[str, Any]] = {}
    without: set[str] = set()
    for segment in entry["segments_info"]:
        problem = _segment_problem(segment, segments, known)
        if problem:
            segment_id = segment.get("id") if isinstance(segment, dict) else None
            message = f"{where}, segment {segment_id!r}: {problem}"
            findings.append(Finding("E406", message, masks.file, image_id, segment_id))
            continue
        segments[segment["id"]] = segment
        without |= {key for key in ("iscrowd", "area") if key not in segment}
    if without:
        message = f"{where}: segments without {' and '.join(sorted(without))}"
        findings.append(Finding("W404", message, masks.file, image_id))
    masks.annotations[image_id] = {**entry, "segments_info": list(segments.values())}
    return findings


def _segment_problem(segment: Any, earlier: dict[int, Any], known: set[int]) -> str:
    if not _has(segment, "id", "category_id"):
        return "expected an object with id and category_id"
    number, category_id = segment["id"], segment["category_id"]
    if not is_integer(number) or not 0 < number <= MAX_SEGMENT_ID:
        return f"the id is no integer from 1 to {MAX_SEGMENT_ID} (0 is void)"
    if number in earlier:
        return "the id is listed twice"
    if not is_integer(category_id) or category_id not in known:
        return f"category_id {category_id!r} is not among the categories"
    return ""


def _unpaired(masks: MaskSet) -> list[Finding]:
    ids = {image.image_id for image in masks.images}
    findings = [
        Finding("E401", f"image {n!r}: no annotation", masks.file, n)
        for n in dict.fromkeys(image.image_id for image in masks.images)
        if n not in masks.annotations
    ]
    owner: dict[str, Any] = {}
    for n, annotation in masks.annotations.items():
        other = owner.setdefault(annotation["file_name"], n)
        if other is not n:
            message = f"image {n!r}: shares {annotation['file_name']} with image {other!r}"
            findings.append(Finding("E401", message, masks.file, n))
    return findings + [
        Finding("E401", f"image {n!r}: annotated, but not among the images", masks.file, n)
        for n in masks.annotations
        if n not in ids
    ]


def check_masks(
    masks: MaskSet,
    categories: Sequence[Category] | None,
    labelled: Iterable[Any],
    progress: Progress,
    decode: bool = False,
) -> list[Finding]:
    """Rules W402, E403, W405 and E407 to W414.

    Args:
        masks: what was read.
        categories: those of the points.
        labelled: ids of the images that have points and should have a mask.
        progress: ``progress(items, total, what)`` hands the items on.
        decode: decode all PNGs; otherwise 200 of them, spread evenly, and the headers of the rest.
    """
    findings = _check_categories(masks, categories)
    twins = {str(n).lstrip("0"): n for n in masks.annotations}
    for image_id in labelled:
        if image_id not in masks.annotations:
            near = twins.get(str(image_id).lstrip("0"), image_id)
            other = isinstance(near, str) != isinstance(image_id, str)
            hint = f" (there is {near!r}: a text and a number are different ids)" if other else ""
            message = f"image {image_id!r}: not in {masks.file}{hint}"
            findings.append(Finding("W414", message, masks.file, image_id))
    if not os.path.isdir(masks.folder):
        return findings
    sizes = {image.image_id: (image.width, image.height) for image in masks.images}
    entries = [(n, a) for n, a in masks.annotations.items()]
    step = 1 if decode else max(1, -(-len(entries) // _SAMPLE))
    states = []
    for i, (image_id, entry) in enumerate(progress(entries, len(entries), "masks")):
        found, state = _check_png(masks, image_id, entry, sizes.get(image_id), i % step == 0)
        findings += found
        states.append(state)
    states = [state for state in states if state]
    masks.decoded = len(states)
    if states and all(state == "void" for state in states):
        message = f"{masks.folder}: none of the {len(states)} decoded PNGs has a labelled pixel"
        findings = [f for f in findings if f.rule != "W412"]
        findings.append(Finding("E411", message, masks.file))
    elif states and all(state in ("void", "lone") for state in states):
        message = f"{masks.folder}: in all PNGs, most labelled pixels stand alone"
        findings = [f for f in findings if f.rule != "E410"]
        findings.append(Finding("E410", message, masks.file))
    return findings + _unlisted(masks)


def _check_categories(masks: MaskSet, categories: Sequence[Category] | None) -> list[Finding]:
    findings = []
    for kind, isthing in (("thing", True), ("stuff", False)):
        if masks.categories and all(c.isthing != isthing for c in masks.categories):
            findings.append(Finding("W402", f"no {kind} class", masks.file))
    if categories is not None:
        for difference in compare_classes(categories, masks.categories, ordered=False):
            message = describe_differences([difference], "the points' file", "the masks' file")
            findings.append(Finding("E403", message, masks.file))
    return findings


def _check_png(
    masks: MaskSet, image_id: Any, entry: dict[str, Any], size: Any, decode: bool
) -> tuple[list[Finding], str]:
    """Findings of one PNG, and ``void``, ``lone``, ``masks`` or, not decoded, ``""``."""
    name = entry["file_name"]
    path = os.path.join(masks.folder, name)
    where = f"image {image_id!r} ({path})"

    def finding(rule: str, text: str, segment_id: Any = None) -> Finding:
        return Finding(rule, f"{where}{text}", masks.file, image_id, segment_id)

    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        return [finding("E407", ": the name must start from the folder of the PNGs")], ""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                text = f": mode {picture.mode}; a panoptic PNG has three colour channels of 8 bits"
                return [finding("E407", text)], ""
            if size is not None and picture.size != size:
                text = (
                    f": {picture.width} x {picture.height} px (width x height), the JSON says "
                    f"{size[0]} x {size[1]}"
                )
                return [finding("E409", text)], ""
            if not decode:
                return [], ""
            ids = ids_of_picture(picture)
    except FileNotFoundError:
        return [finding("E407", ": does not exist")], ""
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [finding("E407", f": {error}")], ""
    values, counts = np.unique(ids, return_counts=True)
    pixels = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}
    labelled = sum(pixels.values())
    if not labelled:
        findings = [finding("W412", "")] if not entry["segments_info"] else []
        return findings + _compare(entry, pixels, finding), "void"
    if looks_like_points(ids, labelled):
        text = f": {labelled} of {ids.size} pixels are labelled, and most of them stand alone"
        return [finding("E410", text)], "lone"
    return _compare(entry, pixels, finding), "lone" if mostly_isolated(ids) else "masks"


def _compare(entry: dict[str, Any], pixels: dict[int, int], finding: Any) -> list[Finding]:
    findings = []
    listed = {s["id"]: s for s in entry["segments_info"]}
    for number in sorted(listed.keys() - pixels.keys()):
        findings.append(finding("E408", f": segment {number} has no pixel in the PNG", number))
    for number in sorted(pixels.keys() - listed.keys()):
        text = f": id {number} of the PNG ({pixels[number]} pixels) is not in the JSON"
        findings.append(finding("E408", text, number))
    for number, segment in listed.items():
        area, count = segment.get("area"), pixels.get(number)
        if "area" in segment and count is not None and area != count:
            text = f", segment {number}: area {area!r}, but {count} pixels"
            findings.append(finding("W405", text, number))
    return findings


def _unlisted(masks: MaskSet) -> list[Finding]:
    listed = {os.path.normpath(a["file_name"]) for a in masks.annotations.values()}
    return [
        Finding("W413", f"{os.path.join(masks.folder, name)}: not in the JSON", masks.file)
        for name in sorted(os.listdir(masks.folder))
        if name.lower().endswith(".png") and name not in listed
    ]

"""COCO panoptic JSON: one reader, one list of its rules, one writer.

What the strict reader refuses is what ``fdd points check`` lists: both take the problems of
:func:`read_panoptic_document`, which reads entry by entry, so that one invalid entry hides no
other. No box or area is used; that they are missing is noted, because other tools need them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdd.points.files import write_json
from fdd.points.findings import Finding, raise_errors
from fdd.points.parsing import load_json
from fdd.points.structures import Category, PointLabelError, is_integer, is_side

__all__ = [
    "MAX_SEGMENT_ID",
    "PanopticDocument",
    "PanopticImage",
    "PanopticWriter",
    "compare_images",
    "is_inside",
    "read_panoptic_document",
    "read_panoptic_json",
]

MAX_SEGMENT_ID = 256**3 - 1  # three 8-bit channels


@dataclass(frozen=True)
class PanopticImage:
    """An image and its segments; ``crowd`` tells which of them are groups and not one instance."""

    image_id: str | int
    file_name: str
    height: int
    width: int
    png_name: str
    segment_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    crowd: tuple[bool, ...]


@dataclass
class PanopticDocument:
    """A panoptic JSON as far as it could be read.

    Attributes:
        source: its path.
        categories: those of the right form.
        images: valid entries of ``images``, of different ids.
        annotations: valid entries with their valid segments, by image id.
        problems: everything that is wrong, in the order of the file.
    """

    source: str
    categories: list[Category] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: dict[Any, dict[str, Any]] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)

    def add(self, rule: str, text: str, image_id: Any = None, segment_id: Any = None) -> None:
        self.problems.append(Finding(rule, text, self.source, image_id, segment_id))


def read_panoptic_document(path: str | os.PathLike[str]) -> PanopticDocument:
    """Read a COCO panoptic JSON and list what is wrong with its entries.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not JSON, or not a panoptic JSON at all.
    """
    source = os.fspath(path)
    try:
        content = load_json(Path(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{source}: no such panoptic JSON. datasets/README.md tells where it belongs."
        ) from None
    keys = ("images", "annotations", "categories")
    missing = [k for k in keys if not isinstance(content, dict) or k not in content]
    wrong = [k for k in keys if k not in missing and not isinstance(content[k], list)]
    if missing or wrong:
        what = f"no {', '.join(missing)}" if missing else f"{wrong[0]!r} is not a list"
        raise PointLabelError(
            f"{source}: {what}; expected the COCO panoptic format, an object with lists "
            f"{', '.join(keys)}"
        )
    document = PanopticDocument(source)
    _read_categories(content["categories"], document)
    ids = _read_images(content["images"], document)
    known = {c.id for c in document.categories}
    for i, entry in enumerate(content["annotations"]):
        _read_annotation(entry, i, document, known)
    _pair(document, ids)
    return document


def read_panoptic_json(
    path: str | os.PathLike[str],
) -> tuple[list[Category], list[PanopticImage]]:
    """Read a COCO panoptic JSON; images in the order of ``images``, joined by their ids.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not a panoptic JSON, or an entry of it breaks the rules; lists all.
    """
    document = read_panoptic_document(path)
    # Names of PNGs that lead out of their folder have always been read here, and still are.
    raise_errors(document.source, [p for p in document.problems if p.rule != "E407"])
    images = []
    for image in document.images:
        annotation = document.annotations[image["id"]]
        segments = annotation["segments_info"]
        images.append(
            PanopticImage(
                image_id=image["id"],
                file_name=image["file_name"],
                height=image["height"],
                width=image["width"],
                png_name=annotation["file_name"],
                segment_ids=tuple(s["id"] for s in segments),
                category_ids=tuple(s["category_id"] for s in segments),
                crowd=tuple(bool(s.get("iscrowd", 0)) for s in segments),
            )
        )
    return document.categories, images


class PanopticWriter:
    """Collects the entries of a COCO panoptic JSON, image by image, and writes it.

    Args:
        categories: classes, or entries that are written as they are.
        info: of the JSON; None: no such key.
    """

    def __init__(
        self,
        categories: Iterable[Category | Mapping[str, Any]],
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self._info = {} if info is None else {"info": dict(info)}
        self._categories = [
            {"id": c.id, "name": c.name, "isthing": int(c.isthing)}
            if isinstance(c, Category)
            else dict(c)
            for c in categories
        ]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(
        self,
        image_id: str | int,
        file_name: str,
        size: tuple[int, int],
        png_name: str,
        segments_info: Iterable[Mapping[str, Any]],
    ) -> None:
        """Add an image.

        Args:
            image_id, file_name: of the image.
            size: height and width in pixels.
            png_name: path of its PNG below the folder of PNGs, with ``/``.
            segments_info: see :func:`fdd.points.coco_panoptic.describe_segments`.
        """
        height, width = size
        self._images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width}
        )
        self._annotations.append(
            {
                "image_id": image_id,
                "file_name": png_name,
                "segments_info": [dict(segment) for segment in segments_info],
            }
        )

    def content(self) -> dict[str, Any]:
        """The JSON as an object."""
        return {
            **self._info,
            "images": self._images,
            "annotations": self._annotations,
            "categories": self._categories,
        }

    def write(self, path: str | os.PathLike[str], end: str = "") -> None:
        """Write the JSON atomically, see :func:`fdd.points.files.write_json`."""
        write_json(path, self.content(), end=end)


def compare_images(loaded: Collection[Any], document: PanopticDocument, what: str) -> list[Finding]:
    """Problems of rule E415: an evaluation needs exactly the images that have masks.

    Args:
        loaded: ids of the images that the model will be run on.
        document: of the masks that the predictions are compared with.
        what: where the ids are from, a file.
    """
    masks, ids = document.annotations, set(loaded)
    near = _Near(masks)
    problems = [
        Finding("E415", f"image {n!r} of {what} has no mask{near.hint(n)}", None, n)
        for n in loaded
        if n not in masks
    ]
    near = _Near(loaded)
    problems += [
        Finding("E415", f"image {n!r} has a mask, but is not in {what}{near.hint(n)}", None, n)
        for n in masks
        if n not in ids
    ]
    return problems


class _Near:
    """Finds an id that differs from another one in its type only, or in leading zeros."""

    def __init__(self, ids: Iterable[Any]) -> None:
        self._ids = {_plain(n): n for n in ids}

    def hint(self, image_id: Any) -> str:
        near = self._ids.get(_plain(image_id), image_id)
        if isinstance(near, str) == isinstance(image_id, str):
            return ""
        return f" (there is {near!r}: a text and a number are different ids)"


def _plain(image_id: Any) -> str:
    return str(image_id).lstrip("0")


def is_inside(name: str) -> bool:
    """Whether the name of a PNG stays within the folder of the PNGs."""
    return not os.path.isabs(name) and ".." not in name.replace("\\", "/").split("/")


def _has_keys(entry: Any, *keys: str) -> bool:
    return isinstance(entry, dict) and all(key in entry for key in keys)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or is_integer(value)


def _read_categories(entries: list[Any], document: PanopticDocument) -> None:
    for i, entry in enumerate(entries):
        if not _has_keys(entry, "id", "name", "isthing") or not is_integer(entry["id"]):
            text = f"category at position {i}: expected an object with id, name and isthing"
            document.add("E401", text)
            continue
        category = Category(entry["id"], str(entry["name"]), bool(entry["isthing"]))
        if any(category.id == other.id for other in document.categories):
            document.add("E401", f"category id {category.id} is used twice; change one")
        else:
            document.categories.append(category)


def _read_images(entries: list[Any], document: PanopticDocument) -> set[Any]:
    """Keeps the valid entries; the ids of all."""
    seen: set[Any] = set()
    for i, entry in enumerate(entries):
        valid = _has_keys(entry, "id", "file_name", "height", "width") and _is_id(entry["id"])
        if not valid or not isinstance(entry["file_name"], str) or not entry["file_name"]:
            text = f"image at position {i}: expected an object with id, file_name, height, width"
            document.add("E401", text)
        elif not all(_side(entry[key]) for key in ("height", "width")):
            text = (
                f"image {entry['id']!r}: height {entry['height']!r:.40} and width "
                f"{entry['width']!r:.40} are not numbers of pixels"
            )
            document.add("E401", text, entry["id"])
        elif entry["id"] in seen:
            text = f"image {entry['id']!r}: two entries of 'images' have this id; remove one"
            document.add("E401", text, entry["id"])
        else:
            document.images.append({**entry, **{k: _side(entry[k]) for k in ("height", "width")}})
        if valid:
            seen.add(entry["id"])
    return seen


def _side(value: Any) -> int:
    """A number of pixels, 0 where it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if is_side(number) else 0


def _read_annotation(
    entry: Any, position: int, document: PanopticDocument, known: set[int]
) -> None:
    keys = ("image_id", "file_name", "segments_info")
    if not (
        _has_keys(entry, *keys)
        and _is_id(entry["image_id"])
        and isinstance(entry["file_name"], str)
        and entry["file_name"]
        and isinstance(entry["segments_info"], list)
    ):
        text = f"annotation at position {position}: expected an object with {', '.join(keys)}"
        document.add("E401", text)
        return
    image_id, name = entry["image_id"], entry["file_name"]
    where = f"image {image_id!r}"
    if image_id in document.annotations:
        document.add("E401", f"{where} is annotated twice; remove one", image_id)
        return
    segments: dict[int, dict[str, Any]] = {}
    without: set[str] = set()
    for segment in entry["segments_info"]:
        problem = _segment_problem(segment, segments, known)
        if problem:
            segment_id = segment.get("id") if isinstance(segment, dict) else None
            text = f"{where}, segment {segment_id!r}: {problem}"
            document.add("E406", text, image_id, segment_id)
            continue
        segments[segment["id"]] = segment
        without |= {key for key in ("iscrowd", "area") if key not in segment}
    if without:
        text = f"{where}: segments without {' and '.join(sorted(without))}"
        document.add("W404", text, image_id)
    if not is_inside(name):
        text = f"{where}: file_name {name!r} must be a name relative to the folder of the PNGs"
        document.add("E407", text, image_id)
    document.annotations[image_id] = {**entry, "segments_info": list(segments.values())}


def _segment_problem(segment: Any, earlier: dict[int, Any], known: set[int]) -> str:
    if not _has_keys(segment, "id", "category_id"):
        return "expected an object with id and category_id"
    number, category_id = segment["id"], segment["category_id"]
    if not is_integer(number) or not 0 < number <= MAX_SEGMENT_ID:
        return f"the id is not an integer from 1 to {MAX_SEGMENT_ID} (0 is void)"
    if number in earlier:
        return "the id is listed twice in the image"
    if not is_integer(category_id) or category_id not in known:
        return f"category_id {category_id!r} is not among the categories of the file"
    return ""


def _pair(document: PanopticDocument, ids: set[Any]) -> None:
    """Images (``ids``, also of entries of wrong form) and annotations belong together one to one,
    and so do annotations and PNGs."""
    annotated, listed = _Near(document.annotations), _Near(ids)
    for n in (image["id"] for image in document.images):
        if n not in document.annotations:
            text = (
                f"image {n!r} has no annotation{annotated.hint(n)}. Add one (its segments_info may "
                "be empty), or remove the image"
            )
            document.add("E401", text, n)
    owner: dict[str, Any] = {}
    for n, annotation in document.annotations.items():
        other = owner.setdefault(annotation["file_name"], n)
        if other is not n:
            text = f"image {n!r} shares {annotation['file_name']} with image {other!r}"
            document.add("E401", text, n)
        if n not in ids:
            text = f"image {n!r} is annotated, but is not among the images{listed.hint(n)}"
            document.add("E401", text, n)

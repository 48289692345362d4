"""From points as a tool has them to point labels: images found, classes matched, all checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fdd.points.checks import validate_points
from fdd.points.classes import ClassList
from fdd.points.image_header import ImageHeader, ImageHeaderError
from fdd.points.importers.image_folder import ImageFolder
from fdd.points.importers.labels import ignored_points, match_labels
from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.structures import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
)

__all__ = ["IMAGES_WITHOUT_POINTS", "ImportNotes", "assemble", "raise_problems"]

#: Images without a point: those the export lists, all of the folder too, or none.
IMAGES_WITHOUT_POINTS = ("listed", "keep", "skip")
_MAX_SHOWN = 20


@dataclass
class ImportNotes:
    """What assembling has left out or taken for granted.

    Attributes:
        duplicates: points at exactly the place of another one of their segment, dropped.
        ignored: label -> points of it that the class list wants to be left out.
        skipped_images: images left out because they have no point.
        left_out: further things, in the reader's words -> how often.
        turned: images that their EXIF tag turns or mirrors.
        deep: images of more than 8 bits a channel, which training refuses.
    """

    duplicates: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    skipped_images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    turned: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)


def assemble(
    images: list[RawImage],
    classes: ClassList | None,
    folder: ImageFolder,
    *,
    source: str = "the export",
    classes_source: str = "the class list",
    images_without_points: str = "listed",
    keep_ids: bool = False,
) -> tuple[PointDataset, ImportNotes]:
    """Make point labels of what a reader has read.

    Points of one class and one instance of an image become a segment, a point without instance one
    of its own, and all points of a stuff class in an image one segment. Segments are numbered from
    1 in the order in which their first points come.

    Args:
        images: of the export; read, never changed.
        classes: None asks for them in an error.
        folder: where the image files are looked for.
        source: what messages call the export, a path.
        classes_source: likewise of the classes.
        images_without_points: ``listed`` keeps those that the export names, ``keep`` those of the
            folder, too, ``skip`` none.
        keep_ids: a segment's id is its first point's ``instance``, an integer.

    Raises:
        PointLabelError: ``problems`` lists all findings, the message the first 20.
    """
    if images_without_points not in IMAGES_WITHOUT_POINTS:
        raise ValueError(
            f"images without points: {images_without_points!r}; allowed: "
            f"{', '.join(IMAGES_WITHOUT_POINTS)}"
        )
    matched = match_labels(images, classes, classes_source)
    assert classes is not None  # match_labels has asked
    notes = ImportNotes(ignored=ignored_points((p for i in images for p in i.points), matched))
    problems: list[str] = []
    located = _locate(images, folder, problems)
    result = []
    for raw, name, header in located:
        notes.left_out.update(raw.notes)
        segments, duplicates = _group(raw, header, matched, keep_ids, name, problems)
        notes.duplicates += duplicates
        if segments or images_without_points != "skip":
            result.append(_image(name, header, raw.image_id, segments))
            _note_header(name, header, notes)
        else:
            notes.skipped_images += 1
    if images_without_points == "keep":
        used = {name for _, name, _ in located}
        result += _unlisted(folder, used, notes, problems)
    hint = ""
    if images and not located:
        hint = f"Not one of the images was found: is {folder.root} the folder of the images?"
    raise_problems(source, problems, hint)
    _name_images(result)
    dataset = PointDataset(list(classes.categories), result)
    validate_points(dataset, source)
    return dataset, notes


def raise_problems(source: str | os.PathLike[str], problems: list[str], hint: str = "") -> None:
    """Raise one error of all problems, if there are any; the message shows the first 20.

    Args:
        source: what messages call the export.
        problems: sentences.
        hint: a last line, about all of them.

    Raises:
        PointLabelError: with ``problems``.
    """
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{os.fspath(source)}: {count} found; nothing was imported"]
    lines += [f"  {i}. {text}" for i, text in enumerate(problems[:_MAX_SHOWN], start=1)]
    if len(problems) > _MAX_SHOWN:
        lines.append(f"  ... and {len(problems) - _MAX_SHOWN} more")
    if hint:
        lines.append(hint)
    raise PointLabelError("\n".join(lines), problems)


def _locate(
    images: list[RawImage], folder: ImageFolder, problems: list[str]
) -> list[tuple[RawImage, str, ImageHeader]]:
    """The file and its header of each image for which there is one."""
    found: list[tuple[RawImage, str, ImageHeader]] = []
    owner: dict[str, RawImage] = {}
    for raw in images:
        try:
            name = _find(raw, folder)
            header = folder.header(name)
        except (PointLabelError, ImageHeaderError, OSError) as error:
            problems.append(f"{raw.where}: {error}.")
            continue
        other = owner.setdefault(name, raw)
        if other is not raw:
            problems.append(
                f"{raw.where}: the image {raw.file_name!r} is the file {name!r}, and so is "
                f"{other.file_name!r} ({other.where}). Is one image's file missing, or is the "
                "image labelled twice? Remove one of the two."
            )
        elif (raw.width or header.width, raw.height or header.height) != (
            header.width,
            header.height,
        ):
            problems.append(_explain_size(raw, name, header))
        else:
            found.append((raw, name, header))
    return found


def _find(raw: RawImage, folder: ImageFolder) -> str:
    """The file of an image by its name, or else by one of the other names it may have."""
    try:
        return folder.find(raw.file_name)
    except PointLabelError:
        for other in raw.other_names:
            with suppress(PointLabelError):
                return folder.find(other)
        raise


def _explain_size(raw: RawImage, name: str, header: ImageHeader) -> str:
    text = (
        f"{raw.where}: the export says {raw.width} x {raw.height} pixels (width x height), the "
        f"file {name!r} is displayed with {header.width} x {header.height}."
    )
    if header.is_transposed and (raw.width, raw.height) == (header.height, header.width):
        return text + (
            f" Its EXIF tag (orientation {header.orientation}) lays it on its side, and the tool "
            "has not looked at the tag. Points are taken to follow the displayed image, so these "
            "would land elsewhere. Remove the tag from the file if the labels fit the image as "
            "stored, or label the image in a tool that turns it."
        )
    return text + " Give the images that were labelled, or scale the points to these."


def _group(
    raw: RawImage,
    header: ImageHeader,
    matched: dict[str, Category | None],
    keep_ids: bool,
    name: str,
    problems: list[str],
) -> tuple[list[PointSegment], int]:
    """An image's segments, and how many exact duplicates were dropped."""
    segments: dict[Hashable, PointSegment] = {}
    taken: dict[tuple[int, int], tuple[PointSegment, RawPoint]] = {}
    seen: set[tuple[int, float, float]] = set()
    duplicates = 0
    scale = (header.width, header.height) if raw.normalized else (1, 1)
    for point in raw.points:
        category = matched[point.label.strip()]
        if category is None:
            continue
        x, y = point.x * scale[0], point.y * scale[1]
        if not (0 <= x <= header.width and 0 <= y <= header.height):
            problems.append(_explain_outside(point, x, y, name, header))
            continue
        # Without an instance, the place is the key: the same click twice is one object.
        instance: Any = ("at", x, y) if point.instance is None else ("of", point.instance)
        key = (category.id, instance if category.isthing else None)
        segment = segments.get(key)
        if segment is None:
            number = point.instance if keep_ids else len(segments) + 1
            segment = segments[key] = PointSegment(number, category.id, [])  # type: ignore[arg-type]
        if (segment.id, x, y) in seen:
            duplicates += 1
            continue
        seen.add((segment.id, x, y))
        pixel = min(int(x), header.width - 1), min(int(y), header.height - 1)
        other, first = taken.setdefault(pixel, (segment, point))
        if other is not segment:
            problems.append(
                f"{point.where}: on the same pixel (x={pixel[0]}, y={pixel[1]} of {name!r}) as "
                f"{first.where} of another {'object' if category.isthing else 'region'}. A pixel "
                "belongs to one; move or delete one of the points."
            )
            continue
        segment.points.append((x, y))
    return [segment for segment in segments.values() if segment.points], duplicates


def _explain_outside(point: RawPoint, x: float, y: float, name: str, header: ImageHeader) -> str:
    text = (
        f"{point.where}: the point ({x:g}, {y:g}) of {point.label!r} lies outside {name!r}, which "
        f"is {header.width} x {header.height} pixels (width x height)."
    )
    if header.is_transposed and 0 <= x <= header.height and 0 <= y <= header.width:
        return text + (
            f" The EXIF tag of the file (orientation {header.orientation}) lays it on its side, "
            "and points are taken to follow the displayed image."
        )
    if 0 <= y <= header.width and 0 <= x <= header.height:
        return text + " Are x and y exchanged?"
    return text + " Was a resized copy labelled? Correct or delete the point."


def _image(
    name: str, header: ImageHeader, image_id: str | int | None, segments: list[PointSegment]
) -> PointImage:
    return PointImage(
        "" if image_id is None else image_id, name, header.height, header.width, segments
    )


def _unlisted(
    folder: ImageFolder, used: set[str], notes: ImportNotes, problems: list[str]
) -> list[PointImage]:
    images = []
    for name in folder.names:
        if name not in used:
            try:
                header = folder.header(name)
            except (ImageHeaderError, OSError) as error:
                problems.append(f"{error}.")
                continue
            images.append(_image(name, header, None, []))
            _note_header(name, header, notes)
    return images


def _note_header(name: str, header: ImageHeader, notes: ImportNotes) -> None:
    if header.orientation != 1:
        notes.turned.append(name)
    if header.is_deep:
        notes.deep.append(name)


def _name_images(images: list[PointImage]) -> None:
    """Give images without an id their path without extension, or with it where that is in doubt."""
    stems = Counter(os.path.splitext(image.file_name)[0] for image in images)
    for image in images:
        if image.image_id == "":
            stem = os.path.splitext(image.file_name)[0]
            image.image_id = stem if stems[stem] == 1 else image.file_name

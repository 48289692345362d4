"""From points as a tool has them to point labels: images found, classes matched, all checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from fdd.points import structures
from fdd.points.classes import ClassList
from fdd.points.image_files import ImageHeader, ImageHeaderError
from fdd.points.importers.class_names import ignored_points, match_labels
from fdd.points.importers.grouping import DROPPABLE, group_points
from fdd.points.importers.image_folder import AmbiguousImageError, ImageFolder
from fdd.points.importers.records import RawImage
from fdd.points.structures import (
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
)
from fdd.points.validation import validate_points

__all__ = [
    "DROPPABLE",
    "EXIF",
    "IMAGES_WITHOUT_POINTS",
    "ImportNotes",
    "assemble",
    "raise_problems",
]

#: Images without a point: those the export lists, all of the folder too, or none.
IMAGES_WITHOUT_POINTS = ("listed", "keep", "skip")
#: Which picture the points follow: turned upright by its EXIF tag, or as its pixels are stored.
EXIF = ("displayed", "stored")


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
    drop: Collection[str] = (),
    exif: str = "displayed",
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
        drop: of ``DROPPABLE``: points to leave out and to count, which are an error by default.
        exif: of ``EXIF``: which picture points and sizes of the export follow. Point labels always
            follow the displayed one; ``stored`` points are turned with their picture.

    Raises:
        PointLabelError: ``problems`` lists all findings, the message the first 20.
    """
    if images_without_points not in IMAGES_WITHOUT_POINTS:
        raise ValueError(
            f"images without points: {images_without_points!r}; allowed: "
            f"{', '.join(IMAGES_WITHOUT_POINTS)}"
        )
    for kind in drop:
        if kind not in DROPPABLE:
            raise ValueError(f"drop {kind!r}; allowed: {', '.join(DROPPABLE)}")
    if exif not in EXIF:
        raise ValueError(f"exif {exif!r}; allowed: {', '.join(EXIF)}")
    stored = exif == "stored"
    matched = match_labels(images, classes, classes_source)
    assert classes is not None  # match_labels has asked
    notes = ImportNotes(ignored=ignored_points((p for i in images for p in i.points), matched))
    problems: list[str] = []
    located, lost = _locate(images, folder, stored, problems)
    result = []
    for raw, name, header in located:
        notes.left_out.update(raw.notes)
        grouped = group_points(raw, header, matched, name, keep_ids, drop, stored)
        problems += grouped.problems
        notes.duplicates += grouped.duplicates
        notes.left_out.update(grouped.dropped)
        if grouped.segments or images_without_points != "skip":
            result.append(_image(name, header, raw.image_id, grouped.segments))
            _note_header(name, header, notes)
        else:
            notes.skipped_images += 1
    if images_without_points == "keep":
        used = {name for _, name, _ in located}
        result += _unlisted(folder, used, notes, problems)
    hint = ""
    if images and lost == len(images):
        hint = f"Not one of the images was found: is {folder.root} the folder of the images?"
    raise_problems(source, problems, hint)
    _name_images(result)
    dataset = PointDataset(list(classes.categories), result)
    validate_points(dataset, source)
    return dataset, notes


def raise_problems(source: str | os.PathLike[str], problems: list[str], hint: str = "") -> None:
    """Refuse an import, see :func:`fdd.points.structures.raise_problems`."""
    structures.raise_problems(os.fspath(source), problems, "; nothing was imported", hint)


def _locate(
    images: list[RawImage], folder: ImageFolder, stored: bool, problems: list[str]
) -> tuple[list[tuple[RawImage, str, ImageHeader]], int]:
    """The file and its header of each image for which there is one, and how many were not found."""
    lost = 0
    found: list[tuple[RawImage, str, ImageHeader]] = []
    owner: dict[str, RawImage] = {}
    for raw in images:
        try:
            name = folder.find(raw.file_name, *raw.other_names)
        except AmbiguousImageError as error:
            problems.append(f"{raw.where}: {error}.")
            continue
        except PointLabelError as error:
            problems.append(f"{raw.where}: {error}.")
            lost += 1
            continue
        try:
            header = folder.header(name)
        except (ImageHeaderError, OSError) as error:
            problems.append(f"{raw.where}: {error}.")
            continue
        size = header.stored_size if stored else (header.width, header.height)
        other = owner.setdefault(name, raw)
        if other is not raw:
            problems.append(
                f"{raw.where}: the image {raw.file_name!r} is the file {name!r}, and so is "
                f"{other.file_name!r} ({other.where}). Is one image's file missing, or is the "
                "image labelled twice? Remove one of the two."
            )
        elif (raw.width or size[0], raw.height or size[1]) != size:
            problems.append(_explain_size(raw, name, header, stored))
        else:
            found.append((raw, name, header))
    return found, lost


def _explain_size(raw: RawImage, name: str, header: ImageHeader, stored: bool) -> str:
    sizes = {"displayed": (header.width, header.height), "stored": header.stored_size}
    taken, other = ("stored", "displayed") if stored else ("displayed", "stored")
    (width, height), said = sizes[taken], (raw.width, raw.height)
    text = (
        f"{raw.where}: the export says {raw.width} x {raw.height} pixels (width x height), the "
        f"file {name!r} is {taken} with {width} x {height}."
    )
    if header.is_transposed and said == sizes[other]:
        return text + (
            f" Its EXIF tag (orientation {header.orientation}) lays it on its side, and points are "
            f"taken to follow the {taken} image, so these would land elsewhere. The export's size "
            f"is that of the {other} one: give --exif {other}, if that holds for all its images."
        )
    return text + " Give the images that were labelled, or scale the points to these."


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

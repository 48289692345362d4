"""From raw points to point labels: images found, classes matched, segments grouped, all checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Any

from fdd.points.classes import ClassList, label_key
from fdd.points.image_files import ImageHeader, ImageHeaderError
from fdd.points.importers.class_names import match_labels
from fdd.points.importers.image_folder import AmbiguousImageError, ImageFolder
from fdd.points.importers.registry import NOT_IMPORTED, RawImage, RawPoint
from fdd.points.structures import (
    Category,
    PointDataset,
    PointImage,
    PointLabelError,
    PointSegment,
    raise_problems,
)
from fdd.points.validation import validate_points

__all__ = ["DROPPABLE", "EXIF", "IMAGES_WITHOUT_POINTS", "ImportNotes", "assemble"]

#: Points that can be left out on demand, instead of being an error.
DROPPABLE = ("outside", "shared-pixel")
#: Which picture the points follow: turned upright by its EXIF tag, or as its pixels are stored.
EXIF = ("displayed", "stored")
#: Images without a point: those the export lists, all of the folder too, or none.
IMAGES_WITHOUT_POINTS = ("listed", "keep", "skip")


@dataclass
class ImportNotes:
    """What assembling has left out or assumed.

    Attributes:
        duplicates: points at exactly the place of another one of their segment, dropped.
        ignored: label -> its points, which the class list ignores.
        skipped_images: images left out because they have no point.
        left_out: further things, in words -> how often.
        turned: images that their EXIF tag turns or mirrors.
        deep: images of more than 8 bits a channel, which training refuses.
    """

    duplicates: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    skipped_images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    turned: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Located:
    """An image of the export and its file.

    Attributes:
        raw: the image of the export.
        name: of the file, below the image folder.
        header: of the file.
        stored: points and sizes of the export are those of the stored picture, not turned by EXIF.
    """

    raw: RawImage
    name: str
    header: ImageHeader
    stored: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture that the points follow."""
        return self.header.stored_size if self.stored else (self.header.width, self.header.height)

    @property
    def kind(self) -> str:
        """Which picture that is, of ``EXIF``."""
        return "stored" if self.stored else "displayed"

    @property
    def other_kind(self) -> str:
        return "displayed" if self.stored else "stored"


@dataclass(frozen=True, slots=True)
class _Placed:
    """A point that lies in the image; ``key`` tells the object or region that it belongs to."""

    key: tuple[int, Any]
    category: Category
    xy: tuple[float, float]
    pixel: tuple[int, int]
    raw: RawPoint


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
        drop: of ``DROPPABLE``: points to leave out and to count, which are an error by default. Of
            points on a shared pixel all go: it is not known to which object the pixel belongs.
        exif: of ``EXIF``: which picture points and sizes of the export follow. Point labels always
            follow the displayed one; ``stored`` points are turned with their picture.

    Raises:
        PointLabelError: ``problems`` lists all findings, the message the first 20.
    """
    _check_choice("images without points", images_without_points, IMAGES_WITHOUT_POINTS)
    for kind in drop:
        _check_choice("drop", kind, DROPPABLE)
    _check_choice("exif", exif, EXIF)
    matched = match_labels(images, classes, classes_source)
    assert classes is not None  # match_labels has asked
    notes = ImportNotes()
    problems: list[str] = []
    located, missing = _locate(images, folder, exif == "stored", problems)
    for raw in images:
        keys = (label_key(point.label) for point in raw.points)
        notes.ignored.update(key for key in keys if matched[key] is None)
    result = []
    for image in located:
        notes.left_out.update(image.raw.notes)
        segments = _group(image, matched, keep_ids, drop, notes, problems)
        if segments or images_without_points != "skip":
            result.append(_image(image.name, image.header, image.raw.image_id, segments, notes))
        else:
            notes.skipped_images += 1
    if images_without_points == "keep":
        for name in sorted(set(folder.names) - {image.name for image in located}):
            try:
                result.append(_image(name, folder.header(name), None, [], notes))
            except (ImageHeaderError, OSError) as error:
                problems.append(f"{error}.")
    hint = f"Not one of the images was found: is {folder.root} the folder of the images?"
    all_missing = bool(images) and missing == len(images)
    raise_problems(source, problems, NOT_IMPORTED, hint * all_missing)
    _name_images(result)
    dataset = PointDataset(list(classes.categories), result)
    validate_points(dataset, source)
    return dataset, notes


def _check_choice(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"{what} {given!r}; allowed: {', '.join(allowed)}")


def _locate(
    images: list[RawImage], folder: ImageFolder, stored: bool, problems: list[str]
) -> tuple[list[_Located], int]:
    """The images whose file is there and fits, and how many files were not found."""
    missing = 0
    found: list[_Located] = []
    owner: dict[str, RawImage] = {}
    for raw in images:
        try:
            name = folder.find(raw.file_name, *raw.other_names)
            image = _Located(raw, name, folder.header(name), stored)
        except (PointLabelError, ImageHeaderError, OSError) as error:
            problems.append(f"{raw.where}: {error}.")
            missing += isinstance(error, PointLabelError) and not isinstance(
                error, AmbiguousImageError
            )
            continue
        other = owner.setdefault(name, raw)
        if other is not raw:
            problems.append(
                f"{raw.where}: the image {raw.file_name!r} is the file {name!r}, and so is "
                f"{other.file_name!r} ({other.where}). Is one image's file missing, or is the "
                "image labelled twice? Remove one of the two."
            )
        elif (raw.width or image.size[0], raw.height or image.size[1]) != image.size:
            problems.append(_explain_size(image))
        else:
            found.append(image)
    return found, missing


def _explain_size(image: _Located) -> str:
    raw, header = image.raw, image.header
    text = (
        f"{raw.where}: the export says {raw.width} x {raw.height} pixels (width x height), the "
        f"file {image.name!r} is {image.kind} with {image.size[0]} x {image.size[1]}."
    )
    if header.is_transposed and (raw.height, raw.width) == image.size:
        return text + (
            f" Its EXIF tag (orientation {header.orientation}) lays it on its side, and points are "
            f"taken to follow the {image.kind} image, so these would land elsewhere. The export's "
            f"size is that of the {image.other_kind} one: give --exif {image.other_kind}, if that "
            "holds for all its images."
        )
    return text + " Give the images that were labelled, or scale the points to these."


def _image(
    name: str,
    header: ImageHeader,
    image_id: str | int | None,
    segments: list[PointSegment],
    notes: ImportNotes,
) -> PointImage:
    if header.orientation != 1:
        notes.turned.append(name)
    if header.is_deep:
        notes.deep.append(name)
    image_id = "" if image_id is None else image_id
    return PointImage(image_id, name, header.height, header.width, segments)


def _name_images(images: list[PointImage]) -> None:
    """Give images without an id their path, without extension if that is unambiguous."""
    stems = Counter(os.path.splitext(image.file_name)[0] for image in images)
    for image in images:
        if image.image_id == "":
            stem = os.path.splitext(image.file_name)[0]
            image.image_id = stem if stems[stem] == 1 else image.file_name


def _group(
    image: _Located,
    matched: dict[str, Category | None],
    keep_ids: bool,
    drop: Collection[str],
    notes: ImportNotes,
    problems: list[str],
) -> list[PointSegment]:
    """The segments of an image's points, whatever their order, numbered from 1 or as exported."""
    placed = _place(image, matched, drop, notes, problems)
    owners: dict[tuple[int, int], dict[Hashable, _Placed]] = {}
    for point in placed:
        owners.setdefault(point.pixel, {}).setdefault(point.key, point)
    shared = {pixel for pixel, keys in owners.items() if len(keys) > 1}
    if "shared-pixel" not in drop:
        fractions = len(placed) > 1 and all(max(point.xy) <= 1 for point in placed)
        for first, *others in map(dict.values, owners.values()):
            problems += [_explain_shared(o, first, image.name, fractions) for o in others]
    segments: dict[Hashable, PointSegment] = {}
    for point in placed:
        if point.pixel in shared:
            notes.left_out["points on one pixel with a point of another object"] += 1
            continue
        segment = segments.get(point.key)
        if segment is None:
            number: Any = point.raw.instance if keep_ids else len(segments) + 1
            segment = segments[point.key] = PointSegment(number, point.category.id, [])
        segment.points.append(point.xy)
    if lost := len({point.key for point in placed}) - len(segments):
        notes.left_out["objects or regions of which no point is left"] += lost
    return list(segments.values())


def _place(
    image: _Located,
    matched: dict[str, Category | None],
    drop: Collection[str],
    notes: ImportNotes,
    problems: list[str],
) -> list[_Placed]:
    """The points inside the image, each place of an object once."""
    placed = []
    seen: set[tuple[Hashable, float, float]] = set()
    header, size = image.header, image.size
    scale = size if image.raw.normalized else (1, 1)
    for point in image.raw.points:
        category = matched[label_key(point.label)]
        if category is None:
            continue
        x, y = point.x * scale[0], point.y * scale[1]
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            if "outside" in drop:
                notes.left_out["points outside their image"] += 1
            else:
                problems.append(_explain_outside(point, x, y, image))
            continue
        if image.stored:
            x, y = header.displayed_point(x, y)
        # Without an instance, the place is the key: the same click twice is one object.
        instance: Any = ("at", x, y) if point.instance is None else ("of", point.instance)
        key = (category.id, instance if category.isthing else None)
        if (key, x, y) in seen:
            notes.duplicates += 1
            continue
        seen.add((key, x, y))
        pixel = min(int(x), header.width - 1), min(int(y), header.height - 1)
        placed.append(_Placed(key, category, (x, y), pixel, point))
    return placed


def _explain_shared(point: _Placed, first: _Placed, name: str, fractions: bool) -> str:
    kind = "object" if point.category.isthing else "region"
    text = (
        f"{point.raw.where}: on the same pixel (x={point.pixel[0]}, y={point.pixel[1]} of "
        f"{name!r}) as {first.raw.where} of another {kind}. "
    )
    if fractions:
        return text + (
            "All points of the image lie within 0 and 1: are they fractions of its width and "
            "height? Then give --units normalized, if this holds for all images of the export."
        )
    return text + (
        "A pixel belongs to one segment; move or delete one of the points, or leave out all such "
        "points with --drop shared-pixel."
    )


def _explain_outside(point: RawPoint, x: float, y: float, image: _Located) -> str:
    (width, height), header = image.size, image.header
    text = (
        f"{point.where}: the point ({x:g}, {y:g}) of {point.label!r} lies outside {image.name!r}, "
        f"which is {width} x {height} pixels (width x height{', as stored' * image.stored})."
    )
    exchanged = 0 <= y <= width and 0 <= x <= height
    if header.is_transposed and exchanged:
        return text + (
            f" The EXIF tag of the file (orientation {header.orientation}) lays it on its side, "
            f"and points are taken to follow the {image.kind} image. Do they follow the other one? "
            f"Give --exif {image.other_kind}."
        )
    if exchanged:
        return text + " Are x and y exchanged?"
    return text + (
        " Was a resized copy labelled? Correct or delete the point, or leave out all such points "
        "with --drop outside."
    )

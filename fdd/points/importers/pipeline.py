"""Importing from end to end: recognize, read, find the unit of the coordinates, assemble."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdd.points.classes import ClassList, read_classes
from fdd.points.importers.assemble import ImportNotes, assemble
from fdd.points.importers.image_folder import ImageFolder
from fdd.points.importers.registry import (
    Importer,
    RawImage,
    get_importer,
    read_export,
    recognize,
)
from fdd.points.statistics import ClassCount, count_points
from fdd.points.structures import PointDataset, PointLabelError
from fdd.points.wording import counted

__all__ = ["UNITS", "Imported", "import_points"]

#: Units of coordinates, and one of each in pixels, or in fractions of the image's sides.
UNITS = {"pixel": 1.0, "percent": 0.01, "normalized": 1.0}
#: Options of readers that make sense for pixels only, and so say the unit.
_OF_PIXELS = ("pixel_centers", "pixel_size")


@dataclass(frozen=True)
class Imported:
    """Point labels, and what was left out of them.

    Attributes:
        dataset: checked, ready for :func:`fdd.points.write_points`.
        format: name of the format, as in :func:`fdd.points.importers.importer_names`.
        title: its title.
        notes: what was left out or assumed.
    """

    dataset: PointDataset
    format: str
    title: str
    notes: ImportNotes

    @property
    def classes(self) -> tuple[ClassCount, ...]:
        """Every class in its order, also those never labelled."""
        return count_points(self.dataset).classes


def import_points(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str],
    classes: ClassList | str | os.PathLike[str] | None = None,
    *,
    format: str = "auto",
    images_without_points: str = "listed",
    drop: Collection[str] = (),
    exif: str = "displayed",
    units: str | None = None,
    **options: Any,
) -> Imported:
    """Make point labels of a labelling tool's export; nothing is written.

    Args:
        source: the export, a file or a folder of files.
        images: the folder of the images. They are found by their path below it, or else by name.
        classes: the classes or their YAML file. Formats that know which classes are things bring
            their own; without any, the error holds a draft.
        format: a name of :func:`fdd.points.importers.importer_names`, or ``auto``: by the content
            of the export.
        images_without_points: ``listed`` keeps images without points that the export names,
            ``keep`` all others of the folder as well, ``skip`` none.
        drop: points to leave out and to count, which are an error by default: ``outside``, those
            outside their image; ``shared-pixel``, those on one pixel with a point of another
            object.
        exif: ``displayed``, or ``stored`` for the export of a tool that does not turn images by
            their EXIF tag.
        units: of the coordinates: ``pixel``, ``percent`` or ``normalized`` (0 to 1) of the image's
            width and height; None: pixels, unless all lie within 0 and 1, which is an error.
            Formats that define their unit take none.
        **options: of the format's reader, such as ``skip_shapes=True``; None is the default.

    Raises:
        OSError: a file or folder is missing.
        ValueError: of kind PointLabelError or ClassFileError where the export or the class file is
            invalid (names file and line or element), no point is imported (says what was found), or
            the unit of coordinates within 0 and 1 is not given.
    """
    path = Path(source)
    importer = None if format == "auto" else get_importer(format)
    classes_source = "the class list"
    if not (classes is None or isinstance(classes, ClassList)):
        classes_source = os.fspath(classes)
        classes = read_classes(classes)
    folder = ImageFolder(images)
    importer = importer or recognize(path, options.get("panoptic_json"))
    options = {name: value for name, value in options.items() if value is not None}
    raw = read_export(path, importer, options)
    _check_units(units, importer, options)
    if not any(image.points for image in raw):
        raise PointLabelError(_explain_no_points(path, importer, raw))
    if not importer.defines_unit:
        _apply_units(path, raw, units, importer, options)
    if classes is None and importer.classes is not None:
        classes = importer.classes(path, **options)
    dataset, notes = assemble(
        raw,
        classes,
        folder,
        source=str(path),
        classes_source=classes_source,
        images_without_points=images_without_points,
        drop=drop,
        exif=exif,
        keep_ids=importer.keep_ids,
    )
    if not any(image.segments for image in dataset.images):
        raise PointLabelError(_explain_nothing_left(path, raw, notes))
    counts: dict[str, Any] = {
        "duplicates": notes.duplicates,
        "ignored": dict(notes.ignored),
        "skipped_images": notes.skipped_images,
        "left_out": dict(notes.left_out),
    }
    dataset.info = {"source": path.name, "format": importer.name, "imported_as": importer.title}
    dataset.info |= {key: value for key, value in counts.items() if value}
    if exif != "displayed":
        dataset.info["exif"] = exif
    return Imported(dataset, importer.name, importer.title, notes)


def _check_units(units: str | None, importer: Importer, options: Mapping[str, Any]) -> None:
    """Refuse an unknown unit, and one that the format or other options contradict."""
    if units is None:
        return
    if units not in UNITS:
        raise ValueError(f"units {units!r}; allowed: {', '.join(UNITS)}")
    if importer.defines_unit:
        raise ValueError(
            f"--units (units=...) is not an option of {importer.title}, a format that defines its "
            "unit"
        )
    if units != "pixel" and (options.get("pixel_centers") or "pixel_size" in options):
        raise ValueError(f"units {units!r} contradict pixel centres and a pixel size")


def _apply_units(
    source: Path,
    images: list[RawImage],
    units: str | None,
    importer: Importer,
    options: Mapping[str, Any],
) -> None:
    """Turn coordinates in ``percent`` and ``normalized`` into fractions, in place.

    Raises:
        PointLabelError: no unit is given, and all coordinates lie within 0 and 1: most likely
            fractions of the image, or else all in one pixel.
    """
    points = [(point, image.shift) for image in images for point in image.points]
    if units in ("percent", "normalized"):
        for point, shift in points:
            point.x, point.y = ((v - shift) * UNITS[units] for v in (point.x, point.y))
        for image in images:
            image.normalized, image.shift = True, 0.0
    elif units is None and not any(name in options for name in _OF_PIXELS):
        values = (value - shift for point, shift in points for value in (point.x, point.y))
        if all(0 <= value <= 1 for value in values):
            size = " Another unit, such as mm? --pixel-size says how many of it a pixel has."
            raise PointLabelError(
                f"{source}: all coordinates ({len(points)} points) lie within 0 and 1. Fractions "
                "of the image's width and height? Then give --units normalized. Pixels, all of "
                "them in the upper left one? Then --units pixel. Percent? --units percent."
                + size
                * ("pixel_size" in importer.options)
            )


def _explain_no_points(source: Path, importer: Importer, images: list[RawImage]) -> str:
    """What was found in an export without a point, and what may be wrong with it."""
    found: Counter[str] = Counter()
    for image in images:
        found.update(image.notes)
    return (
        f"{source}: not one point; nothing was imported. Read as {importer.summary} (--format "
        f"{importer.name}), it has {counted(len(images), 'image')}{_left_out(found)}. "
        f"{importer.hint} Another format? --format names it."
    )


def _explain_nothing_left(source: Path, images: Iterable[RawImage], notes: ImportNotes) -> str:
    """What happened to the points of an export, of which none is left."""
    points = sum(len(image.points) for image in images)
    found = Counter(notes.left_out)
    for label, count in notes.ignored.items():
        found[f"points of the label {label!r}, which the class file ignores"] += count
    return (
        f"{source}: none of {counted(points, 'point')} is left; nothing was imported"
        f"{_left_out(found)}. Correct 'ignore' of the class file, or import without --drop to see "
        "what is wrong with the points."
    )


def _left_out(counts: Counter[str]) -> str:
    # A tool's name of a shape may hold a line break.
    parts = [f"{count:,} {what}".replace("\n", "\\n") for what, count in counts.items() if count]
    return f" (left out: {'; '.join(parts)})" if parts else ""

"""Importing from end to end: recognise, read, assemble, and count what came out."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdd.points.classes import ClassList, read_classes
from fdd.points.importers.assemble import ImportNotes, assemble
from fdd.points.importers.image_folder import ImageFolder
from fdd.points.importers.nothing import explain_nothing_left, refuse_nothing
from fdd.points.importers.registry import FORMATS, read_export, recognize
from fdd.points.importers.units import apply_units, check_units
from fdd.points.statistics import ClassCount, count_points
from fdd.points.structures import PointDataset, PointLabelError

__all__ = ["Imported", "import_points"]


@dataclass(frozen=True)
class Imported:
    """Point labels and what is to be said about them.

    Attributes:
        dataset: checked, ready for :func:`fdd.points.write_points`.
        format: name of the format, as in ``FORMATS``.
        title: its title.
        notes: what was left out or taken for granted.
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
        classes: the classes or their YAML file. Formats that say which classes are things have
            their own; without any, the error holds a draft.
        format: one of ``FORMATS``, or ``auto``: by what is in the export.
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
            nobody says whether coordinates within 0 and 1 are pixels or shares.
    """
    path = Path(source)
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"format {format!r}; allowed: auto, {', '.join(FORMATS)}")
    class_list, classes_source = _read_classes(classes)
    folder = ImageFolder(images)
    chosen = recognize(path, options.get("panoptic_json")) if format == "auto" else FORMATS[format]
    raw, module, given = read_export(path, chosen, options)
    defined = getattr(module, "DEFINES_UNIT", False)
    check_units(units, given, module.TITLE, defined)
    refuse_nothing(path, chosen, raw)
    if not defined:
        apply_units(path, raw, units, given, has_pixel_size="pixel_size" in chosen.options())
    if class_list is None and hasattr(module, "classes"):
        class_list = module.classes(path, **given)
    dataset, notes = assemble(
        raw,
        class_list,
        folder,
        source=str(path),
        classes_source=classes_source,
        images_without_points=images_without_points,
        drop=drop,
        exif=exif,
        keep_ids=getattr(module, "KEEP_IDS", False),
    )
    dataset.info = {"source": path.name, "format": chosen.name, "imported_as": module.TITLE}
    dataset.info |= _left_out(notes)
    if exif != "displayed":
        dataset.info["exif"] = exif
    if not any(image.segments for image in dataset.images):
        raise PointLabelError(explain_nothing_left(path, raw, notes))
    return Imported(dataset, chosen.name, module.TITLE, notes)


def _read_classes(
    classes: ClassList | str | os.PathLike[str] | None,
) -> tuple[ClassList | None, str]:
    if classes is None or isinstance(classes, ClassList):
        return classes, "the class list"
    return read_classes(classes), os.fspath(classes)


def _left_out(notes: ImportNotes) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "duplicates": notes.duplicates,
        "ignored": dict(notes.ignored),
        "skipped_images": notes.skipped_images,
        "left_out": dict(notes.left_out),
    }
    return {key: value for key, value in counts.items() if value}

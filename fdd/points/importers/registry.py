"""What a reader of exports returns, the registry of formats, and recognizing a file's format."""

from __future__ import annotations

import inspect
import zipfile
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fvcore.common.registry import Registry

from fdd.points.classes import ClassList
from fdd.points.image_files import walk_files
from fdd.points.parsing import load_json, read_head
from fdd.points.structures import PointLabelError

__all__ = [
    "IMPORTER_REGISTRY",
    "NOT_IMPORTED",
    "ONLY_POINTS",
    "Importer",
    "RawImage",
    "RawPoint",
    "get_importer",
    "importer_names",
    "read_export",
    "recognize",
    "register_importer",
]

#: Name of a format -> :class:`Importer`.
IMPORTER_REGISTRY = Registry("IMPORTER")

#: What follows from the problems of an export, for messages.
NOT_IMPORTED = "; nothing was imported"
#: The hint of formats that have other shapes, too.
ONLY_POINTS = (
    "Only points count: label with the point tool. --skip-shapes leaves other shapes out, and "
    "makes no points of them."
)

#: Tools whose JSON is not read, and sets of keys that tell it.
_OTHER_TOOLS: tuple[tuple[str, tuple[set[str], ...]], ...] = (
    ("Darwin JSON (V7)", ({"item", "annotations"}, {"dataset", "image", "annotations"})),
    ("Supervisely's JSON", ({"objects", "size"},)),
    ("Labelbox's JSON", ({"data_row", "projects"}, {"Labeled Data", "Label"})),
    ("VGG Image Annotator's JSON", ({"_via_img_metadata"}, {"regions", "filename"})),
)
_TABLE = "Write its points into a table (CSV) with columns image, category, instance, x, y."
_KEYS_SHOWN = 6

_BLANK = b" \t\r\n\xef\xbb\xbf"
_HEAD = 4096
_FILES_OF_A_KIND = 12  # that are looked at in a folder
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF8", b"BM", b"RIFF")


@dataclass(slots=True)
class RawPoint:
    """One point of an export.

    Attributes:
        label: the tool's class name, as written.
        x, y: continuous pixels of the image as displayed (turned upright by its EXIF tag); the
            centre of the first pixel is (0.5, 0.5). The reader has converted the tool's own
            convention.
        instance: the tool's own notion of an object; points of one image with equal ``instance``
            and labels of one class are one instance. None: the tool does not say, the point is an
            instance of its own. Not used for stuff classes.
        where: file and line or element, for messages.
    """

    label: str
    x: float
    y: float
    instance: Hashable | None
    where: str


@dataclass(slots=True)
class RawImage:
    """One image of an export and its points.

    Attributes:
        file_name: path or name as the tool has it, maybe of another machine (``C:\\data\\a.jpg``).
        points: in the order of the export; may be empty.
        width, height: in pixels, where the tool gives them; checked against the file.
        where: file and line or element, for messages.
        image_id: the export's own id, where it is to be kept; by default the file's path below the
            image folder, without extension.
        other_names: further names that the file may have on disk, tried after ``file_name``.
        notes: what the reader left out or assumed, and how often, in words that end the sentence
            "left out or assumed: 3 ..."; for the summary.
        shift: what the reader has added to x and y of the points, from the index of a pixel to
            its centre; 0 where it took them as they are.
        normalized: the points are fractions of the displayed image's width and height, in [0, 1],
            not pixels: for exports that do not say how large an image is.
    """

    file_name: str
    points: list[RawPoint] = field(default_factory=list)
    width: int | None = None
    height: int | None = None
    where: str = ""
    image_id: str | int | None = None
    other_names: tuple[str, ...] = ()
    notes: Counter[str] = field(default_factory=Counter)
    shift: float = 0.0
    normalized: bool = False


#: ``(source, **options)`` -> the images of a file or folder.
Reader = Callable[..., list[RawImage]]


@dataclass(frozen=True)
class Importer:
    """A format that can be imported.

    Attributes:
        name: as ``--format`` takes it.
        title: its usual name.
        summary: one line about it.
        read: ``(source, **options)`` -> the images of a file or folder. Its keyword arguments are
            the options of the format.
        recognizes: ``(path, document)`` -> whether a file looks like this format; ``document`` is
            its parsed JSON, None where it is not JSON.
        hint: what may be wrong with an export in which the reader finds no point.
        classes: ``(source, **options)`` -> the classes, where the format knows which are things.
        keep_ids: a segment's id is its points' ``instance``, an integer.
        defines_unit: the format defines the unit of its coordinates, so nobody has to be asked.
    """

    name: str
    title: str
    summary: str
    read: Reader
    recognizes: Callable[[Path, Any], bool]
    hint: str = ""
    classes: Callable[..., ClassList] | None = None
    keep_ids: bool = False
    defines_unit: bool = False

    @property
    def options(self) -> list[str]:
        """Names of the reader's options, sorted."""
        return sorted(set(inspect.signature(self.read).parameters) - {"source"})


def register_importer(
    name: str,
    *,
    title: str,
    summary: str,
    recognizes: Callable[[Path, Any], bool],
    hint: str = "",
    classes: Callable[..., ClassList] | None = None,
    keep_ids: bool = False,
    defines_unit: bool = False,
) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of a format.

    Args:
        name, title, summary, recognizes, hint, classes, keep_ids, defines_unit: see
            :class:`Importer`.

    Raises:
        AssertionError: there is a format of this name already.
    """

    def register(read: Reader) -> Reader:
        importer = Importer(
            name, title, summary, read, recognizes, hint, classes, keep_ids, defines_unit
        )
        IMPORTER_REGISTRY._do_register(name, importer)
        return read

    return register


def importer_names() -> list[str]:
    """Names of all formats, sorted."""
    return sorted(name for name, _ in IMPORTER_REGISTRY)


def get_importer(name: str) -> Importer:
    """The format called ``name``.

    Raises:
        ValueError: there is none; lists the known names.
    """
    if name not in IMPORTER_REGISTRY:
        raise ValueError(f"format {name!r}; allowed: auto, {', '.join(importer_names())}")
    return IMPORTER_REGISTRY.get(name)


def read_export(source: Path, importer: Importer, options: Mapping[str, Any]) -> list[RawImage]:
    """Read an export in a given format.

    Args:
        source: a file or a folder.
        importer: of its format.
        options: of the reader.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the format has no such option; or, of kind PointLabelError, the export is
            invalid.
    """
    known = importer.options
    for name in options:
        if name not in known:
            raise ValueError(
                f"{_flag(name)} ({name}=...) is not an option of {importer.title}; {importer.name} "
                f"has {', '.join(map(_flag, known)) or 'none'}"
            )
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    return importer.read(source, **options)


def _flag(name: str) -> str:
    """A reader's option on the command line."""
    return "--column" if name == "columns" else f"--{name.replace('_', '-')}"


def recognize(source: Path, panoptic_json: Path | None = None) -> Importer:
    """Find out the format of an export by its content.

    Args:
        source: a file, or a folder with exports in or below it.
        panoptic_json: only sparse PNGs come with one.

    Raises:
        FileNotFoundError: there is no such file or folder.
        PointLabelError: not a known format, or files of several; lists the formats.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if panoptic_json is not None:
        return get_importer("sparse-png")
    small = source.is_file() and source.stat().st_size <= _HEAD
    if small and not source.read_bytes().strip(_BLANK):
        raise PointLabelError(f"{source}: an empty file. Export the labels again.")
    found: dict[str, Path] = {}
    hints: list[str] = []
    for path in _sample_files(source) if source.is_dir() else [source]:
        document, is_picture = _peek(path)
        for name, importer in IMPORTER_REGISTRY:
            if not is_picture and importer.recognizes(path, document):
                found.setdefault(name, path)
        hints.append(_hint(path, document, is_picture))
    if len(found) == 1:
        return get_importer(next(iter(found)))
    if found:
        seen = "; ".join(f"{path} may be {name}" for name, path in found.items())
        problem = f"more than one format: {seen}."
    else:
        problem = "not a format that can be imported." + next(filter(None, hints), "")
    lines = [f"  {name:<15} {get_importer(name).summary}" for name in importer_names()]
    raise PointLabelError("\n".join([f"{source}: {problem} Choose with --format:", *lines]))


def _sample_files(folder: Path) -> list[Path]:
    """Some files of each extension: a stray first one does not speak for the whole folder."""
    files = [path for path, _ in walk_files(folder)]
    if not files:
        raise PointLabelError(f"{folder}: a folder without files; expected an export")
    by_suffix: dict[str, list[Path]] = {}
    for path in files:
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    return [
        path
        for group in by_suffix.values()
        for path in group[:: max(1, len(group) // _FILES_OF_A_KIND)][:_FILES_OF_A_KIND]
    ]


def _peek(path: Path) -> tuple[Any, bool]:
    """The document, if the file is JSON, and whether it is a picture."""
    with open(path, "rb") as file:
        if file.read(8).startswith(_PICTURES):
            return None, True
    is_json = read_head(path, _HEAD).lstrip()[:1] in ("{", "[") or path.suffix.lower() == ".json"
    return (load_json(path) if is_json else None), False


def _hint(path: Path, document: Any, is_picture: bool) -> str:
    """What a file of an unknown format may be, with a leading blank; "" if there is no guess."""
    if is_picture:
        return " Sparse PNGs need the panoptic JSON of their classes: --panoptic-json FILE."
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        return " A spreadsheet: save it as CSV."
    if zipfile.is_zipfile(path):
        return " A zip archive: unpack it, and give its content."
    entry = document[0] if isinstance(document, list) and document else document
    if not isinstance(entry, dict) or not entry:
        return ""
    if entry is document and entry.get("format") == "fdd-points":
        return " It is a file of point labels already, ready for training."
    if entry is document and isinstance(entry.get("annotations"), list) and "images" in entry:
        return (
            " It looks like COCO masks or boxes without points; `fdd points sample` draws points "
            "from masks."
        )
    for tool, marks in _OTHER_TOOLS:
        if any(mark <= set(entry) for mark in marks):
            return f" It looks like {tool}, which is not among them. {_TABLE}"
    shown = ", ".join(map(repr, list(entry)[:_KEYS_SHOWN]))
    more = ", ..." if len(entry) > _KEYS_SHOWN else ""
    return f" It is JSON with the keys {shown}{more}. {_TABLE}"

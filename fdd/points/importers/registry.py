"""Which formats there are, which of them a file or folder is, and reading it."""

from __future__ import annotations

import importlib
import inspect
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fdd.points.image_files import walk_files
from fdd.points.importers.records import RawImage
from fdd.points.parsing import load_json
from fdd.points.structures import PointLabelError

__all__ = ["FORMATS", "Format", "read_export", "recognize"]


@dataclass(frozen=True)
class Format:
    """A format that can be imported.

    Attributes:
        name: what ``--format`` calls it.
        module: below ``fdd.points.importers``; has ``TITLE``, ``read(source, **options)`` and
            ``recognizes(path, document)``, maybe ``classes(source, **options)`` and ``KEEP_IDS``.
        summary: one line about it.
    """

    name: str
    module: str
    summary: str

    def load(self) -> ModuleType:
        return importlib.import_module(f"fdd.points.importers.{self.module}")

    def options(self) -> set[str]:
        """Names of the reader's options."""
        return set(inspect.signature(self.load().read).parameters) - {"source"}


_ALL = (
    Format("labelme", "labelme", "LabelMe JSON, a file an image"),
    Format("cvat", "cvat", "CVAT for images 1.1, XML"),
    Format("datumaro", "datumaro", "Datumaro JSON (CVAT writes it, too)"),
    Format("label-studio", "label_studio", "Label Studio JSON with keypoint labels"),
    Format("coco-keypoints", "coco_keypoints", "COCO keypoints JSON"),
    Format("pointsup", "pointsup", "PointSup's COCO JSON (point_coords, point_labels)"),
    Format("sparse-png", "sparse_png", "sparse PNGs of PSPS and Point2Mask, with --panoptic-json"),
    Format("csv", "csv_table", "CSV or TSV: image, category, instance, x, y"),
)
#: By name, in the order in which they are listed.
FORMATS = {format.name: format for format in _ALL}

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
_LOOKED_AT = 12  # files of a folder
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF8", b"BM", b"RIFF")


def recognize(source: Path, panoptic_json: Path | None = None) -> Format:
    """Find out what an export is by what is in it.

    Args:
        source: a file, or a folder with exports in or below it.
        panoptic_json: only sparse PNGs come with one.

    Raises:
        FileNotFoundError: there is no such file or folder.
        PointLabelError: it is no format that we know, or files of several; names the formats.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if panoptic_json is not None:
        return FORMATS["sparse-png"]
    small = source.is_file() and source.stat().st_size <= _HEAD
    if small and not source.read_bytes().strip(_BLANK):
        raise PointLabelError(f"{source}: an empty file. Export the labels again.")
    files = _candidates(source) if source.is_dir() else [source]
    found: dict[str, Path] = {}
    hints: list[str] = []
    for path in files:
        document, is_picture = _peek(path)
        for format in _ALL:
            if not is_picture and format.load().recognizes(path, document):
                found.setdefault(format.name, path)
        hints.append(_hint(path, document, is_picture))
    if len(found) == 1:
        return FORMATS[next(iter(found))]
    if found:
        seen = "; ".join(f"{path} may be {name}" for name, path in found.items())
        raise PointLabelError(f"{source}: more than one format: {seen}. {_choose()}")
    hint = next((h for h in hints if h), "")
    raise PointLabelError(f"{source}: not a format that can be imported.{hint} {_choose()}")


def read_export(
    source: Path, format: Format, options: Mapping[str, Any]
) -> tuple[list[RawImage], ModuleType, dict[str, Any]]:
    """Read an export in a given format.

    Args:
        source: a file or a folder.
        format: of it.
        options: of the reader; those that are None are not given.

    Returns:
        The images, the reader's module, and the options that it was given.

    Raises:
        ValueError: the format has no such option; or, of kind PointLabelError, the export is
            unsound.
    """
    module = format.load()
    given = {name: value for name, value in options.items() if value is not None}
    known = format.options()
    for name in given:
        if name not in known:
            raise ValueError(
                f"{_option(name)} ({name}=...) says nothing about {module.TITLE}; {format.name} "
                f"has {', '.join(_option(n) for n in sorted(known)) or 'no options'}"
            )
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    return module.read(source, **given), module, given


def _choose() -> str:
    lines = [f"  {format.name:<15} {format.summary}" for format in _ALL]
    return "Choose with --format:\n" + "\n".join(lines)


def _candidates(folder: Path) -> list[Path]:
    """Some of the files of a folder that are no pictures; else some of those that are."""
    files = [path for path, _ in walk_files(folder)]
    if not files:
        raise PointLabelError(f"{folder}: a folder without files; expected an export")
    by_suffix: dict[str, list[Path]] = {}
    for path in files:
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    return list(_first_of_each(by_suffix.values(), _LOOKED_AT))


def _first_of_each(groups: Iterable[list[Path]], count: int) -> Iterable[Path]:
    for group in groups:
        # The first, the last and some between: a stray file at the front is not the whole folder.
        step = max(1, len(group) // count)
        yield from group[::step][:count]


def _peek(path: Path) -> tuple[Any, bool]:
    """The document, if the file is JSON, and whether it is a picture."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_PICTURES):
        return None, True
    encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
    text = head.decode(encoding, errors="replace").lstrip()
    if text[:1] in ("{", "[") or path.suffix.lower() == ".json":
        return load_json(path), False
    return None, False


def _hint(path: Path, document: Any, is_picture: bool) -> str:
    if is_picture:
        return " Sparse PNGs need the panoptic JSON of their classes: --panoptic-json FILE."
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        return " A spreadsheet: save it as CSV."
    if zipfile.is_zipfile(path):
        return " A zip archive: unpack it, and name what is in it."
    if isinstance(document, list):
        return _hint_of_tool(document[0] if document else None)
    if not isinstance(document, dict):
        return ""
    if document.get("format") == "fdd-points":
        return " It is a file of point labels already, ready for training."
    if isinstance(document.get("annotations"), list) and "images" in document:
        return (
            " It looks like COCO masks or boxes without points; `fdd points sample` draws points "
            "from masks."
        )
    return _hint_of_tool(document)


def _hint_of_tool(entry: Any) -> str:
    """About JSON that is none of ours: whose it looks like, or what is in it."""
    if not isinstance(entry, dict) or not entry:
        return ""
    keys = set(entry)
    for tool, marks in _OTHER_TOOLS:
        if any(mark <= keys for mark in marks):
            return f" It looks like {tool}, which is not among them. {_TABLE}"
    shown = ", ".join(map(repr, list(entry)[:_KEYS_SHOWN]))
    more = ", ..." if len(entry) > _KEYS_SHOWN else ""
    return f" It is JSON with the keys {shown}{more}. {_TABLE}"


def _option(name: str) -> str:
    """What the command line calls a reader's option."""
    return "--column" if name == "columns" else f"--{name.replace('_', '-')}"

"""Parsing untrusted files: every failure names the file, and the line where there is one."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from fdd.points.collector import paused_collector
from fdd.points.image_files import walk_files
from fdd.points.structures import PointLabelError, is_side

__all__ = [
    "coordinate",
    "export_files",
    "json_exports",
    "kind_of",
    "load_json",
    "optional_side",
    "parse_json",
    "positive_int",
    "read_head",
    "read_text",
    "refuse_shape",
    "require",
    "visibility",
]

_SHOWN = 60
_ZIP = b"PK\x03\x04"
_KINDS: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is empty, or not such a text.
    """
    source = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such file") from None
    except IsADirectoryError:
        raise PointLabelError(f"{source}: a folder; expected a file") from None
    if not data.strip():
        raise PointLabelError(f"{source}: an empty file. Export or write it again.")
    if data.startswith(_ZIP):
        raise PointLabelError(f"{source}: a zip archive. Unpack it, and name what is in it.")
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PointLabelError(
            f"{source}, line {line}: not {encoding.upper().removesuffix('-SIG')} text (byte "
            f"{error.start}). Save the file as UTF-8."
        ) from error


def read_head(path: str | os.PathLike[str], count: int) -> str:
    """The text of the first ``count`` bytes of a file, whatever is in it; see :func:`read_text`."""
    with open(path, "rb") as file:
        data = file.read(count)
    return data.decode(_encoding(data), errors="replace")


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith(_UTF16) else "utf-8-sig"


def parse_json(text: str) -> Any:
    """``json.loads``, but a key that occurs twice in an object is an error: none is lost silently.

    Raises:
        ValueError: a key occurs twice; or, of kind JSONDecodeError, it is not JSON.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        others = ", ".join(map(repr, list(found)[:5]))
        raise ValueError(
            f"the key {repr(twice)[:_SHOWN]} occurs twice in the object with {others:.200}. Keep "
            "one of the two"
        )
    return found


def load_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file (see :func:`read_text`).

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not JSON (with line and column), or an object has a key twice.
    """
    source, text = os.fspath(path), read_text(path)
    try:
        with paused_collector():
            return parse_json(text)
    except json.JSONDecodeError as error:
        raise PointLabelError(
            f"{source}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}. "
            "Was the file cut short? Export or write it again."
        ) from error
    # A key twice; nested too deep; a number of 5,000 digits.
    except (RecursionError, ValueError) as error:
        raise PointLabelError(f"{source}: not valid JSON: {error}") from error


def json_exports(source: Path) -> Iterator[tuple[Path, Any]]:
    """The JSON files of :func:`export_files` with what is in them.

    Point labels in a folder are skipped: they were imported from it before.

    Raises:
        FileNotFoundError, PointLabelError: see :func:`export_files` and :func:`load_json`.
    """
    for path in export_files(source, ".json"):
        document = load_json(path)
        ours = isinstance(document, dict) and document.get("format") == "fdd-points"
        if not (ours and source.is_dir()):
            yield path, document


def require(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``entry[key]``, which must be of a kind (``object``: any); ``bool`` is not a number here.

    Raises:
        PointLabelError: ``entry`` is not an object, lacks the key, or holds something else there.
    """
    if not isinstance(entry, dict):
        raise PointLabelError(f"{where}: {kind_of(entry)}; expected an object with {key!r}")
    if key not in entry:
        raise PointLabelError(f"{where}: no {key!r}; found {', '.join(map(repr, entry)) or 'none'}")
    value = entry[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    number = int in kinds or float in kinds
    if not isinstance(value, kinds) or (isinstance(value, bool) and number and bool not in kinds):
        names = " or ".join(_KINDS.get(k, k.__name__) for k in kinds)
        raise PointLabelError(f"{where}: {key!r} is {kind_of(value)}; expected {names}")
    return value


def coordinate(value: Any, where: str) -> float:
    """A finite number, also one written as text (``"12.5"``).

    Raises:
        PointLabelError: it is something else.
    """
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise TypeError  # float("1_000") is 1000
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        shown = repr(value)[:_SHOWN]
        raise PointLabelError(f"{where}: coordinate {shown} is not a finite number")
    return number


def positive_int(value: Any, where: str) -> int:
    """A number of pixels: an integer above 0, also written as ``640.0`` or ``"640"``.

    Raises:
        PointLabelError: it is something else.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number == int(number) and is_side(int(number))):
        raise PointLabelError(f"{where} is {kind_of(value)}; expected a whole number of pixels")
    return int(number)


def optional_side(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    """A side of an image in pixels, which may be missing or null.

    Raises:
        PointLabelError: it is there, and is not a number of pixels; see :func:`positive_int`.
    """
    return None if entry.get(key) is None else positive_int(entry[key], f"{where}: {key!r}")


def visibility(value: Any, where: str) -> int:
    """COCO's visibility of a keypoint: 0 (not labelled), 1 (hidden) or 2.

    Raises:
        PointLabelError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value not in (0, 1, 2):
        score = isinstance(value, float) and 0 < value < 1
        hint = ". A model's score? Write 0 for keypoints to leave out and 2 for the others"
        raise PointLabelError(
            f"{where}: the visibility {kind_of(value)}; expected 0, 1 or 2{hint * score}"
        )
    return int(value)


def export_files(source: Path, *suffixes: str) -> list[Path]:
    """The file itself, or the files of a folder (and those below) that end so, sorted.

    Hidden files (``._labels.json``) and folders are skipped.

    Raises:
        FileNotFoundError: there is no such file or folder, or none in the folder.
    """
    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
        return [source]
    found = [path for path, _ in walk_files(source) if path.suffix.lower() in suffixes]
    if not found:
        raise FileNotFoundError(f"{source}: no file that ends in {' or '.join(suffixes)}")
    return found


def refuse_shape(where: str, kind: str) -> NoReturn:
    """Refuse a shape that is not a point: what it says beyond points must not reach training.

    Raises:
        PointLabelError: always.
    """
    raise PointLabelError(
        f"{where}: a {kind}; only points are imported. Label it with points, or leave such shapes "
        "out (--skip-shapes)"
    )


def kind_of(value: Any) -> str:
    """What a value of a JSON file is, in words."""
    if isinstance(value, (dict, list, type(None))):
        return _KINDS[type(value)]
    return repr(value)[:_SHOWN]

"""Rules on image files: there, readable, of the size that the labels say; and on their contents."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fdd.points.image_files import is_image_name, locate_files
from fdd.points.rules.finding import Finding
from fdd.points.rules.point_file import Labels
from fdd.points.validation import is_side
from fdd.points.wording import counted

__all__ = ["ImageEntry", "check_contents", "check_files", "unlisted_files"]

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]

_ORIENTATION = 274  # EXIF
_TURNED_BY_A_QUARTER = frozenset({5, 6, 7, 8})
# The last bytes that a whole file has somewhere near its end.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64
_THREADS = 4


@dataclass(frozen=True)
class ImageEntry:
    """An image that a label file names, with the size that it says."""

    image_id: Any
    file_name: str
    width: Any
    height: Any


@dataclass(frozen=True)
class _Header:
    """What a file says of itself; ``error`` where it does not."""

    width: int = 0
    height: int = 0
    orientation: int = 1
    mode: str = ""
    error: str = ""

    def displayed(self) -> tuple[int, int]:
        """Width and height as viewers, and the loader, show the picture."""
        if self.orientation in _TURNED_BY_A_QUARTER:
            return self.height, self.width
        return self.width, self.height


def check_files(
    entries: Sequence[ImageEntry],
    root: str | os.PathLike[str],
    source: str,
    progress: Progress,
    decode: bool = False,
) -> tuple[list[Finding], list[str | None]]:
    """Rules E301 to E304 and I310.

    Args:
        entries: images.
        root: the folder that their names start from.
        source: the label file, for the findings.
        progress: ``progress(items, total, what)`` hands the items on.
        decode: decode every file, and not only those whose end is not where it should be.

    Returns:
        Findings, and the path of each image (None where it is missing).
    """
    named = [e for e in entries if isinstance(e.file_name, str) and e.file_name]
    found, missing = locate_files(root, [e.file_name for e in named], any_extension=True)
    gone = set(missing)
    findings = [_missing(named[n], found[n], root, source) for n in missing]
    there = [n for n in range(len(named)) if n not in gone]
    turned: list[int] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = pool.map(lambda n: _read_header(found[n], decode), there)
        for n, header in zip(there, progress(headers, len(there), "images"), strict=True):
            findings += _judge(named[n], found[n], header, source)
            if header.orientation != 1:
                turned.append(n)
    if turned:
        examples = ", ".join(repr(named[n].image_id) for n in turned[:3])
        message = (
            f"{len(turned)} of {len(there)} images are turned or mirrored by their EXIF tag "
            f"(image {examples}{', ...' * (len(turned) > 3)})"
        )
        findings.append(Finding("I310", message, source))
    paths = {id(e): None if n in gone else found[n] for n, e in enumerate(named)}
    return findings, [paths.get(id(e)) for e in entries]


def _missing(entry: ImageEntry, path: str, root: str | os.PathLike[str], source: str) -> Finding:
    hint = ""
    if not os.path.isdir(root):
        hint = f" (there is no folder {os.fspath(root)})"
    elif "\\" in entry.file_name:
        hint = " (the name has backslashes: write forward slashes)"
    message = f"image {entry.image_id!r}: {path} does not exist{hint}"
    return Finding("E301", message, source, entry.image_id)


def _read_header(path: str, decode: bool) -> _Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd metadata
            with Image.open(path) as image:
                header = _Header(image.width, image.height, _orientation(image), image.mode)
                thorough = decode or not _looks_whole(path, image.format or "")
                if thorough:
                    # As in the loader: a PNG with a damaged chunk is decoded as far as it goes.
                    image.verify()
            if thorough:
                with Image.open(path) as image:
                    image.load()
        return header
    except Image.DecompressionBombError as error:
        return _Header(error=f"{error}")
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError) as error:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        return _Header(error="the file is empty" if empty else f"{error}")


def _orientation(image: Image.Image) -> int:
    """The EXIF tag; 1 (upright) without a sound one."""
    try:
        # Not image.getexif(), which decodes a whole PNG in search of it.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged metadata raise anything, and count as none in the loader
        return 1
    return value if value in range(1, 9) else 1


def _looks_whole(path: str, kind: str) -> bool:
    if kind not in _ENDS:
        return True
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, os.path.getsize(path)), os.SEEK_END)
        return _ENDS[kind] in file.read()


def _judge(entry: ImageEntry, path: str, header: _Header, source: str) -> list[Finding]:
    where = f"image {entry.image_id!r} ({path})"
    if header.error:
        return [Finding("E302", f"{where}: {header.error}", source, entry.image_id)]
    findings = []
    if header.mode.startswith(("I", "F")):
        message = f"{where}: mode {header.mode}, which the loader refuses"
        findings.append(Finding("E304", message, source, entry.image_id))
    shown, said = header.displayed(), (entry.width, entry.height)
    if shown != said and all(map(is_side, said)):
        message = (
            f"{where}: {shown[0]} x {shown[1]} px (width x height"
            f"{', turned by EXIF' * (header.orientation in _TURNED_BY_A_QUARTER)}), the labels say "
            f"{said[0]} x {said[1]}{_explain_size(shown, said, header)}"
        )
        findings.append(Finding("E303", message, source, entry.image_id))
    return findings


def _explain_size(shown: tuple[int, int], said: tuple[int, int], header: _Header) -> str:
    if shown == said[::-1]:
        if header.orientation in _TURNED_BY_A_QUARTER:
            return ": they follow the stored picture, which viewers and the loader turn"
        return ": width and height are exchanged"
    scale = said[0] / shown[0]
    if abs(scale - 1) > 0.02 and abs(said[1] - shown[1] * scale) <= 1 + 0.01 * said[1]:
        return f": a copy resized by {scale:.3g}? Then the points are those of the copy, too"
    return ""


def unlisted_files(
    root: str | os.PathLike[str], used: Iterable[str | None], without: Iterable[Path], source: str
) -> list[Finding]:
    """Rule W305: image files below ``root`` that no label file names.

    Args:
        root: folder, looked through with its subfolders.
        used: paths of labelled images.
        without: folders to leave out (of masks).
        source: the label file, for the findings.
    """
    known = {os.path.realpath(path) for path in used if path}
    closed = {os.path.realpath(folder) for folder in without}
    findings = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and os.path.realpath(os.path.join(folder, f)) not in closed
        )
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not is_image_name(name) or name.startswith("."):
                continue
            if os.path.realpath(path) not in known:
                findings.append(Finding("W305", f"{path}: not in the labels", source))
    return findings


def check_contents(labels: Labels, num_queries: int | None, min_side: int) -> list[Finding]:
    """Rules E111, W306 to I309 and W311, on what the labels say of the images.

    Args:
        labels: the file.
        num_queries: ``MODEL.FDD.PAN.NUM_QUERIES``; None: not known.
        min_side: ``INPUT.POINTS.MIN_IMAGE_SIDE``, in pixels.
    """
    things = {c.id for c in labels.dataset.categories if c.isthing}
    findings = []
    sizes = set()
    images = labels.dataset.images
    empty = not any(s.points for image in images for s in image.segments)
    if empty:
        message = f"none of the {len(images)} images has a point" if images else "no image at all"
        findings.append(Finding("E111", message, labels.file))
    for image in labels.dataset.images:
        where = f"image {image.image_id!r} ({image.file_name})"
        labelled = [s for s in image.segments if s.points]
        count = sum(s.category_id in things for s in labelled)

        def add(rule: str, text: str, image: Any = image, where: str = where) -> None:
            findings.append(Finding(rule, f"{where}: {text}", labels.file, image.image_id))

        if not labelled:
            if not empty:
                add("W306", "no point")
        elif things and not count:
            add("I307", f"{counted(len(labelled), 'stuff segment')}, no thing")
        if num_queries is not None and count > num_queries:
            add("W308", f"{counted(count, 'thing')}, {counted(num_queries, 'query', 'queries')}")
        if is_side(image.width) and is_side(image.height):
            sizes.add((image.width, image.height))
            if min(image.width, image.height) < min_side:
                add("W311", f"{image.width} x {image.height} px")
    if len(sizes) > 1:
        small, large = (f(sizes, key=lambda s: (s[0] * s[1], s)) for f in (min, max))
        message = (
            f"{len(sizes)} sizes, from {small[0]} x {small[1]} to {large[0]} x {large[1]} px "
            "(width x height)"
        )
        findings.append(Finding("I309", message, labels.file))
    return findings

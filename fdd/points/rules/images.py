"""Rules on image files: there, readable, of the size that the labels say; and on their contents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdd.points.image_files import (
    ImageHeader,
    ImageHeaderError,
    locate_files,
    read_image_header,
    verify_image,
    walk_images,
)
from fdd.points.rules.finding import Finding
from fdd.points.rules.point_file import Labels
from fdd.points.validation import is_side
from fdd.points.wording import counted

__all__ = ["ImageEntry", "check_contents", "check_files", "unlisted_files"]

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]

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
            if not isinstance(header, str) and header.orientation != 1:
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


def _read_header(path: str, decode: bool) -> ImageHeader | str:
    """What a file says of itself, or why it cannot be read."""
    try:
        header = read_image_header(path)
        if decode or not _looks_whole(path, header.kind):
            verify_image(path)
        return header
    except ImageHeaderError as error:
        return error.reason
    except OSError as error:
        return str(error)


def _looks_whole(path: str, kind: str) -> bool:
    if kind not in _ENDS:
        return True
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, os.path.getsize(path)), os.SEEK_END)
        return _ENDS[kind] in file.read()


def _judge(entry: ImageEntry, path: str, header: ImageHeader | str, source: str) -> list[Finding]:
    where = f"image {entry.image_id!r} ({path})"
    if isinstance(header, str):
        return [Finding("E302", f"{where}: {header}", source, entry.image_id)]
    findings = []
    if header.is_deep:
        message = f"{where}: mode {header.mode}, which the loader refuses"
        findings.append(Finding("E304", message, source, entry.image_id))
    shown, said = (header.width, header.height), (entry.width, entry.height)
    if shown != said and all(map(is_side, said)):
        message = (
            f"{where}: {shown[0]} x {shown[1]} px (width x height"
            f"{', turned by EXIF' * header.is_transposed}), the labels say "
            f"{said[0]} x {said[1]}{_explain_size(shown, said, header)}"
        )
        findings.append(Finding("E303", message, source, entry.image_id))
    return findings


def _explain_size(shown: tuple[int, int], said: tuple[int, int], header: ImageHeader) -> str:
    if shown == said[::-1]:
        if header.is_transposed:
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
    return [
        Finding("W305", f"{path}: not in the labels", source)
        for path, _ in walk_images(root, leave_out=list(without))
        if os.path.realpath(path) not in known
    ]


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

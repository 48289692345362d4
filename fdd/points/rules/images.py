"""Rules on image files (there, readable, of the size in the labels) and on their contents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fdd.points.findings import Finding
from fdd.points.image_files import (
    ImageHeader,
    ImageHeaderError,
    locate_files,
    read_image_header,
    verify_image,
    walk_images,
)
from fdd.points.structures import PointDataset, PointImage
from fdd.points.wording import counted

__all__ = ["Progress", "check_contents", "check_files", "unlisted_files"]

#: ``progress(items, total, what)`` hands the items on.
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]

# The last bytes that a whole file has somewhere near its end.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64
_THREADS = 4


def check_files(
    images: Sequence[PointImage],
    root: str | os.PathLike[str],
    progress: Progress,
    decode: bool = False,
) -> tuple[list[Finding], list[tuple[Any, str | None]]]:
    """Rules E301 to E304 and I310.

    Args:
        images: as the labels describe them.
        root: the folder that their file names start from.
        progress: see :data:`Progress`.
        decode: decode every file, and not only those whose end is not where it should be.

    Returns:
        Findings, and the id and path of each image (None where it is missing).
    """
    named = [n for n, i in enumerate(images) if isinstance(i.file_name, str) and i.file_name]
    found, missing = locate_files(root, [images[n].file_name for n in named], any_extension=True)
    paths: dict[int, str] = dict(zip(named, found, strict=True))
    findings = []
    for position in missing:
        n = named[position]
        findings.append(_missing(images[n], paths.pop(n), root))
    turned = []
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = pool.map(lambda path: _read_header(path, decode), paths.values())
        for n, header in zip(paths, progress(headers, len(paths), "images"), strict=True):
            findings += _check_header(images[n], paths[n], header)
            if not isinstance(header, str) and header.orientation != 1:
                turned.append(repr(images[n].image_id))
    if turned:
        text = (
            f"{len(turned)} of {len(paths)} images are turned or mirrored by their EXIF tag "
            f"(image {', '.join(turned[:3])}{', ...' * (len(turned) > 3)})"
        )
        findings.append(Finding("I310", text))
    return findings, [(image.image_id, paths.get(n)) for n, image in enumerate(images)]


def _missing(image: PointImage, path: str, root: str | os.PathLike[str]) -> Finding:
    hint = ""
    if not os.path.isdir(root):
        hint = f" (there is no folder {os.fspath(root)})"
    elif "\\" in image.file_name:
        hint = " (the name has backslashes: write forward slashes)"
    return Finding.about("E301", image, f"{path} does not exist{hint}")


def _read_header(path: str, decode: bool) -> ImageHeader | str:
    """The header of a file, or why it cannot be read."""
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


def _check_header(image: PointImage, path: str, header: ImageHeader | str) -> Iterator[Finding]:
    def found(rule: str, text: str) -> Finding:
        where = f"image {image.image_id!r} ({path})"
        return Finding(rule, f"{where}: {text}", None, image.image_id)

    if isinstance(header, str):
        yield found("E302", header)
        return
    if header.is_deep:
        yield found("E304", f"mode {header.mode}, which the loader refuses")
    shown, labelled = (header.width, header.height), (image.width, image.height)
    if image.has_size and shown != labelled:
        turned = ", turned by EXIF" * header.is_transposed
        text = (
            f"{shown[0]} x {shown[1]} px (width x height{turned}), the labels say {labelled[0]} x "
            f"{labelled[1]}{_explain_size(shown, labelled, header)}"
        )
        yield found("E303", text)


def _explain_size(shown: tuple[int, int], labelled: tuple[int, int], header: ImageHeader) -> str:
    if shown == labelled[::-1]:
        if header.is_transposed:
            return ": they follow the stored picture, which viewers and the loader turn"
        return ": width and height are exchanged"
    scale = labelled[0] / shown[0]
    if abs(scale - 1) > 0.02 and abs(labelled[1] - shown[1] * scale) <= 1 + 0.01 * labelled[1]:
        return f": a copy resized by {scale:.3g}? Then the points are those of the copy, too"
    return ""


def unlisted_files(
    root: str | os.PathLike[str], used: Iterable[str | None], without: Iterable[Path]
) -> Iterator[Finding]:
    """Rule W305: image files below ``root`` that no label file names.

    Args:
        root: folder, looked through with its subfolders.
        used: paths of labelled images.
        without: folders to leave out (of masks).
    """
    known = {os.path.realpath(path) for path in used if path}
    for path, _ in walk_images(root, leave_out=list(without)):
        if os.path.realpath(path) not in known:
            yield Finding("W305", f"{path}: not in the labels")


def check_contents(
    dataset: PointDataset, num_queries: int | None, min_side: int
) -> Iterator[Finding]:
    """Rules E111, W306 to I309 and W311, on what the labels say of the images.

    Args:
        dataset: the labels.
        num_queries: ``MODEL.FDD.PAN.NUM_QUERIES``; None: not known.
        min_side: ``INPUT.POINTS.MIN_IMAGE_SIDE``, in pixels.
    """
    things, images = dataset.thing_ids, dataset.images
    empty = not any(s.points for image in images for s in image.segments)
    if empty:
        count = len(images)
        yield Finding(
            "E111", f"none of the {count} images has a point" if images else "no image at all"
        )
    for image in images:
        labelled = [s for s in image.segments if s.points]
        count = sum(s.category_id in things for s in labelled)
        problems = []
        if not labelled and not empty:
            problems.append(("W306", "no point"))
        if labelled and things and not count:
            problems.append(("I307", f"{counted(len(labelled), 'stuff segment')}, no thing"))
        if num_queries is not None and count > num_queries:
            text = f"{counted(count, 'thing')}, {counted(num_queries, 'query', 'queries')}"
            problems.append(("W308", text))
        if image.has_size and min(image.width, image.height) < min_side:
            problems.append(("W311", f"{image.width} x {image.height} px"))
        where = f"image {image.image_id!r} ({image.file_name})"
        for rule, text in problems:
            yield Finding(rule, f"{where}: {text}", None, image.image_id)
    sizes = {(i.width, i.height) for i in images if i.has_size}
    if len(sizes) > 1:
        small, large = (f(sizes, key=lambda s: (s[0] * s[1], s)) for f in (min, max))
        text = (
            f"{len(sizes)} sizes, from {small[0]} x {small[1]} to {large[0]} x {large[1]} px "
            "(width x height)"
        )
        yield Finding("I309", text)

"""The rules of panoptic PNGs, once, for the evaluation, the start of a training and the checker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fdd.points.coco_panoptic import ids_of_picture, looks_like_points, mostly_isolated
from fdd.points.panoptic_document import MaskProblem, PanopticDocument, is_inside

__all__ = [
    "DECODED",
    "PngError",
    "check_pngs",
    "id_problems",
    "open_ids",
    "points_problem",
    "unlisted_pngs",
]

#: PNGs that are decoded where not all are asked for, spread evenly. One of 640 x 480 pixels takes
#: 6 ms of a core, so all of them 12 seconds of one.
DECODED = 2000
_THREADS = 4

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


class PngError(ValueError):
    """A PNG that is not a panoptic one; ``kind`` is that of a :class:`MaskProblem`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def open_ids(
    path: str, size: tuple[Any, Any] | None = None, decode: bool = True
) -> np.ndarray | None:
    """Segment ids of a panoptic PNG (R + 256 G + 65536 B): int32 (H, W), 0 = void.

    Args:
        path: of the PNG.
        size: width and height that it must have; None: any.
        decode: else only the header is read.

    Returns:
        The ids; None where they are not decoded.

    Raises:
        FileNotFoundError: there is no such file.
        PngError: it is not a picture of three channels of 8 bits, or of another size.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise PngError(
                    "file",
                    f"mode {picture.mode!r}; a panoptic PNG has three colour channels of 8 bits "
                    "that spell the segment id as R + 256 G + 65536 B",
                )
            if size is not None and picture.size != size:
                raise PngError(
                    "size",
                    f"{picture.width} x {picture.height} px (width x height), the JSON says "
                    f"{size[0]} x {size[1]}",
                )
            return ids_of_picture(picture) if decode else None
    except (FileNotFoundError, PngError):
        raise
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PngError("file", f"not a readable picture: {error}. Restore it") from error


def id_problems(segments: Iterable[int], pixels: Iterable[int]) -> list[tuple[int, str]]:
    """Segments that only one of JSON and PNG has, each with a sentence.

    Args:
        segments: ids that the JSON lists for the image.
        pixels: ids that the PNG holds, with or without 0.
    """
    listed, found = set(segments), set(pixels) - {0}
    texts = [(n, f"segment {n} of the JSON has no pixel in the PNG") for n in listed - found]
    texts += [(n, f"id {n} of the PNG is not in segments_info of the JSON") for n in found - listed]
    return sorted(texts)


def points_problem(ids: np.ndarray, labelled: int) -> str:
    """Says that a map holds points, not masks; "" where it does not.

    Args:
        ids: integer (H, W).
        labelled: number of its pixels that are not 0.
    """
    if not looks_like_points(ids, labelled):
        return ""
    return (
        f"looks like point labels, not masks: {labelled} of {ids.size} pixels are labelled, and "
        "most of them stand alone. Name the folder of the full masks"
    )


@dataclass(frozen=True)
class _Seen:
    """Of one PNG: its problems, and ``void``, ``lone``, ``masks`` or, not decoded, ``""``."""

    problems: list[MaskProblem]
    state: str = ""


def check_pngs(
    document: PanopticDocument,
    folder: str,
    *,
    images: Sequence[Any] | None = None,
    decode: int | None = DECODED,
    progress: Progress = lambda items, total, what: items,
) -> tuple[list[MaskProblem], int]:
    """Look at the PNGs of a document in a few threads.

    Args:
        document: the JSON.
        folder: of the PNGs.
        images: ids of annotated images to look at; None: all.
        decode: at most so many are decoded, spread evenly; the others' headers are read. None: all.
        progress: ``progress(items, total, what)`` hands the items on.

    Returns:
        The problems in the order of the images, and the number of PNGs that were decoded.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in document.images}
    chosen = list(document.annotations) if images is None else list(images)
    step = 1 if decode is None else max(1, -(-len(chosen) // max(decode, 1)))

    def look(i: int) -> _Seen:
        image_id = chosen[i]
        entry = document.annotations[image_id]
        return _check_png(folder, image_id, entry, sizes.get(image_id), i % step == 0)

    problems: list[MaskProblem] = []
    states = []
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = pool.map(look, range(len(chosen)))
        for one in progress(seen, len(chosen), "masks"):
            problems += one.problems
            states += [one.state] if one.state else []
    if states and all(state == "void" for state in states):
        text = f"{folder}: none of the {len(states)} decoded PNGs has a labelled pixel"
        problems = [p for p in problems if p.kind != "void_image"]
        problems.append(MaskProblem("all_void", text))
    elif states and all(state in ("void", "lone") for state in states):
        text = (
            f"{folder}: in all PNGs, most labelled pixels stand alone: these are points, not "
            "masks. Name the folder of the full masks"
        )
        problems = [p for p in problems if p.kind != "points"]
        problems.append(MaskProblem("points", text))
    return problems, len(states)


def _check_png(
    folder: str, image_id: Any, entry: Mapping[str, Any], size: Any, decode: bool
) -> _Seen:
    if not is_inside(entry["file_name"]):  # the document has that problem already
        return _Seen([])
    path = os.path.join(folder, entry["file_name"])
    where = f"image {image_id!r} ({path})"
    try:
        ids = open_ids(path, size, decode)
    except FileNotFoundError:
        return _Seen([MaskProblem("file", f"{where}: does not exist", image_id)])
    except PngError as error:
        return _Seen([MaskProblem(error.kind, f"{where}: {error}", image_id)])
    if ids is None:
        return _Seen([])
    pixels = _count(ids)
    labelled = sum(pixels.values())
    if not labelled:
        void = [] if entry["segments_info"] else [MaskProblem("void_image", where, image_id)]
        return _Seen(void + _compare(entry, pixels, where, image_id), "void")
    text = points_problem(ids, labelled)
    if text:
        return _Seen([MaskProblem("points", f"{where}: {text}", image_id)], "lone")
    state = "lone" if mostly_isolated(ids) else "masks"
    return _Seen(_compare(entry, pixels, where, image_id), state)


def _count(ids: np.ndarray) -> dict[int, int]:
    """Pixels of each id but 0. Maps are long runs of one id: runs are sorted, not pixels."""
    flat = ids.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], changes]) if flat.size else changes
    values, place = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(place, weights=np.diff(starts, append=flat.size), minlength=len(values))
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}


def _compare(
    entry: Mapping[str, Any], pixels: Mapping[int, int], where: str, image_id: Any
) -> list[MaskProblem]:
    listed = {s["id"]: s for s in entry["segments_info"]}
    problems = [
        MaskProblem("ids", f"{where}: {text}", image_id, number)
        for number, text in id_problems(listed, pixels)
    ]
    for number, segment in listed.items():
        area, count = segment.get("area"), pixels.get(number)
        if "area" in segment and count is not None and area != count:
            text = f"{where}, segment {number}: area {area!r}, but {count} pixels"
            problems.append(MaskProblem("area", text, image_id, number))
    return problems


def unlisted_pngs(document: PanopticDocument, folder: str) -> list[MaskProblem]:
    """PNGs directly in the folder that the JSON does not list."""
    listed = {os.path.normpath(a["file_name"]) for a in document.annotations.values()}
    return [
        MaskProblem("unlisted_png", f"{os.path.join(folder, name)}: not in the JSON")
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(".png") and name not in listed
    ]

"""Panoptic PNGs: encode, decode, measure, and one list of their rules.

The id of a segment is R + 256 G + 65536 B; 0 is void. The rules are shared by the evaluation, the
start of a training and ``fdd points check``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fdd.points.coco_panoptic.document import (
    MAX_SEGMENT_ID,
    PanopticDocument,
    is_inside,
)
from fdd.points.files import atomic_path
from fdd.points.findings import Finding
from fdd.points.pixel_counts import count_values
from fdd.points.structures import PointLabelError

__all__ = [
    "DECODED",
    "PngError",
    "check_pngs",
    "describe_segments",
    "encode_ids",
    "group_pixels",
    "id_problems",
    "ids_of_picture",
    "load_segment_ids",
    "looks_like_points",
    "measure_segments",
    "mostly_isolated",
    "open_ids",
    "points_problem",
    "rank_pixels",
    "save_segment_ids",
    "unlisted_pngs",
]

#: PNGs that are decoded where not all are asked for, spread evenly. One of 640 x 480 pixels takes
#: 6 ms of a core, so all of them 12 seconds of one.
DECODED = 2000
_THREADS = 4
# Pixels of a map that segments are measured in at a time.
_MEASURED = 1 << 22
# A PNG is taken for point labels when less than this share of it is labelled, ...
_SPARSE_SHARE = 0.2
# ... and more than this share of the labelled pixels has no 4-neighbour of the same segment.
_SPARSE_ISOLATED = 0.5

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


class PngError(PointLabelError):
    """A PNG that is not a panoptic one; ``rule`` is that of a :class:`Finding`."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule

    def __reduce__(self) -> tuple[Any, ...]:  # to reach the main process from another one
        return type(self), (self.rule, str(self))


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Segment ids ``(H, W)`` in [0, 2^24) as uint8 RGB ``(H, W, 3)``.

    Raises:
        PointLabelError: three bytes do not hold an id.
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_SEGMENT_ID):
        raise PointLabelError(
            f"segment ids from {ids.min()} to {ids.max()}; a panoptic PNG holds 0 to "
            f"{MAX_SEGMENT_ID}. Renumber the segments."
        )
    if ids.dtype == np.dtype("<i4"):  # none is negative: the same bytes, without a copy
        ids = np.ascontiguousarray(ids).view("<u4")
    packed = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8).reshape(*ids.shape, 4)
    return np.ascontiguousarray(packed[..., :3])


def save_segment_ids(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write integer ``(H, W)`` segment ids as a panoptic PNG, atomically.

    Raises:
        PointLabelError: see :func:`encode_ids`.
    """
    try:
        picture = Image.fromarray(encode_ids(ids))
    except PointLabelError as error:
        raise PointLabelError(f"{os.fspath(path)}: {error}") from None
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def open_ids(
    path: str, size: tuple[Any, Any] | None = None, decode: bool = True
) -> np.ndarray | None:
    """Segment ids of a panoptic PNG, int32 (H, W); 0 is void.

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
                    "E407",
                    f"mode {picture.mode!r}; a panoptic PNG has three colour channels of 8 bits "
                    "that spell the segment id as R + 256 G + 65536 B",
                )
            if size is not None and picture.size != size:
                raise PngError(
                    "E409",
                    f"{picture.width} x {picture.height} px (width x height), the JSON says "
                    f"{size[0]} x {size[1]}. Both must have the size of the image",
                )
            return ids_of_picture(picture) if decode else None
    except (FileNotFoundError, PngError):
        raise
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PngError("E407", f"not a readable picture: {error}. Restore it") from error


def ids_of_picture(picture: Image.Image) -> np.ndarray:
    """Segment ids of an open picture of mode RGB or RGBA, int32 ``(H, W)``.

    Pillow keeps four bytes a pixel for both modes. Taken as they are, they make one little-endian
    number of which the ids are the lower three bytes: nothing has to be shuffled.
    """
    raw = picture.tobytes("raw", "RGBA" if picture.mode == "RGBA" else "RGBX")
    pixels = np.frombuffer(raw, dtype="<u4").reshape(picture.height, picture.width)
    return (pixels & MAX_SEGMENT_ID).view("<i4").astype(np.int32, copy=False)


def load_segment_ids(
    path: str | os.PathLike[str], height: int | None = None, width: int | None = None
) -> np.ndarray:
    """Read a panoptic PNG as int32 ``(height, width)`` segment ids; 0 is void.

    Args:
        path: of the PNG.
        height: that it must have; None: any.
        width: likewise.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: see :func:`open_ids`; names the file.
    """
    source = os.fspath(path)
    try:
        ids = open_ids(source, None if height is None else (width, height))
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such panoptic PNG") from None
    except PngError as error:
        raise PointLabelError(f"{source}: {error}") from error
    assert ids is not None
    return ids


def rank_pixels(ids: np.ndarray, segment_ids: tuple[int, ...], source: str) -> np.ndarray:
    """Replace every id of a picture by its place among the segments.

    Pictures are long runs of one id, so only the first pixel of each run is looked up.

    Args:
        ids: int32 ``(H, W)``, 0 is void.
        segment_ids: the ids that may occur, in any order.
        source: what an error calls the picture.

    Returns:
        ``(H, W)``, 0 for void and 1 + index in ``segment_ids`` otherwise; uint16 where that
        suffices, else int64.

    Raises:
        PointLabelError: an id occurs that is not among ``segment_ids``, or these are not
            different ids >= 1.
    """
    listed = np.array([0, *segment_ids], dtype=np.int64)
    order = np.argsort(listed)
    known = listed[order]
    if known[0] < 0 or (np.diff(known) <= 0).any():
        raise PointLabelError(
            f"{source}: its JSON entry lists segment ids {sorted(segment_ids)}; expected different "
            "ids >= 1 (0 is void). Renumber the segments."
        )
    flat = ids.ravel()
    first_of_run = np.ones(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=first_of_run[1:])
    starts = np.flatnonzero(first_of_run)
    place = np.minimum(np.searchsorted(known, flat[starts]), len(known) - 1)
    unknown = starts[known[place] != flat[starts]]
    if len(unknown):
        first = int(unknown[0])
        raise PointLabelError(
            f"{source}: segment {flat[first]} (first at x={first % ids.shape[1]}, "
            f"y={first // ids.shape[1]}) is not in the JSON. Use the PNG folder that belongs to "
            "this JSON, or add the segment."
        )
    rank = order[place].astype(np.uint16 if len(known) <= 2**16 else np.int64)
    return np.repeat(rank, np.diff(starts, append=flat.size)).reshape(ids.shape)


def group_pixels(ids: np.ndarray, segment_ids: tuple[int, ...], source: str) -> list[np.ndarray]:
    """Sort an image's pixels by segment, without one full-size mask per segment.

    Args:
        ids: as for :func:`rank_pixels`, and so are the errors.
        segment_ids: likewise.
        source: likewise.

    Returns:
        For each of ``segment_ids``, its flat pixel indices in ascending order; maybe none.
    """
    rank = rank_pixels(ids, segment_ids, source).ravel()
    # A stable sort of 16-bit integers is a radix sort, several times faster than one of wider ones.
    order = np.argsort(rank, kind="stable")
    ends = np.cumsum(np.bincount(rank, minlength=len(segment_ids) + 1))
    return [order[start:end] for start, end in itertools.pairwise(ends)]


def measure_segments(ids: np.ndarray, segment_ids: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Area and box of segments, for files that *hold* masks; nothing is trained from them.

    Args:
        ids: integer ``(H, W)``.
        segment_ids: ids to measure, in any order.

    Returns:
        For each of ``segment_ids`` its pixels and ``[x, y, width, height]``; 0 and zeros where it
        has no pixel.
    """
    listed = np.unique(np.asarray(segment_ids, dtype=np.int64))
    if not len(listed):
        return []
    areas = np.zeros(len(listed) + 1, np.int64)
    # Of each segment the first and, exclusively, the last row and column.
    first = np.full((len(listed), 2), np.iinfo(np.int64).max)
    last = np.zeros((len(listed), 2), np.int64)
    rows = max(1, _MEASURED // max(1, ids.shape[1]))
    for top in range(0, ids.shape[0], rows):
        part = ids[top : top + rows]
        place = np.minimum(np.searchsorted(listed, part), len(listed) - 1)
        # 1 + place, so that 0 is left for other ids.
        rank = np.where(listed[place] == part, place + 1, 0)
        areas += np.bincount(rank.ravel(), minlength=len(areas))
        for n, found in enumerate(ndimage.find_objects(rank, len(listed))):
            if found is not None:
                y, x = found
                first[n] = np.minimum(first[n], (top + y.start, x.start))
                last[n] = np.maximum(last[n], (top + y.stop, x.stop))
    measured = []
    for n in np.searchsorted(listed, np.asarray(segment_ids, dtype=np.int64)).tolist():
        box = [0, 0, 0, 0]
        if areas[n + 1]:
            (y, x), (height, width) = first[n].tolist(), (last[n] - first[n]).tolist()
            box = [x, y, width, height]
        measured.append((int(areas[n + 1]), box))
    return measured


def describe_segments(
    ids: np.ndarray, categories: Mapping[int, int], crowd: Collection[int] = ()
) -> list[dict[str, Any]]:
    """``segments_info`` of a map; segments without a pixel are left out.

    Args:
        ids: integer ``(H, W)``.
        categories: category id by segment id.
        crowd: the segments that are groups.

    Returns:
        In the order of ``categories``: ``id``, ``category_id``, ``area`` (pixels), ``bbox``
        (x, y, width, height in pixels), ``iscrowd``.
    """
    return [
        {
            "id": int(n),
            "category_id": int(categories[n]),
            "area": area,
            "bbox": box,
            "iscrowd": int(n in crowd),
        }
        for n, (area, box) in zip(categories, measure_segments(ids, list(categories)), strict=True)
        if area
    ]


def looks_like_points(id_map: np.ndarray, labelled: int) -> bool:
    """Whether a panoptic map holds point labels, not masks.

    The share of labelled pixels alone does not tell: a things-only image with one small object has
    almost none. Pixels of a mask touch each other, sampled points do not. One single pixel is let
    pass, it may well be an object.

    Args:
        id_map: integer ``(H, W)``, 0 is void.
        labelled: the number of its pixels that are not void.
    """
    return 2 <= labelled < _SPARSE_SHARE * id_map.size and mostly_isolated(id_map)


def mostly_isolated(id_map: np.ndarray) -> bool:
    """Whether most labelled pixels of an (H, W) map have no 4-neighbour with their id."""
    touching = np.zeros(id_map.shape, dtype=bool)
    for axis in (0, 1):
        first: list[slice] = [slice(None), slice(None)]
        second = list(first)
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        same = id_map[tuple(first)] == id_map[tuple(second)]
        touching[tuple(first)] |= same
        touching[tuple(second)] |= same
    labelled = id_map != 0
    return int((labelled & ~touching).sum()) > _SPARSE_ISOLATED * int(labelled.sum())


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

    problems: list[Finding]
    state: str = ""


def check_pngs(
    document: PanopticDocument,
    folder: str,
    *,
    images: Sequence[Any] | None = None,
    decode: int | None = DECODED,
    progress: Progress = lambda items, total, what: items,
) -> tuple[list[Finding], int]:
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

    problems: list[Finding] = []
    states = []
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = pool.map(look, range(len(chosen)))
        for one in progress(seen, len(chosen), "masks"):
            problems += one.problems
            states += [one.state] if one.state else []
    if states and all(state == "void" for state in states):
        text = f"{folder}: none of the {len(states)} decoded PNGs has a labelled pixel"
        problems = [p for p in problems if p.rule != "W412"]
        problems.append(Finding("E411", text))
    elif states and all(state in ("void", "lone") for state in states):
        text = (
            f"{folder}: in all PNGs, most labelled pixels stand alone: these are points, not "
            "masks. Name the folder of the full masks"
        )
        problems = [p for p in problems if p.rule != "E410"]
        problems.append(Finding("E410", text))
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
        return _Seen([Finding("E407", f"{where}: does not exist", None, image_id)])
    except PngError as error:
        return _Seen([Finding(error.rule, f"{where}: {error}", None, image_id)])
    if ids is None:
        return _Seen([])
    found, counts = count_values(ids)
    pixels = {n: count for n, count in zip(found.tolist(), counts.tolist(), strict=True) if n}
    labelled = sum(pixels.values())
    if not labelled:
        void = [] if entry["segments_info"] else [Finding("W412", where, None, image_id)]
        return _Seen(void + _compare(entry, pixels, where, image_id), "void")
    text = points_problem(ids, labelled)
    if text:
        return _Seen([Finding("E410", f"{where}: {text}", None, image_id)], "lone")
    state = "lone" if mostly_isolated(ids) else "masks"
    return _Seen(_compare(entry, pixels, where, image_id), state)


def _compare(
    entry: Mapping[str, Any], pixels: Mapping[int, int], where: str, image_id: Any
) -> list[Finding]:
    listed = {s["id"]: s for s in entry["segments_info"]}
    problems = [
        Finding("E408", f"{where}: {text}", None, image_id, number)
        for number, text in id_problems(listed, pixels)
    ]
    for number, segment in listed.items():
        area, count = segment.get("area"), pixels.get(number)
        if "area" in segment and count is not None and area != count:
            text = f"{where}, segment {number}: area {area!r}, but {count} pixels"
            problems.append(Finding("W405", text, None, image_id, number))
    return problems


def unlisted_pngs(document: PanopticDocument, folder: str) -> list[Finding]:
    """PNGs directly in the folder that the JSON does not list."""
    listed = {os.path.normpath(a["file_name"]) for a in document.annotations.values()}
    return [
        Finding("W413", f"{os.path.join(folder, name)}: not in the JSON")
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(".png") and name not in listed
    ]

"""COCO panoptic data (JSON and PNG folder), as far as points need it: no box or area is read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from fdd.points.files import atomic_path
from fdd.points.panoptic_document import MAX_SEGMENT_ID, raise_errors, read_panoptic_document
from fdd.points.structures import Category, PointLabelError

__all__ = [
    "MAX_SEGMENT_ID",
    "PanopticImage",
    "group_pixels",
    "ids_of_picture",
    "load_segment_ids",
    "looks_like_points",
    "measure_segments",
    "mostly_isolated",
    "rank_pixels",
    "read_panoptic_json",
    "save_segment_ids",
]

# A PNG is taken for point labels when less than this share of it is labelled, ...
_SPARSE_SHARE = 0.2
# ... and more than this share of the labelled pixels has no 4-neighbour of the same segment.
_SPARSE_ISOLATED = 0.5


@dataclass(frozen=True)
class PanopticImage:
    """An image and its segments; ``crowd`` tells which of them are groups and not one instance."""

    image_id: str | int
    file_name: str
    height: int
    width: int
    png_name: str
    segment_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    crowd: tuple[bool, ...]


def read_panoptic_json(
    path: str | os.PathLike[str],
) -> tuple[list[Category], list[PanopticImage]]:
    """Read a COCO panoptic JSON; images in the order of ``images``, joined by their ids.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not a panoptic JSON, or an entry of it breaks the rules; lists all.
    """
    document = read_panoptic_document(path)
    # Names of PNGs that lead out of their folder have always been read here, and still are.
    raise_errors(document.source, [p for p in document.problems if p.kind != "file"])
    images = []
    for image in document.images:
        annotation = document.annotations[image["id"]]
        segments = annotation["segments_info"]
        images.append(
            PanopticImage(
                image_id=image["id"],
                file_name=image["file_name"],
                height=image["height"],
                width=image["width"],
                png_name=annotation["file_name"],
                segment_ids=tuple(s["id"] for s in segments),
                category_ids=tuple(s["category_id"] for s in segments),
                crowd=tuple(bool(s.get("iscrowd", 0)) for s in segments),
            )
        )
    return document.categories, images


def load_segment_ids(path: str | os.PathLike[str], height: int, width: int) -> np.ndarray:
    """Read a panoptic PNG as int32 ``(height, width)`` segment ids, R + 256 G + 65536 B; 0 is void.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is no 8-bit RGB picture, or its size is not the one given.
    """
    source = os.fspath(path)
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            picture.load()
            ids = ids_of_picture(picture) if mode in ("RGB", "RGBA") else None
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such panoptic PNG") from None
    except OSError as error:
        raise PointLabelError(f"{source}: not a readable picture: {error}") from error
    if ids is None:
        raise PointLabelError(f"{source}: a picture of mode {mode}; panoptic PNGs are 8-bit RGB")
    if ids.shape != (height, width):
        raise PointLabelError(
            f"{source}: {ids.shape[0]} x {ids.shape[1]} (height x width); its JSON says "
            f"{height} x {width}. The PNG and the JSON must describe the same image size."
        )
    return ids


def ids_of_picture(picture: Image.Image) -> np.ndarray:
    """Segment ids R + 256 G + 65536 B of an open picture of mode RGB or RGBA, int32 ``(H, W)``.

    Pillow keeps four bytes a pixel for both modes. Taken as they are, they make one little-endian
    number of which the ids are the lower three bytes: nothing has to be shuffled.
    """
    raw = picture.tobytes("raw", "RGBA" if picture.mode == "RGBA" else "RGBX")
    pixels = np.frombuffer(raw, dtype="<u4").reshape(picture.height, picture.width)
    return (pixels & MAX_SEGMENT_ID).view("<i4").astype(np.int32, copy=False)


def save_segment_ids(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write integer ``(H, W)`` segment ids in [0, 2^24) as a panoptic PNG, atomically."""
    if ids.size and (ids.min() < 0 or ids.max() > MAX_SEGMENT_ID):
        raise PointLabelError(
            f"{os.fspath(path)}: segment ids from {ids.min()} to {ids.max()}; a panoptic PNG holds "
            f"0 to {MAX_SEGMENT_ID}. Renumber the segments."
        )
    packed = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8).reshape(*ids.shape, 4)
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(packed[..., :3])).save(temporary, format="PNG")


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
        PointLabelError: an id occurs that is not among ``segment_ids``, or these are no different
            ids >= 1.
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
    place = np.minimum(np.searchsorted(listed, ids), len(listed) - 1)
    # 1 + place, so that 0 is left for whatever is not asked for.
    rank = np.where(listed[place] == ids, place + 1, 0)
    areas = np.bincount(rank.ravel(), minlength=len(listed) + 1).tolist()
    slices = ndimage.find_objects(rank, len(listed))
    measured = []
    for n in np.searchsorted(listed, np.asarray(segment_ids, dtype=np.int64)).tolist():
        box = [0, 0, 0, 0]
        if slices[n] is not None:
            y, x = slices[n]
            box = [x.start, y.start, x.stop - x.start, y.stop - y.start]
        measured.append((areas[n + 1], box))
    return measured

"""Pascal VOC 2012 and SBD as COCO panoptic data: the choice of images, and one image's conversion.

``datasets/prepare_voc_panoptic.py`` is the command. Images of VOC's lists take VOC's annotation,
the others SBD's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import loadmat

from fdd.points.coco_panoptic import describe_segments, save_segment_ids
from fdd.points.image_files import read_image_header

__all__ = [
    "CLASSES",
    "VocSource",
    "compose_train_aug",
    "convert_image",
    "find_source",
    "read_list",
    "segment_map",
    "voc_categories",
]

# VOC's order; the position + 1 is the value in its class maps and the category id.
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
BACKGROUND_ID = len(CLASSES) + 1
VOID = 255
_IDS_PER_CLASS = 1000

VOC_HINT = (
    "It comes with VOCtrainval_11-May-2012.tar "
    "(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/), which holds VOCdevkit/VOC2012; "
    "datasets/README.md shows the layout. Name the folder with --voc if it lies elsewhere."
)
SBD_HINT = (
    "It comes with SBD's benchmark.tgz (http://www.eecs.berkeley.edu/Research/Projects/CS/vision/"
    "grouping/semantic_contours/benchmark.tgz), which holds benchmark_RELEASE/dataset; "
    "datasets/README.md shows the layout. Name the folder with --sbd if it lies elsewhere."
)


@dataclass(frozen=True)
class VocSource:
    """Where the downloads lie.

    Attributes:
        root: file names in the JSON start from it.
        voc: the folder with ``JPEGImages``.
        sbd: the folder with ``inst``; None if only VOC's own lists are wanted.
    """

    root: Path
    voc: Path
    sbd: Path | None = None


class SegmentMap(NamedTuple):
    """A panoptic picture: int32 ``(H, W)`` segment ids (0 is void), and its COCO segments.

    ``lost`` are the object numbers that have no pixel with a class and became void.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]
    lost: list[int]


def voc_categories() -> list[dict[str, Any]]:
    """The ``categories`` list: 20 things with ids 1 to 20 in VOC's order, then background, 21."""
    things = [
        {"id": n, "name": name, "supercategory": "thing", "isthing": 1}
        for n, name in enumerate(CLASSES, start=1)
    ]
    stuff = {"id": BACKGROUND_ID, "name": "background", "supercategory": "stuff", "isthing": 0}
    return [*things, stuff]


def find_source(
    root: str | os.PathLike[str],
    voc: str | os.PathLike[str] | None = None,
    sbd: str | os.PathLike[str] | None = None,
    need_sbd: bool = True,
) -> VocSource:
    """Find both downloads below ``root``, or take the folders given.

    Raises:
        FileNotFoundError: one is not there; the message names the places and the download.
    """
    root = Path(root)
    places = [Path(voc)] if voc else [root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
    voc_folder = _first_folder(places, "Pascal VOC 2012", VOC_HINT)
    if not need_sbd:
        return VocSource(root, voc_folder)
    places = [Path(sbd)] if sbd else [root / "benchmark_RELEASE" / "dataset"]
    return VocSource(root, voc_folder, _first_folder(places, "SBD", SBD_HINT))


def _first_folder(places: Sequence[Path], what: str, hint: str) -> Path:
    for place in places:
        if place.is_dir():
            return place
    tried = " nor ".join(str(place) for place in places)
    raise FileNotFoundError(f"{what}: no folder {tried}. {hint}")


def read_list(path: str | os.PathLike[str], hint: str = "") -> list[str]:
    """Image ids of a list file, one a line; blank lines do not count, and it may be empty.

    Raises:
        FileNotFoundError: there is no such file; ``hint`` tells where it comes from.
        ValueError: an id occurs twice, or a line is not an id (paths, several columns).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(path)}: no such image list. {hint}") from None
    ids = [line.strip() for line in lines if line.strip()]
    for image_id in ids:
        if len(image_id.split()) > 1 or "/" in image_id or "\\" in image_id:
            raise ValueError(
                f"{os.fspath(path)}: the line {image_id!r} is not an image id; expected one id a "
                "line, such as 2007_000032. Take the list from ImageSets/Segmentation (VOC) or "
                "from the data set's own folder (SBD)."
            )
    if len(set(ids)) < len(ids):
        double = sorted({i for i in ids if ids.count(i) > 1})
        raise ValueError(f"{os.fspath(path)}: {double[0]!r} is listed twice. Remove one line.")
    return ids


def compose_train_aug(
    voc_train: Iterable[str],
    voc_val: Iterable[str],
    sbd_train: Iterable[str],
    sbd_val: Iterable[str],
) -> list[str]:
    """VOC train and all of SBD without the images of VOC val, sorted (10,582 of the real lists)."""
    return sorted((set(voc_train) | set(sbd_train) | set(sbd_val)) - set(voc_val))


def segment_map(
    objects: np.ndarray, classes: np.ndarray, known: Sequence[int] | None = None
) -> SegmentMap:
    """Combine an object map and a class map into one panoptic map.

    Void (255) in either map is void. An object has the class of most of its pixels, where void and
    background do not vote; all its pixels stay its own. Pixels of a class but of no object are
    void: their instance is not known. Background is one stuff segment.

    Args:
        objects: int ``(H, W)``: 0 background, 1.. objects, 255 void.
        classes: int ``(H, W)``: 0 background, 1 to 20 as in :data:`CLASSES`, 255 void.
        known: class of object 1, 2, ... where the source states it; it goes before the vote.

    Raises:
        ValueError: shapes differ, or a class is unknown.
    """
    if objects.shape != classes.shape or objects.ndim != 2:
        raise ValueError(f"an object map of {objects.shape}, but a class map of {classes.shape}")
    values = np.unique(classes)
    wrong = values[(values < 0) | ((values > len(CLASSES)) & (values != VOID))]
    if len(wrong):
        raise ValueError(
            f"class {int(wrong[0])} in the class map; expected 0 to {len(CLASSES)} or {VOID} (void)"
        )
    usable = (objects != VOID) & (classes != VOID)
    ids = np.zeros(objects.shape, dtype=np.int32)
    categories: dict[int, int] = {}
    lost: list[int] = []
    count = [0] * (len(CLASSES) + 1)
    for number in np.unique(objects):
        if number in (0, VOID):
            continue
        mask = (objects == number) & usable
        category = _class_of_object(int(number), classes[mask], known)
        if category == 0 or not mask.any():
            lost.append(int(number))
            continue
        count[category] += 1
        segment_id = category * _IDS_PER_CLASS + count[category]
        ids[mask] = segment_id
        categories[segment_id] = category
    background = usable & (objects == 0) & (classes == 0)
    if background.any():
        segment_id = BACKGROUND_ID * _IDS_PER_CLASS + 1
        ids[background] = segment_id
        categories[segment_id] = BACKGROUND_ID
    return SegmentMap(ids, describe_segments(ids, categories), lost)


def _class_of_object(number: int, votes: np.ndarray, known: Sequence[int] | None) -> int:
    """The class of an object, 1 to 20, or 0 if nothing tells it."""
    if known is not None and number <= len(known) and known[number - 1]:
        category = int(known[number - 1])
        if not 1 <= category <= len(CLASSES):
            raise ValueError(
                f"object {number} has category {category}; expected 1 to {len(CLASSES)}"
            )
        return category
    counts = np.bincount(votes.astype(np.int64).ravel(), minlength=len(CLASSES) + 1)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else 0


def convert_image(
    source: VocSource, image_id: str, from_sbd: bool, png_root: str | os.PathLike[str]
) -> tuple[tuple[str, str, tuple[int, int], str, list[dict[str, Any]]], list[int]]:
    """Write one image's panoptic PNG.

    Args:
        source: the downloads.
        image_id: such as ``2007_000032``.
        from_sbd: take SBD's annotation and not VOC's.
        png_root: the folder that ``<image_id>.png`` is written to.

    Returns:
        What :meth:`fdd.points.coco_panoptic.PanopticWriter.add` takes of it, and the objects that
        were lost (see :class:`SegmentMap`).

    Raises:
        FileNotFoundError: the picture or an annotation is missing.
        ValueError: an annotation is unreadable, or its size is not the picture's.
    """
    picture = _find_picture(source, image_id)
    header = read_image_header(picture)
    size = header.height, header.width
    if from_sbd:
        objects, classes, known = _read_sbd(source, image_id)
    else:
        objects = _read_palette(source.voc / "SegmentationObject" / f"{image_id}.png")
        classes = _read_palette(source.voc / "SegmentationClass" / f"{image_id}.png")
        known = None
    where = f"image {image_id!r} ({'SBD' if from_sbd else 'VOC'} annotation)"
    if objects.shape != size:
        raise ValueError(
            f"{where}: {objects.shape[0]} x {objects.shape[1]} (height x width), but {picture} is "
            f"{size[0]} x {size[1]}. Unpack both from the original archives again."
        )
    try:
        result = segment_map(objects, classes, known)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    name = f"{image_id}.png"
    save_segment_ids(Path(png_root) / name, result.ids)
    file_name = _relative(picture, source.root)
    return (image_id, file_name, size, name, result.segments), result.lost


def _find_picture(source: VocSource, image_id: str) -> Path:
    places = [source.voc / "JPEGImages" / f"{image_id}.jpg"]
    if source.sbd is not None:
        places.append(source.sbd / "img" / f"{image_id}.jpg")
    for place in places:
        if place.is_file():
            return place
    hint = VOC_HINT if source.sbd is None else f"{VOC_HINT} {SBD_HINT}"
    tried = " nor ".join(str(place) for place in places)
    raise FileNotFoundError(f"image {image_id!r}: no picture {tried}. {hint}")


def _relative(path: Path, root: Path) -> str:
    """``path`` as seen from the data root; the whole path for a picture that lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        pass
    try:
        return path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def _read_palette(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such annotation. {VOC_HINT}") from None
    except OSError as error:
        raise ValueError(f"{path}: not a readable picture: {error}. Unpack it again.") from error
    if mode not in ("P", "L"):
        raise ValueError(
            f"{path}: a picture of mode {mode}; VOC's annotations are palette PNGs whose values "
            "are class or object numbers. Colours cannot be read back; unpack the original."
        )
    return values


def _read_sbd(source: VocSource, image_id: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Object map, class map and the class of every object, from SBD's two MATLAB files."""
    assert source.sbd is not None, "SBD's folder is needed for SBD's annotations"
    objects, instance = _read_mat(source.sbd / "inst" / f"{image_id}.mat", "GTinst")
    classes, _ = _read_mat(source.sbd / "cls" / f"{image_id}.mat", "GTcls")
    known = [int(c) for c in np.asarray(instance["Categories"]).ravel()]
    return objects, classes, known


def _read_mat(path: Path, key: str) -> tuple[np.ndarray, Any]:
    try:
        record = loadmat(str(path), appendmat=False)[key][0, 0]
        values = np.asarray(record["Segmentation"])
        if values.ndim != 2:
            raise ValueError(f"Segmentation has the shape {values.shape}")
        if key == "GTinst" and "Categories" not in record.dtype.names:
            raise ValueError("GTinst.Categories is missing")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such annotation. {SBD_HINT}") from None
    except Exception as error:  # loadmat raises many kinds on damaged files
        raise ValueError(
            f"{path}: not a readable SBD annotation with {key}.Segmentation: {error}. Unpack it "
            "again."
        ) from error
    return values, record

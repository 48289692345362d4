"""Masks as pairs of pictures, one of class ids and one of instance ids: points drawn from them.

What a pixel is:

* its class, by the semantic picture: an id of the class list, or a void value;
* stuff: all pixels of a class are one segment, the instance picture does not count;
* thing: all pixels with one class and one instance id > 0 are one segment, so ids may start from 1
  for every class, and need not be consecutive;
* thing with instance id 0: a group of which the instances are not known (a crowd). It is not void
  in the panoptic masks, where it excuses predictions, and gets no points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from fdd.points.coco_panoptic import (
    PanopticImage,
    PanopticWriter,
    describe_segments,
    ids_of_picture,
    save_segment_ids,
)
from fdd.points.files import check_new_folder, new_folder
from fdd.points.image_files import (
    ImageHeaderError,
    is_image_name,
    read_image_header,
    walk_files,
)
from fdd.points.sampling import Draw, Progress, map_images
from fdd.points.structures import Category, PointDataset, PointImage, PointLabelError

__all__ = ["MaskPair", "find_mask_pairs", "merge_pair", "read_label_png", "sample_mask_pairs"]


def sample_mask_pairs(
    images: str | os.PathLike[str],
    semantic: str | os.PathLike[str],
    instance: str | os.PathLike[str] | None,
    categories: Sequence[Category],
    k: int,
    strategy: str = "uniform",
    seed: int = 0,
    *,
    void: Collection[int] = (255,),
    write_panoptic: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> PointDataset:
    """Draw points for every segment of masks in pairs, except crowds and void.

    The draw is that of :func:`fdd.points.sample_panoptic` on the panoptic masks.

    Args:
        images, semantic, instance: folders, see :func:`find_mask_pairs`.
        categories: of the ids in the semantic PNGs.
        k, strategy, seed, workers, progress: see :func:`fdd.points.sample_panoptic`.
        void: values of the semantic PNGs that stand for no class.
        write_panoptic: a new folder, for the masks in COCO's panoptic form: ``panoptic.json`` and
            the PNGs in ``panoptic/``. It appears once it is complete.

    Raises:
        FileNotFoundError, PointLabelError: a file is missing or invalid.
        FileExistsError: ``write_panoptic`` is there already.
    """
    draw = Draw(k, strategy, seed)
    if instance is None and (things := [c.name for c in categories if c.isthing]):
        raise PointLabelError(
            f"{things[0]!r} is a thing, and its instances are to be told apart by instance masks; "
            "name their folder, or make it stuff in the class list"
        )
    if write_panoptic is not None:
        check_new_folder(write_panoptic)
    pairs, without = find_mask_pairs(images, semantic, instance)
    with ExitStack() as stack:
        folder = None
        if write_panoptic is not None:
            folder = stack.enter_context(new_folder(write_panoptic))
        job = partial(
            _sample_pair,
            categories=list(categories),
            void=frozenset(void),
            draw=draw,
            pngs=None if folder is None else folder / "panoptic",
        )
        done = list(map_images(job, pairs, workers, progress))
        if folder is not None:
            writer = PanopticWriter(categories)
            for image, made in done:
                size, png_name = (image.height, image.width), f"{image.image_id}.png"
                writer.add(image.image_id, image.file_name, size, png_name, made)
            writer.write(folder / "panoptic.json", end="\n")
    return draw.dataset(
        categories,
        [image for image, _ in done],
        semantic,
        skipped_crowd=sum(s["iscrowd"] for _, made in done for s in made),
        images_without_masks=without,
    )


def _sample_pair(
    pair: MaskPair,
    categories: list[Category],
    void: frozenset[int],
    draw: Draw,
    pngs: Path | None,
) -> tuple[PointImage, list[dict[str, Any]]]:
    """Points of one pair, and its ``segments_info``; writes its PNG if ``pngs`` is a folder."""
    semantic = read_label_png(pair.semantic)
    size = _upright_size(pair.image)
    if size != semantic.shape:
        raise PointLabelError(
            f"{pair.semantic}: {_size_text(semantic.shape)}, but {pair.image} is "
            f"{_size_text(size)} (upright by EXIF). Masks and image must have one size"
        )
    instance = None if pair.instance is None else read_label_png(pair.instance)
    ids, segments = merge_pair(semantic, instance, categories, void, str(pair.semantic))
    numbers = tuple(zip(*segments, strict=True)) if segments else ((), (), ())
    image = PanopticImage(pair.image_id, pair.file_name, *size, f"{pair.image_id}.png", *numbers)
    points, _ = draw.segments(image, ids, str(pair.semantic))
    if pngs is not None:
        save_segment_ids(pngs / image.png_name, ids)
    crowd = [n for n, _, group in segments if group]
    return points, describe_segments(ids, {n: c for n, c, _ in segments}, crowd)


def _upright_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is shown; its pixels are not decoded."""
    try:
        header = read_image_header(path)
    except ImageHeaderError as error:
        raise PointLabelError(str(error)) from error
    return header.height, header.width


@dataclass(frozen=True)
class MaskPair:
    """An image and its masks.

    Attributes:
        image_id: path of the semantic PNG below its folder, without the ending, with ``/``.
        file_name: of the image below its folder, with ``/``.
        image, semantic, instance: the files; no instance where the classes are all stuff.
    """

    image_id: str
    file_name: str
    image: Path
    semantic: Path
    instance: Path | None


def find_mask_pairs(
    images: str | os.PathLike[str],
    semantic: str | os.PathLike[str],
    instance: str | os.PathLike[str] | None = None,
) -> tuple[list[MaskPair], int]:
    """Match the PNGs of class ids with images and instance PNGs of the same names.

    Args:
        images: folder; sub-folders are looked into, and hidden files passed over.
        semantic: folder of ``NAME.png`` for ``NAME.jpg`` (or another image ending).
        instance: likewise, or None.

    Returns:
        The pairs by name, and the number of images without masks, which are left out.

    Raises:
        FileNotFoundError: a folder, or what belongs to a PNG, is missing.
        PointLabelError: two images fit one PNG.
    """
    masks = _files(semantic, "semantic PNGs", _is_png)
    if not masks:
        raise FileNotFoundError(f"{os.fspath(semantic)}: no .png file in this folder")
    instances = {} if instance is None else _files(instance, "instance PNGs", _is_png)
    own = {os.path.abspath(p) for found in (masks, instances) for (p,) in found.values()}
    pictures = _files(images, "images", is_image_name, own)
    pairs = []
    for name, (mask,) in sorted(masks.items()):
        fitting = pictures.pop(name, [])
        if len(fitting) > 1:
            raise PointLabelError(f"{mask}: {fitting[0]} and {fitting[1]} fit it; rename one")
        if not fitting:
            raise FileNotFoundError(f"{mask}: no image {name}.* in {os.fspath(images)}")
        if instance is not None and name not in instances:
            raise FileNotFoundError(f"{mask}: no {name}.png in {os.fspath(instance)}")
        file_name = fitting[0].relative_to(images).as_posix()
        other = instances[name][0] if instance is not None else None
        pairs.append(MaskPair(name, file_name, fitting[0], mask, other))
    return pairs, len(pictures)


def _files(
    folder: str | os.PathLike[str],
    what: str,
    is_wanted: Callable[[str], bool],
    leave_out: Collection[str] = (),
) -> dict[str, list[Path]]:
    """Files by their path below the folder, without the ending."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{os.fspath(folder)}: no such folder (of {what})")
    found: dict[str, list[Path]] = {}
    for path, name in walk_files(folder):
        if is_wanted(name) and os.path.abspath(path) not in leave_out:
            found.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(path)
    return found


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def read_label_png(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture of ids: 8 or 16 bits, a palette (its indices), or RGB as R + 256 G + 65536 B.

    Returns:
        int64 ``(H, W)``.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: it is not an image, or one of another kind.
    """
    source = os.fspath(path)
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            picture.load()
            if mode in ("RGB", "RGBA"):
                return ids_of_picture(picture).astype(np.int64)
            if mode in ("1", "L", "P", "I") or mode.startswith("I;16"):
                return np.array(picture).astype(np.int64)
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such PNG") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise PointLabelError(f"{source}: not a readable picture: {error}") from error
    raise PointLabelError(
        f"{source}: a picture of mode {mode}; expected ids as 8 or 16 bit grey, palette or RGB"
    )


def merge_pair(
    semantic: np.ndarray,
    instance: np.ndarray | None,
    categories: Sequence[Category],
    void: Collection[int] = (255,),
    source: str = "semantic mask",
) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """Merge class ids and instance ids to panoptic segments, by the rules of this module.

    Args:
        semantic: integer ``(H, W)``, class ids as in ``categories``.
        instance: integer ``(H, W)``; None where no class is a thing.
        categories: the classes.
        void: class ids that stand for no class.
        source: what an error calls the masks.

    Returns:
        ids: int32 ``(H, W)``, segment ids from 1, ordered by place of the class, then by instance
            id, crowds last; 0 is void.
        segments: ``(segment id, category id, crowd)`` of each.

    Raises:
        PointLabelError: sizes differ, or an id is not a class.
    """
    if instance is None:
        instance = np.zeros_like(semantic)
    if semantic.shape != instance.shape:
        raise PointLabelError(
            f"{source}: {_size_text(semantic.shape)}, but its instance mask is "
            f"{_size_text(instance.shape)}"
        )
    place = _class_places(semantic, categories, void, source)
    if instance.min(initial=0) < 0:
        raise PointLabelError(f"{source}: negative instance ids; expected ids >= 0")
    isthing = np.array([c.isthing for c in categories] + [False])
    span = int(instance.max(initial=0)) + 2
    thing = isthing[place]
    # The crowd of a class comes after all its instances, and is put behind all segments below.
    member = np.where(thing, np.where(instance > 0, instance, span - 1), 0)
    keys, inverse = np.unique(place * span + member, return_inverse=True)
    classes, members = keys // span, keys % span
    crowd = isthing[classes] & (members == span - 1)
    labelled = classes < len(categories)
    ids_of_keys = np.zeros(len(keys), np.int32)
    order = np.concatenate([np.flatnonzero(labelled & ~crowd), np.flatnonzero(labelled & crowd)])
    ids_of_keys[order] = np.arange(1, len(order) + 1)
    segments = [
        (n, categories[classes[i]].id, bool(crowd[i])) for n, i in enumerate(order.tolist(), 1)
    ]
    return ids_of_keys[inverse.reshape(-1)].reshape(semantic.shape), segments


def _class_places(
    semantic: np.ndarray, categories: Sequence[Category], void: Collection[int], source: str
) -> np.ndarray:
    """Position of each pixel's class in the list, int64; its length for void."""
    table = {c.id: n for n, c in enumerate(categories)}
    both = sorted(set(table) & set(void))
    if both:
        raise PointLabelError(
            f"class id {both[0]} is a void value, too; say with --void which values are void"
        )
    table |= dict.fromkeys(void, len(categories))
    found, inverse = np.unique(semantic, return_inverse=True)
    inverse = inverse.reshape(semantic.shape)
    for n, value in enumerate(found.tolist()):
        if value not in table:
            y, x = np.argwhere(inverse == n)[0].tolist()
            known = ", ".join(f"{c.id} {c.name}" for c in categories[:12])
            more = ", ..." if len(categories) > 12 else ""
            raise PointLabelError(
                f"{source}: value {value} (first at x={x}, y={y}) is neither a class nor void. "
                f"Classes are {known}{more}; void is {sorted(void)}. Give the class this id in the "
                "class list, or name the value with --void"
            )
    return np.array([table[v] for v in found.tolist()], np.int64)[inverse]


def _size_text(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px (width x height)"

"""Points drawn from masks that come as pairs of semantic and instance pictures."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from fdd.points.coco_panoptic import (
    PanopticImage,
    PanopticWriter,
    describe_segments,
    save_segment_ids,
)
from fdd.points.files import check_new_folder, new_folder
from fdd.points.image_files import ImageHeaderError, read_image_header
from fdd.points.mask_pairs import (
    MaskPair,
    find_mask_pairs,
    merge_pair,
    read_label_png,
    size_text,
)
from fdd.points.sampling import Progress, check_request, map_images, sample_segments
from fdd.points.structures import Category, PointDataset, PointImage, PointLabelError
from fdd.points.validation import validate_points

__all__ = ["sample_mask_pairs"]


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
        images, semantic, instance: folders, see :func:`fdd.points.mask_pairs.find_mask_pairs`.
        categories: of the ids in the semantic PNGs.
        k, strategy, seed, workers, progress: see :func:`fdd.points.sample_panoptic`.
        void: values of the semantic PNGs that stand for no class.
        write_panoptic: a new folder, for the masks in COCO's panoptic form: ``panoptic.json`` and
            the PNGs in ``panoptic/``. It appears once it is complete.

    Raises:
        FileNotFoundError, PointLabelError: a file is missing or unsound.
        FileExistsError: ``write_panoptic`` is there already.
    """
    check_request(k, strategy)
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
            draw=(k, strategy, seed),
            pngs=None if folder is None else folder / "panoptic",
        )
        done = list(map_images(job, pairs, workers, progress))
        if folder is not None:
            writer = PanopticWriter(categories)
            for image, made in done:
                size, png_name = (image.height, image.width), f"{image.image_id}.png"
                writer.add(image.image_id, image.file_name, size, png_name, made)
            writer.write(folder / "panoptic.json", end="\n")
    info = {
        "source": Path(semantic).name,
        "points_per_segment": int(k),
        "strategy": strategy,
        "seed": int(seed),
        "skipped_crowd": sum(s["iscrowd"] for _, made in done for s in made),
        "images_without_masks": without,
    }
    dataset = PointDataset(list(categories), [image for image, _ in done], info)
    validate_points(dataset, f"points drawn from {os.fspath(semantic)}")
    return dataset


def _sample_pair(
    pair: MaskPair,
    categories: list[Category],
    void: frozenset[int],
    draw: tuple[int, str, int],
    pngs: Path | None,
) -> tuple[PointImage, list[dict[str, Any]]]:
    """Points of one pair, and its ``segments_info``; writes its PNG if ``pngs`` is a folder."""
    semantic = read_label_png(pair.semantic)
    size = _upright_size(pair.image)
    if size != semantic.shape:
        raise PointLabelError(
            f"{pair.semantic}: {size_text(semantic.shape)}, but {pair.image} is {size_text(size)} "
            "(upright by EXIF). Masks and image must have one size"
        )
    instance = None if pair.instance is None else read_label_png(pair.instance)
    ids, segments = merge_pair(semantic, instance, categories, void, str(pair.semantic))
    numbers = tuple(zip(*segments, strict=True)) if segments else ((), (), ())
    image = PanopticImage(pair.image_id, pair.file_name, *size, f"{pair.image_id}.png", *numbers)
    points, _, _ = sample_segments(image, ids, str(pair.semantic), *draw)
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

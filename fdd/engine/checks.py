"""Checks before a model is built; each error names the key or file to fix."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from fdd.config import check_fdd_config
from fdd.data import get_metadata
from fdd.data.catalog import prepare_hint
from fdd.points import PointLabelError
from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.coco_panoptic import (
    DECODED,
    check_pngs,
    compare_images,
    read_panoptic_document,
)
from fdd.points.findings import Finding, raise_errors
from fdd.points.wording import counted

_PATH_FIELDS = ("image_root", "points_json", "panoptic_json", "panoptic_root")


class DatasetError(ValueError):
    """A data set that is not there, or does not fit the config."""


def resolve_device(cfg: CfgNode) -> str | None:
    """Turn ``MODEL.DEVICE`` cuda into cpu, in place, where there is no GPU.

    Returns:
        A warning for the log, or None.
    """
    if not str(cfg.MODEL.DEVICE).startswith("cuda") or torch.cuda.is_available():
        return None
    wanted, cfg.MODEL.DEVICE = cfg.MODEL.DEVICE, "cpu"
    return f"MODEL.DEVICE is {wanted}, but torch finds no GPU: using the CPU"


def runs_on_cpu(device: str) -> bool:
    """Whether a training with this ``MODEL.DEVICE`` has no GPU, see :func:`resolve_device`."""
    return not (str(device).startswith("cuda") and torch.cuda.is_available())


def check_training(cfg: CfgNode, world_size: int, *, masks: bool = True) -> None:
    """All checks that need no dataset dicts.

    Args:
        cfg: of the training.
        world_size: number of processes.
        masks: see :func:`check_testing`.

    Raises:
        ValueError: or its subclass :class:`DatasetError`, naming the key and what to do.
    """
    check_fdd_config(cfg)
    if not cfg.DATASETS.TRAIN:
        raise DatasetError("DATASETS.TRAIN is empty; name at least one training set")
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH < 1 or solver.IMS_PER_BATCH % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}; with {world_size} processes "
            f"(--num-gpus) it must be a positive multiple of {world_size}"
        )
    if solver.ACCUMULATE_STEPS < 1:
        raise ValueError(
            f"SOLVER.ACCUMULATE_STEPS is {solver.ACCUMULATE_STEPS}; must be at least 1"
        )
    # What has a checkpoint is resumed: it keeps the classes that it was begun with.
    trained = os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    for name in cfg.DATASETS.TRAIN:
        check_dataset(cfg, name, "DATASETS.TRAIN", trained=trained)
    # The run ends with an evaluation, whatever TEST.EVAL_PERIOD.
    check_testing(cfg, masks=masks, trained=trained)
    check_same_classes([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])


def check_testing(cfg: CfgNode, *, masks: bool = True, trained: bool = True) -> None:
    """Check that every set in ``DATASETS.TEST`` is there, fits the config and has masks.

    Args:
        cfg: names the sets.
        masks: look into the masks; not where that has been done a moment ago.
        trained: see :func:`check_dataset`.
    """
    check_fdd_config(cfg)
    for name in cfg.DATASETS.TEST:
        check_dataset(cfg, name, "DATASETS.TEST", trained=trained)
        if masks:
            check_ground_truth(name, "DATASETS.TEST")


def check_dataset(cfg: CfgNode, name: str, key: str, *, trained: bool = False) -> None:
    """Check that the set ``name``, given as ``key``, is registered, on disk and fits the config.

    Args:
        cfg: of a training or a model.
        name: of the set.
        key: the config's key, or the option, that names it.
        trained: the model is trained, so its classes are what they are.
    """
    registered = DatasetCatalog.list()
    if name not in registered:
        close = difflib.get_close_matches(name, registered, n=3)
        hint = f"Did you mean {', '.join(close)}? " if close else ""
        raise DatasetError(
            f"{key} names {name!r}, which is neither registered nor the path of a data set file "
            f"(.yaml). {hint}Describe your own sets in such a file, or register them with "
            "fdd.data.register_points or fdd.data.register_panoptic"
        )
    metadata = MetadataCatalog.get(name)
    for field in _PATH_FIELDS:
        path = metadata.get(field)
        if path and not os.path.exists(path):
            hint = prepare_hint(name, field) or "Prepare it as datasets/README.md says."
            raise DatasetError(f"{key} {name!r}: {field} {path} does not exist. {hint}")
    _check_class_counts(cfg, name, key, trained)


def _check_class_counts(cfg: CfgNode, name: str, key: str, trained: bool) -> None:
    metadata = get_metadata(name)
    kinds = (("NUM_THINGS", "num_things", "thing"), ("NUM_STUFF", "num_stuff", "stuff"))
    for kind, field, noun in kinds:
        wanted, found = cfg.MODEL.FDD[kind], metadata.get(field)
        if found is None:
            raise DatasetError(
                f"{key} {name!r} has no {field} in its metadata; "
                "register it with fdd.data.register_points or fdd.data.register_panoptic"
            )
        if wanted != found:
            fix = f"set MODEL.FDD.{kind} to {found}, or choose another set"
            if trained:
                fix = (
                    "a trained model keeps its classes: choose a set with those that it was "
                    "trained on (and the config of its training, if you name one), or train a new "
                    f"model, with MODEL.FDD.{kind} {found}, on this set"
                )
            raise DatasetError(
                f"MODEL.FDD.{kind} is {wanted}, but {name!r} ({key}) has "
                f"{counted(found, f'{noun} class', f'{noun} classes')}; {fix}"
            )


def check_same_classes(names: Sequence[str]) -> None:
    """Refuse sets whose classes have other names, kinds, ids or another order than those of the
    first set."""
    first = get_metadata(names[0]).categories
    for name in names[1:]:
        if differences := compare_classes(first, get_metadata(name).categories):
            raise DatasetError(
                f"{names[0]!r} and {name!r} do not have the same classes in the same order "
                f"({describe_differences(differences, 'the first', 'the second')}); use sets made "
                "from the same categories"
            )


def check_ground_truth(name: str, key: str) -> None:
    """Refuse, before the first iteration, masks that the first evaluation would refuse.

    The whole JSON is checked, that every PNG and image file is there, and that the images are those
    of the masks; 2,000 PNGs, spread evenly, are decoded (all of them in a set of at most so many),
    in threads and shared out to the processes: 12 seconds of one core for pictures of COCO's size.

    Args:
        name: a registered set.
        key: the config's key that names it.

    Raises:
        DatasetError: the set has no masks or invalid ones, in the words of ``fdd points check``;
            the same in every process.
    """
    metadata = MetadataCatalog.get(name)
    if not (metadata.get("panoptic_json") and metadata.get("panoptic_root")):
        raise DatasetError(
            f"{key} {name!r} has no masks (no panoptic_json and panoptic_root), so PQ cannot be "
            "measured on it; give the panoptic set of the same images"
        )
    where = f"{key} {name!r}: "
    try:
        document = read_panoptic_document(metadata.panoptic_json)
        _raise_invalid(where, document.source, document.problems)
        if not document.annotations:
            raise DatasetError(f"{where}{document.source} has no annotations; expected masks")
        # The model will be run on the images of the set: they must be those of the masks.
        loaded = [entry["image_id"] for entry in DatasetCatalog.get(name)]
        what = metadata.get("points_json") or f"the data set {name!r}"
        _raise_invalid(where, document.source, compare_images(loaded, document, what))
    except (PointLabelError, FileNotFoundError) as error:
        raise DatasetError(f"{where}{error}") from error
    # Each process looks at its share; all processes get all problems.
    rank, count = comm.get_rank(), comm.get_world_size()
    share, decode = list(document.annotations)[rank::count], max(1, DECODED // count)
    parts = comm.all_gather(
        check_pngs(document, metadata.panoptic_root, images=share, decode=decode)
    )
    problems = [problem for found, _ in parts for problem in found]
    decoded = sum(number for _, number in parts)
    _raise_invalid(where, document.source, problems)
    if decoded < len(document.annotations):
        logging.getLogger(__name__).info(
            "%sdecoded %d of %d masks to check them; `fdd points check --decode` looks at all",
            where,
            decoded,
            len(document.annotations),
        )


def _raise_invalid(where: str, source: str, problems: Iterable[Finding]) -> None:
    try:
        raise_errors(source, problems)
    except PointLabelError as error:
        raise DatasetError(
            f'{where}{error}\nCorrect the masks, or leave the set out (DATASETS.TEST "()"). For a '
            "data set file, `fdd points check` lists everything."
        ) from error


def check_instance_count(dicts: Iterable[dict[str, Any]], num_queries: int | None) -> None:
    """Refuse images with more labelled things than the panoptic branch has detection queries.

    Args:
        dicts: training dicts, of points or of masks.
        num_queries: see :func:`fdd.config.most_things`; None refuses nothing.
    """
    if num_queries is None:
        return
    most, worst = 0, None
    for dataset_dict in dicts:
        count = count_things(dataset_dict)
        if count > most:
            most, worst = count, dataset_dict
    if worst is not None and most > num_queries:
        raise DatasetError(
            f"image {worst.get('image_id')} ({worst.get('file_name')}) has {most} labelled things, "
            f"more than MODEL.FDD.PAN.NUM_QUERIES ({num_queries}); raise the key to {most} or "
            "more, or leave the image out"
        )


def count_things(dataset_dict: dict[str, Any]) -> int:
    """Number of labelled things in a training dict of points or of masks, crowds left out."""
    segments: Sequence[dict[str, Any]] = dataset_dict.get("points") or dataset_dict.get(
        "segments_info", ()
    )
    return sum(
        bool(s["isthing"] and s.get("coords", True) and not s.get("iscrowd", False))
        for s in segments
    )

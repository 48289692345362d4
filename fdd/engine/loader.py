"""Data loaders: an exactly resumable training stream, and one pass over a test set."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader

from fdd.data import FDDDatasetMapper, filter_training_dicts
from fdd.data.packed_batch import as_batch
from fdd.engine.checks import DatasetError, check_instance_count
from fdd.engine.sampler import SeededDataset, TrainingBatchSampler


def load_training_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """Load, filter and check the dataset dicts of ``DATASETS.TRAIN``.

    Returns:
        The images that are trained on, in a fixed order; at least one.

    Raises:
        ValueError: if no image is left, or a set or an image does not fit the config.
    """
    dicts: list[dict[str, Any]] = []
    full = cfg.MODEL.FDD.PAN_SUPERVISION == "full"
    for name in cfg.DATASETS.TRAIN:
        found = DatasetCatalog.get(name)
        if not found:
            raise DatasetError(f"DATASETS.TRAIN {name!r} holds no image; check its label file")
        if full and "segments_info" not in found[0]:
            raise DatasetError(
                f"MODEL.FDD.PAN_SUPERVISION is 'full', but DATASETS.TRAIN {name!r} is a point set; "
                "name the panoptic set of its images, or set the key to 'pseudo'"
            )
        if not full and "points" not in found[0]:
            raise DatasetError(
                f"DATASETS.TRAIN {name!r} has masks and no points; name a point set, or train on "
                "the masks with MODEL.FDD.PAN_SUPERVISION 'full'"
            )
        dicts += found
    points = cfg.INPUT.POINTS
    kept, report = filter_training_dicts(
        dicts, require_thing=points.REQUIRE_THING, min_side=points.MIN_IMAGE_SIDE
    )
    logging.getLogger(__name__).info(
        "Training on %d of %d images; left out: %s", len(kept), len(dicts), report.dropped or "none"
    )
    check_instance_count(kept, cfg.MODEL.FDD.PAN.NUM_QUERIES)
    return kept


def build_train_loader(
    cfg: CfgNode,
    start_iter: int = 0,
    *,
    dicts: list[dict[str, Any]] | None = None,
    mapper: Any = None,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Build the infinite loader of this process's micro-batches.

    Args:
        cfg: ``SOLVER.IMS_PER_BATCH`` is the size of one micro-batch over all processes.
        start_iter: optimiser steps to skip, each of ``SOLVER.ACCUMULATE_STEPS`` micro-batches.
        dicts: training images, by default :func:`load_training_dicts`.
        mapper: by default FDD's, which makes targets of points or of masks as the config says.
        seed: of the order and the augmentations, by default ``SEED``; must be the same on all
            processes.

    Returns:
        Yields lists of mapped dicts.
    """
    dicts = load_training_dicts(cfg) if dicts is None else dicts
    seed = cfg.SEED if seed is None else seed
    if seed < 0:
        raise ValueError(f"the training stream needs a seed >= 0, got {seed}")
    groups = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = [int(d["width"] > d["height"]) for d in dicts]
    sampler = TrainingBatchSampler(
        len(dicts),
        cfg.SOLVER.IMS_PER_BATCH,
        seed,
        groups=groups,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        start=start_iter * cfg.SOLVER.ACCUMULATE_STEPS,
    )
    # Serialised dicts are shared by the workers; a list of dicts would be copied into each of them
    # bit by bit, as reference counts change.
    shared = DatasetFromList(dicts, copy=True, serialize=True)
    mapper = FDDDatasetMapper(cfg, is_train=True) if mapper is None else mapper
    return DataLoader(
        SeededDataset(shared, mapper, seed),
        batch_sampler=sampler,
        # Else the loader draws from torch's global state.
        generator=torch.Generator().manual_seed(seed),
        **worker_options(cfg),
    )


def build_test_loader(
    cfg: CfgNode,
    dataset_name: str,
    *,
    with_points: bool = False,
    mapper: Any = None,
) -> Iterable[Any]:
    """Build the loader of one pass over a set, one image a batch, split over the processes.

    Args:
        cfg: config.
        dataset_name: a registered set.
        with_points: keep the points of a point set (to estimate labels from them). They are dropped
            otherwise, so that no prediction can depend on them.
        mapper: by default FDD's mapper without augmentation.
    """
    dicts = DatasetCatalog.get(dataset_name)
    if not dicts:
        raise DatasetError(
            f"{dataset_name!r} holds no image to evaluate; check its annotation file"
        )
    if with_points and "points" not in dicts[0]:
        raise DatasetError(
            f"{dataset_name!r} has no points (image {dicts[0].get('image_id')}), so no pseudo "
            "labels can be estimated on it; name a point set"
        )
    if not with_points:
        dicts = [{key: value for key, value in d.items() if key != "points"} for d in dicts]
    mapper = FDDDatasetMapper(cfg, is_train=False) if mapper is None else mapper
    dataset = MapDataset(DatasetFromList(dicts, copy=True, serialize=True), mapper)
    return DataLoader(
        dataset,
        batch_sampler=BatchSampler(InferenceSampler(len(dicts)), batch_size=1, drop_last=False),
        **worker_options(cfg),
    )


def worker_options(cfg: CfgNode) -> dict[str, Any]:
    """What both loaders have in common: how examples are made and travel.

    Batches are pinned where they go to a GPU: only from pinned memory does a copy run beside the
    computation, and the thread that pins also takes the batches in.
    """
    return {
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "collate_fn": as_batch,
        "worker_init_fn": _use_one_thread,
        "pin_memory": str(cfg.MODEL.DEVICE).startswith("cuda") and torch.cuda.is_available(),
    }


def _use_one_thread(_: int) -> None:
    """Keep OpenCV in a worker from starting threads beside those of the other workers.

    0 runs everything in the caller. 1 would first end the threads of the pool, which a forked
    worker has inherited without its threads, and wait for them for ever. PyTorch sees to its own.
    """
    cv2.setNumThreads(0)

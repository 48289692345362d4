"""Data loaders: an exactly resumable training stream, and one pass over a test set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from fdd.config import most_things
from fdd.data import FDDDatasetMapper, filter_training_dicts
from fdd.data.packed_batch import as_batch
from fdd.engine.checks import DatasetError, check_instance_count

SampleKey = tuple[int, int]
"""(epoch, image index): names one visit of one image, and so seeds its augmentations."""


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of the augmentations of one visit of one image: a non-negative 63-bit integer."""
    state = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


class TrainingBatchSampler(Sampler[list[SampleKey]]):
    """An infinite stream of this process's batches, which holds no state.

    Every epoch is one permutation of all images and the epochs follow each other without a gap, so
    that a batch may hold the last images of one and the first of the next. Batch ``n`` holds the
    images at positions ``n * batch_size`` to ``(n + 1) * batch_size - 1``; process ``r`` of
    ``world_size`` takes the ``r``-th slice of it. Two processes thus see the two halves of what one
    process sees, and two accumulated batches of B images are one batch of 2 B images.

    With ``groups``, a batch only holds images of one group (landscape or portrait). Images wait
    until their group fills a batch; those left when an epoch ends wait on in the next.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        *,
        groups: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        """
        Args:
            num_images: size of the training set, at least 1.
            batch_size: images in one batch over all processes; must divide by ``world_size``.
            seed: non-negative.
            groups: group of every image, or None for batches of any shape.
            rank: this process.
            world_size: number of processes.
            start: number of batches to skip. Nothing is loaded for them.
        """
        if num_images < 1:
            raise ValueError(f"a training stream needs at least one image, got {num_images}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch of {batch_size} images cannot be split over {world_size} processes; "
                "set SOLVER.IMS_PER_BATCH to a positive multiple of the number of processes"
            )
        if seed < 0 or start < 0:
            raise ValueError(f"seed and start must be >= 0, got seed {seed} and start {start}")
        if groups is not None and len(groups) != num_images:
            raise ValueError(f"{len(groups)} groups were given for {num_images} images")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.groups = None if groups is None else np.asarray(groups)
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        share = self.batch_size // self.world_size
        batches = self._ordered() if self.groups is None else self._grouped()
        for batch in batches:
            yield batch[self.rank * share : (self.rank + 1) * share]

    def _visits(self, epoch: int, offset: int = 0) -> Iterator[SampleKey]:
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
            for index in order[offset:].tolist():
                yield epoch, index
            epoch, offset = epoch + 1, 0

    def _ordered(self) -> Iterator[list[SampleKey]]:
        visits = self._visits(*divmod(self.start * self.batch_size, self.num_images))
        while True:
            yield [next(visits) for _ in range(self.batch_size)]

    def _grouped(self) -> Iterator[list[SampleKey]]:
        # What waits in a group depends on everything before, so the skipped batches are counted
        # through: about a second for a whole COCO schedule.
        assert self.groups is not None
        groups = self.groups.tolist()
        waiting: dict[int, list[SampleKey]] = {group: [] for group in set(groups)}
        done = 0
        for visit in self._visits(0):
            bucket = waiting[groups[visit[1]]]
            bucket.append(visit)
            if len(bucket) == self.batch_size:
                if done >= self.start:
                    yield bucket[:]
                bucket.clear()
                done += 1


class SeededDataset(Dataset[dict[str, Any]]):
    """Maps an (epoch, index) key to a training sample whose augmentations depend on it alone."""

    def __init__(self, dicts: Any, mapper: Any, seed: int) -> None:
        """
        Args:
            dicts: dataset dicts by index; each access must return a dict that may be changed.
            mapper: called with the dict, to which the key ``_seed`` was added.
            seed: of the run.
        """
        self._dicts = dicts
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        epoch, index = key
        dataset_dict = dict(self._dicts[index])
        dataset_dict["_seed"] = sample_seed(self._seed, epoch, index)
        return self._mapper(dataset_dict)


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
    check_instance_count(kept, most_things(cfg))
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

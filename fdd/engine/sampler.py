"""The order of the training images: a function of seed and position, so that a run can be cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

SampleKey = tuple[int, int]
"""(epoch, image index): names one visit of one image, and so seeds its augmentations."""


def epoch_permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """Order of the images in one epoch: int64 (num_images,), the same on every process."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)


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
            for index in epoch_permutation(self.seed, epoch, self.num_images)[offset:].tolist():
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

"""What evaluators that compare maps with masks share: threads, processes, each image once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from fdd.evaluation.ground_truth import ImageId, PanopticGroundTruth

# Below this many images the work is done at once: little is gained, and errors come sooner.
PARALLEL_FROM = 100


class OrderedWorkers:
    """Runs jobs in a few threads and hands their results on in the order of submission.

    Threads, not processes: decoding a PNG and counting in numpy release the interpreter lock, and a
    fork after CUDA has started is not safe. The order makes sums of floats repeatable. At most two
    jobs per thread wait at a time, so memory does not grow with the data set.

    Args:
        consume: called in the caller's thread with each result.
        num_workers: threads; 0 does every job at once, within :meth:`submit`.
        num_jobs: jobs expected; few jobs are done at once, without threads.

    Raises:
        ValueError: ``num_workers`` is negative.
    """

    def __init__(self, consume: Callable[[Any], None], num_workers: int, num_jobs: int) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}; expected 0 or more")
        self._consume = consume
        self._size = min(num_workers, os.cpu_count() or 1) if num_jobs >= PARALLEL_FROM else 0
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[Any]] = deque()

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Queues a job. An error of a job is raised here or in :meth:`drain`, never lost."""
        if self._size == 0:
            self._consume(function(*args))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="fdd-evaluation")
        self._waiting.append(self._pool.submit(function, *args))
        while len(self._waiting) > 2 * self._size:
            self._consume(self._waiting.popleft().result())

    def drain(self) -> None:
        """Waits for every job and consumes its result."""
        while self._waiting:
            self._consume(self._waiting.popleft().result())

    def close(self) -> None:
        """Forgets waiting jobs and ends the threads. Harmless when repeated."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def gather_parts(part: Any, error: Exception | None) -> list[Any] | None:
    """Sends every process's part to the main process; to be called by all of them.

    Args:
        part: this process's results, anything that can be pickled.
        error: what went wrong here, if anything. The others are told before it is raised, or they
            would wait for this process for ever.

    Returns:
        The parts by rank on the main process, None elsewhere.

    Raises:
        Exception: ``error`` itself; on the main process a RuntimeError for another's.
    """
    message = None if error is None else f"{type(error).__name__}: {error}"
    gathered = comm.gather((part, message))
    if error is not None:
        raise error
    if not comm.is_main_process():
        return None
    for rank, (_, failure) in enumerate(gathered):
        if failure is not None:
            raise RuntimeError(f"Evaluation failed in process {rank}: {failure}")
    return [one for one, _ in gathered]


class MaskEvaluator(DatasetEvaluator):
    """Scores one image at a time against masks.

    A subclass has ``_process_one(image_id, output)``, which submits a job to ``_workers``, and
    ``_consume(result)``, which adds what the job returns.

    Args:
        truth: the masks.
        num_workers: threads for large sets; 0 for none.
    """

    def __init__(self, truth: PanopticGroundTruth, num_workers: int) -> None:
        self._truth = truth
        self._workers = OrderedWorkers(
            self._consume, num_workers, len(truth) // comm.get_world_size()
        )
        self.reset()

    @property
    def ground_truth(self) -> PanopticGroundTruth:
        """The masks that maps are compared with."""
        return self._truth

    def reset(self) -> None:
        """Forgets everything processed so far."""
        self._clean_up()
        self._seen: set[ImageId] = set()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        """Scores a batch.

        Args:
            inputs: dicts with ``image_id`` as in the ground truth.
            outputs: dicts, see the class.

        Raises:
            ValueError: an image that the ground truth does not have or that came before, or maps
                that do not fit.
        """
        try:
            for one_input, output in zip(inputs, outputs, strict=True):
                self._process_one(one_input["image_id"], output)
        except BaseException:
            # The caller may never come to evaluate(): leave neither threads nor files.
            self._clean_up()
            raise

    def _process_one(self, image_id: ImageId, output: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _consume(self, result: Any) -> None:
        raise NotImplementedError

    def _clean_up(self) -> None:
        self._workers.close()

    def _refuse_unknown(self, image_id: ImageId, where: str) -> None:
        """Refuse images before anything of them is counted."""
        self._truth[image_id]
        if image_id in self._seen:
            raise ValueError(f"{where}: a second time, expected once (forgot reset()?)")

    def _gather(self, part: Any) -> list[Any] | None:
        """Waits for the threads, then see :func:`gather_parts`."""
        error: Exception | None = None
        try:
            self._workers.drain()
        except Exception as caught:  # told to the others first, or they would wait for ever
            error = caught
        return gather_parts(part, error)

"""Label scores of the images of a session, made in the background while nobody waits."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from fdd.annotate.start import OpenedDataset
from fdd.annotate.store import Segment

__all__ = ["LabelScores"]

logger = logging.getLogger(__name__)

_NICE = 15
_LOOK = 0.5  # seconds between looks for something to do


class LabelScores:
    """Scores of all images with points, in percent: of those first that have none yet, then of
    those whose points or model have changed. Nothing is computed within ``quiet`` seconds of
    :meth:`disturb`, which whoever wants an answer calls."""

    def __init__(
        self,
        opened: OpenedDataset,
        score: Callable[[int, tuple[Segment, ...]], float],
        version: Callable[[], int],
        *,
        quiet: float = 3.0,
    ) -> None:
        """
        Args:
            opened: the data set.
            score: of an image (by its place) with some segments, in percent, or nan.
            version: changes with the model in use; 0 without one.
            quiet: seconds.
        """
        self._store, self._make, self._version, self._quiet = opened.store, score, version, quiet
        self._found: dict[int, tuple[int, int, float]] = {}  # image: version, revision, score
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scores", daemon=True)
        self._thread.start()

    def disturb(self) -> None:
        """Somebody waits for something else."""
        self._last = time.monotonic()

    def record(self) -> dict[str, float]:
        """Score by image (its number, as text), of the model in use, for JSON; 0 to 100."""
        version = self._version()
        return {
            str(index): round(score, 1)
            for index, (made_by, _, score) in list(self._found.items())
            if made_by == version and not math.isnan(score)
        }

    def close(self) -> None:
        """Begin nothing more; what is being computed is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        # On Linux a thread has a priority of its own, and what it starts has it, too.
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self._ended.wait(_LOOK):
            if self._version() and time.monotonic() - self._last > self._quiet:
                index = self._next()
                if index is not None:
                    self._score(index)

    def _next(self) -> int | None:
        version, stale = self._version(), None
        for index, points in enumerate(self._store.num_points()):
            if not points:
                self._found.pop(index, None)
                continue
            known = self._found.get(index)
            if known is None or known[0] != version:
                return index
            if stale is None and known[1] != self._store.state(index).revision:
                stale = index
        return stale

    def _score(self, index: int) -> None:
        version, state = self._version(), self._store.state(index)
        score = math.nan
        try:
            score = self._make(index, state.segments)
        except Exception as error:  # whoever opens the image is told; it is not tried again
            logger.debug("no score for image %d: %s", index, error)
        self._found[index] = version, state.revision, score

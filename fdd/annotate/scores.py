"""Label scores and gains of the images of a session, made in the background while nobody waits."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from fdd.annotate.actions import Content
from fdd.annotate.live import ImageFigures
from fdd.annotate.start import OpenedDataset

__all__ = ["LabelScores"]

logger = logging.getLogger(__name__)

_NICE = 15
_LOOK = 0.5  # seconds between looks for something to do
_LONGEST_STAGE = 30.0  # seconds
_NONE = ImageFigures(math.nan, math.nan)

#: Figures of an image (by its place) with some segments; calls the last between its stages.
MakeFigures = Callable[[int, Content, Callable[[], None]], ImageFigures]


class _Outdated(Exception):
    """What is being computed is of no use any more."""


@dataclass(frozen=True)
class _Made:
    version: int
    revision: int
    figures: ImageFigures


class LabelScores:
    """Figures of all images with points: of those first that have none yet, then of those whose
    points or model have changed. One image is looked at a time, and nothing is computed within
    ``quiet`` seconds of :meth:`disturb`, which whoever wants an answer calls; what has begun waits
    after its current stage."""

    def __init__(
        self,
        opened: OpenedDataset,
        make: MakeFigures,
        version: Callable[[], int],
        *,
        quiet: float = 3.0,
    ) -> None:
        """
        Args:
            opened: the data set.
            make: figures of an image.
            version: changes with the model in use; 0 without one.
            quiet: seconds.
        """
        self._store, self._make, self._version, self._quiet = opened.store, make, version, quiet
        self._found: dict[int, _Made] = {}
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scores", daemon=True)
        self._thread.start()

    def disturb(self) -> None:
        """Somebody waits for something else."""
        self._last = time.monotonic()

    def record(self) -> dict[str, dict[str, float | None]]:
        """For JSON, of the model in use: ``scores``, in percent, and ``gains``, each by image (its
        number, as text); None where the image could not be examined."""
        version, scores, gains = self._version(), {}, {}
        for index, made in list(self._found.items()):
            if made.version == version:
                scores[str(index)] = _number(made.figures.score, ".1f")
                gains[str(index)] = _number(made.figures.gain, ".4g")
        return {"scores": scores, "gains": gains}

    def close(self) -> None:
        """Begin nothing more, and wait for the current stage: a thread that computes when Python
        ends would take it down."""
        self._ended.set()
        self._thread.join(_LONGEST_STAGE)

    def _run(self) -> None:
        # On Linux a thread has a priority of its own, and what it starts has it, too.
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self._ended.wait(_LOOK):
            if self._version() and self._left() <= 0:
                index = self._next()
                if index is not None:
                    self._examine(index)

    def _left(self) -> float:
        """Seconds until it is quiet."""
        return self._last + self._quiet - time.monotonic()

    def _next(self) -> int | None:
        version, stale = self._version(), None
        for index, points in enumerate(self._store.num_points()):
            if not points:
                self._found.pop(index, None)
                continue
            known = self._found.get(index)
            if known is None or known.version != version:
                return index
            if stale is None and known.revision != self._store.state(index).revision:
                stale = index
        return stale

    def _examine(self, index: int) -> None:
        version, state = self._version(), self._store.state(index)

        def between() -> None:
            while (left := self._left()) > 0 and not self._ended.wait(left):
                pass
            now = self._store.state(index).revision
            if self._ended.is_set() or (version, state.revision) != (self._version(), now):
                raise _Outdated

        figures = _NONE
        try:
            figures = self._make(index, state.content, between)
        except _Outdated:
            return
        except Exception as error:  # whoever opens the image is told; it is not tried again
            logger.debug("no score for image %d: %s", index, error)
        self._found[index] = _Made(version, state.revision, figures)


def _number(value: float, digits: str) -> float | None:
    return None if math.isnan(value) else float(f"{value:{digits}}")

"""What trainings of earlier sessions have left in the work folder of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PastTraining", "find_trainings", "last_cut_off"]

_NAME = re.compile(r"training_([0-9]+)")


@dataclass(frozen=True)
class PastTraining:
    """A training.

    Attributes:
        folder: its own, in which ``run`` is the ``OUTPUT_DIR``.
        done: it has come to its end; if not, it can go on from a checkpoint.
    """

    folder: Path
    done: bool

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def config(self) -> Path:
        """All that it was begun with, as the training itself has written it."""
        return self.run / "config.yaml"


def find_trainings(work: Path) -> list[PastTraining]:
    """Those that have weights, in the order of their numbers.

    Args:
        work: :attr:`fdd.annotate.start.OpenedDataset.work`; need not exist.
    """
    numbered = []
    for folder in work.glob("training_*"):
        match = _NAME.fullmatch(folder.name)
        if match is None:
            continue
        done = (folder / "run" / "model_final.pth").is_file()
        if done or (folder / "run" / "last_checkpoint").is_file():
            numbered.append((int(match[1]), PastTraining(folder, done)))
    return [training for _, training in sorted(numbered, key=lambda pair: pair[0])]


def last_cut_off(trainings: Sequence[PastTraining]) -> PastTraining | None:
    """The last training, if it was ended before it was done."""
    return trainings[-1] if trainings and not trainings[-1].done else None

"""What a training that is done says: what came out of it, and the commands that come next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from detectron2.utils.events import HistoryBuffer

from fdd.engine.run_folder import FINAL, describe_weights
from fdd.engine.step import unwrap
from fdd.engine.training_time import describe_duration

__all__ = ["describe_end"]

# Of the names of the data sets that come with the package.
_BUILTIN = "fdd_"
# Measurements that a scalar of the labels is averaged over: one batch has few left-out points.
_WINDOW = 20


def describe_end(trainer: Any, seconds: float) -> str:
    """The last words of a training, some lines long.

    Args:
        trainer: a :class:`fdd.engine.trainer.Trainer` whose training is done, on the main process.
        seconds: that the iterations of this process took.
    """
    folder = Path(trainer.cfg.OUTPUT_DIR)
    count = trainer.max_iter - trainer.start_iter
    resumed = f" ({count:,} of them since it was resumed)" if trainer.start_iter else ""
    lines = [
        f"Training is done: {trainer.max_iter:,} iterations{resumed}, {describe_duration(seconds)}"
    ]
    if (folder / FINAL).is_file():
        lines.append(describe_weights(folder / FINAL))
    lines += _labels(trainer.storage.histories())
    if not trainer.cfg.DATASETS.TEST:
        lines.append(
            "Nothing was evaluated: DATASETS.TEST names no masks to measure panoptic quality (PQ) "
            "on"
        )
    return "\n".join([*lines, "Next:", *(f"  {line}" for line in _next(trainer, folder))])


def _labels(histories: dict[str, HistoryBuffer]) -> list[str]:
    """How the learned labels stand beside the nearest point's, lately; nothing where no point could
    be left out."""
    names = ("labels/left_out", "labels/left_out_nearest")
    if not all(name in histories for name in names):
        return []
    learned, nearest = (100 * histories[name].avg(_WINDOW) for name in names)
    return [
        f"Labels in the last batches: {learned:.0f} % of the points left out in turn lay on their "
        f"segment's label, and {nearest:.0f} % had their nearest point in their segment. That is "
        "of few points and ranks no label makers: `fdd report` looks at all images, and measures "
        "PQ where there are masks"
    ]


def _next(trainer: Any, folder: Path) -> list[str]:
    """Command lines, each with what it is for."""
    model = f"--model {_shown(folder)}"
    lines = []
    makes_labels = hasattr(unwrap(trainer.model), "estimate_labels")
    name = trainer.cfg.DATASETS.TRAIN[0]
    if makes_labels and trainer.has_points and _is_known_to_all(name):
        data = f"{model} --dataset {_shown(name)}"
        lines += [
            f"fdd report {data} --output report.html  # labels and predictions, worst first",
            f"fdd labels export {data} --output labels  # dense labels as a data set",
        ]
    return [*lines, f"fdd predict {model} IMAGES --output results  # segment new images"]


def _is_known_to_all(name: str) -> bool:
    """Whether other programs know a data set by its name: a file's, or a built-in one's. What a
    script registers is known to the script."""
    return Path(name.partition("#")[0]).is_file() or name.startswith(_BUILTIN)


def _shown(path: str | os.PathLike[str]) -> str:
    """A path or a data set's name for the shell, from the working folder if it lies below."""
    text, here = os.fspath(path), os.getcwd()
    if os.path.isabs(text) and os.path.commonpath([text, here]) == here:
        text = os.path.relpath(text, here)
    return shlex.quote(text)

"""The folder of a run: which files in it are a training's, and what became of them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from .training_record import CLASSES_FILE, CONFIG_FILE, read_content

__all__ = [
    "BEST",
    "EARLIER",
    "FINAL",
    "LAST",
    "Validation",
    "describe_weights",
    "move_aside",
    "read_validation",
    "refuse_used_folder",
    "used_files",
]

#: Name of the file that names the checkpoint which a resume starts from.
LAST = "last_checkpoint"
FINAL, BEST = "model_final.pth", "model_best.pth"
#: What sub-folders begin with that :func:`move_aside` makes; a number follows.
EARLIER = "earlier_"

_RESULTS = ("results", "eval_results", "pseudo_label_results", "label_quality_results")
_METRICS = "metrics.json"
_CHECKPOINT = re.compile(r"model_(\d+|final|best)\.pth")
# Logs stay: they only grow, and the process that moves the others is writing to them.
_OF_RUN = re.compile(
    rf"{_CHECKPOINT.pattern}|model_best\.json|{LAST}|{re.escape(_METRICS)}|"
    rf"{re.escape(CONFIG_FILE)}|{re.escape(CLASSES_FILE)}|({'|'.join(_RESULTS)})\.json|"
    r"events\.out\.tfevents\..+|inference"
)


def used_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files with which a training was begun, or done, in ``folder``: checkpoints and
    metrics. None where a new training replaces and mixes nothing."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted(
            e.name
            for e in entries
            if e.is_file()
            and (
                e.name == LAST
                or _CHECKPOINT.fullmatch(e.name)
                or (e.name == _METRICS and e.stat().st_size)
            )
        )


def refuse_used_folder(folder: str | os.PathLike[str], *, resume: bool = False) -> None:
    """Refuse to begin a training where there is one already; to be called by every process.

    Args:
        resume: the training would have resumed; then a folder is in use only if it has a checkpoint
            (other than the best one so far) that ``last_checkpoint`` fails to name. A run that was
            cut before its first checkpoint begins anew.

    Raises:
        FileExistsError: on every process; names what is there and what to do.
    """
    found = used_files(folder)
    if resume:
        found = [name for name in found if name not in (BEST, _METRICS)]
    # All look before any of them writes, and none waits for one that was refused.
    found = next(filter(None, comm.all_gather(found)), [])
    if not found:
        return
    where = os.fspath(folder)
    how = (
        f"write the name of one into {os.path.join(where, LAST)} to go on from it"
        if resume
        else "go on with it (--resume)"
    )
    raise FileExistsError(
        f"OUTPUT_DIR {where} holds a training already ({_some(found)}), which a new one would "
        f"replace: {how}, choose another OUTPUT_DIR, or move its files into a sub-folder and "
        "begin anew (--overwrite)"
    )


def move_aside(folder: str | os.PathLike[str]) -> Path | None:
    """Move the files of a run into a new sub-folder ``earlier_001``, ``earlier_002``, ...

    That is the folder of a run, too: every command takes it. Logs and files of others stay.

    Returns:
        The sub-folder, or None where there is nothing to move.
    """
    folder = Path(folder)
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in names if _OF_RUN.fullmatch(name)]
    if not found:
        return None
    number = max([0, *(int(n[len(EARLIER) :]) for n in names if re.fullmatch(EARLIER + r"\d+", n))])
    target = folder / f"{EARLIER}{number + 1:03d}"
    target.mkdir()
    for name in found:
        os.rename(folder / name, target / name)
    logging.getLogger(__name__).warning(
        "%s: moved %d files of an earlier run into %s", folder, len(found), target
    )
    return target


@dataclass(frozen=True)
class Validation:
    """A figure that a checkpoint reached on the validation set.

    Attributes:
        metric: its name in the log, such as ``panoptic_seg/PQ``.
        value: more is better.
        iterations: that the checkpoint had seen.
    """

    metric: str
    value: float
    iterations: int

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.1f} after {self.iterations:,} iterations"


def read_validation(checkpoint: str | os.PathLike[str]) -> Validation | None:
    """What a run's validation said of one of its checkpoints; None where it was not measured.

    It stands in ``model_best.json`` and ``results.json`` beside the checkpoint.
    """
    path = Path(checkpoint)
    iteration = read_content(path).get("iteration")
    if not isinstance(iteration, int):
        return None
    best = _read_json(path.with_name("model_best.json"))
    metric = best.get("metric", "panoptic_seg/PQ")
    value = best.get("best_value") if best.get("best_iteration") == iteration else None
    if value is None:
        last = _read_json(path.with_name("results.json"))
        if last.get("iteration") == iteration:
            value = _look_up(last.get("results"), metric)
    if not isinstance(value, (int, float)):
        return None
    return Validation(metric, float(value), iteration + 1)


def describe_weights(checkpoint: str | os.PathLike[str]) -> str:
    """Which file is used and its validation figure, in a line; and the best one where that is
    another and better."""
    path = Path(checkpoint)
    own, best = read_validation(path), None
    if path.name != BEST and (path.parent / BEST).is_file():
        best = read_validation(path.parent / BEST)
    text = f"Weights: {path} ({f'validation {own}' if own else 'no validation figure known'}"
    if best is not None and (own is None or own.value < best.value):
        text += f"; {BEST}: {best}"
    return f"{text})"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):  # nothing depends on it but a line of text
        return {}
    return content if isinstance(content, dict) else {}


def _look_up(results: Any, metric: str) -> Any:
    """The entry ``a/b/c`` of nested results; names of data sets may contain slashes, too."""
    if not metric:
        return results
    if not isinstance(results, Mapping):
        return None
    for key, below in results.items():
        if metric == key or metric.startswith(f"{key}/"):
            return _look_up(below, metric[len(key) + 1 :])
    return None


def _some(names: list[str], most: int = 4) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

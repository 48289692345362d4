"""The folder of a run: which files in it are a training's, which checkpoint is meant, and the lock
that keeps a second training out.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils import comm

from fdd.engine.training_record import CLASSES_FILE, CONFIG_FILE, read_content
from fdd.points.file_lock import FileHeldError, FileLock, lock_holder
from fdd.points.wording import listed

__all__ = [
    "BEST",
    "EARLIER",
    "FINAL",
    "LAST",
    "LOCK",
    "WEIGHTS",
    "Validation",
    "describe_holder",
    "describe_weights",
    "files_of_run",
    "find_checkpoint",
    "hold_folder",
    "move_aside",
    "move_files_aside",
    "read_validation",
    "refuse_foreign_files",
    "refuse_held_folder",
    "refuse_used_folder",
    "used_files",
]

#: Name of the file that names the checkpoint which a resume starts from.
LAST = "last_checkpoint"
FINAL, BEST = "model_final.pth", "model_best.pth"
#: What can be taken of a run, see :func:`find_checkpoint`.
WEIGHTS = ("best", "final")
#: What sub-folders begin with that :func:`move_aside` makes; a number follows.
EARLIER = "earlier_"

_METRICS, _BEST_FIGURE = "metrics.json", "model_best.json"
_RESULTS = tuple(
    f"{name}.json"
    for name in ("results", "eval_results", "pseudo_label_results", "label_quality_results")
)
_CHECKPOINT = re.compile(r"model_(\d+|final|best)\.pth")
# Names that only a run uses. Logs stay: they are appended to, also by the process that moves the
# other files.
_OF_RUN = re.compile(
    rf"{_CHECKPOINT.pattern}|{LAST}|{re.escape(_METRICS)}|{re.escape(_BEST_FIGURE)}|"
    r"events\.out\.tfevents\..+|inference"
)
# Names that others use, too: the content decides.
_MAYBE_OF_RUN = (CONFIG_FILE, CLASSES_FILE, *_RESULTS)
# A run's config.yaml has every key; a config written by hand has some.
_DUMPED = {"CUDNN_BENCHMARK", "DATALOADER", "DATASETS", "GLOBAL", "INPUT", "MODEL"}
_DUMPED |= {"OUTPUT_DIR", "SEED", "SOLVER", "TEST", "VERSION", "VIS_PERIOD"}


def find_checkpoint(
    model: str | os.PathLike[str], weights: str | None = None, *, default: str = "final"
) -> Path:
    """The checkpoint that a path stands for.

    Args:
        model: a checkpoint, or the folder of a run.
        weights: of a run, ``"best"``, the weights of the best validation, or ``"final"``, those of
            the last checkpoint. Not for a file.
        default: where ``weights`` is None; ``"best"`` is then the last checkpoint of a run without
            validation.

    Raises:
        FileNotFoundError: it is neither a file nor the folder of a run with such a checkpoint.
        ValueError: ``weights`` is something else, or is given with a file.
    """
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"weights {weights!r}; expected one of {', '.join(WEIGHTS)}")
    if "://" in os.fspath(model):  # of which a path would make another text
        raise FileNotFoundError(
            f"{os.fspath(model)}: an address, not a file or folder. Name the OUTPUT_DIR of a "
            "training, or one of its .pth files. Weights at an address, such as ImageNet's, are "
            "what a training starts from (MODEL.WEIGHTS)"
        )
    path = Path(os.path.expanduser(model))
    if path.is_file():
        if weights is not None:
            raise ValueError(
                f"{path} is a checkpoint, so there is nothing for --weights to choose: leave it "
                f"out, or name the folder {path.parent}"
            )
        return path
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such checkpoint or folder. Name the OUTPUT_DIR of a training, or one of "
            "its .pth files"
        )
    if (weights or default) == "best":
        if (path / BEST).is_file():
            return path / BEST
        if weights == "best":
            raise FileNotFoundError(
                f"{path}: no {BEST} in this folder; training writes it where DATASETS.TEST names a "
                "validation set. Take the last checkpoint with --weights final"
            )
    last = path / LAST
    if last.is_file() and (found := path / last.read_text(encoding="utf-8").strip()).is_file():
        return found
    if (path / FINAL).is_file():
        return path / FINAL
    raise FileNotFoundError(
        f"{path}: no checkpoint in this folder (no {LAST}, no {FINAL}). Name the "
        "OUTPUT_DIR of a training that has saved one"
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
            cut before its first checkpoint starts over.

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
        f"write the name of one into {os.path.join(where, LAST)} to resume from it"
        if resume
        else "resume it (--resume)"
    )
    raise FileExistsError(
        f"OUTPUT_DIR {where} holds a training already ({listed(found, 4)}), which a new one would "
        f"replace: {how}, choose another OUTPUT_DIR, or move its files into a sub-folder and "
        "start over (--overwrite)"
    )


def refuse_foreign_files(folder: str | os.PathLike[str]) -> None:
    """Refuse to begin a training where it would replace files that no training wrote, such as a
    ``config.yaml`` of the user's own; to be called by every process.

    Raises:
        FileExistsError: on every process; names the files and what to do.
    """
    of_run = set(files_of_run(folder))
    found = [n for n in _MAYBE_OF_RUN if n not in of_run and os.path.lexists(Path(folder, n))]
    found = next(filter(None, comm.all_gather(found)), [])
    if found:
        raise FileExistsError(
            f"OUTPUT_DIR {os.fspath(folder)} holds {listed(found, 4)} that no training wrote, and "
            "a training writes files of such names: choose another OUTPUT_DIR (a folder below it "
            "will do), or rename yours"
        )


def files_of_run(folder: str | os.PathLike[str]) -> list[str]:
    """Names of what trainings and evaluations wrote into ``folder``, logs left out.

    Files of others are not among them, though they may have such a name: a ``config.yaml`` counts
    where it has every key, as a run's has, a ``classes.json`` beside such a config or beside
    checkpoints, results where they have the form of results; and TensorBoard's files and
    ``inference`` where anything else is a run's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    try:
        content = yaml.safe_load((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    config = isinstance(content, dict) and set(content) >= _DUMPED
    used = bool(used_files(folder))
    found = [n for n in _RESULTS if {"iteration", "results"} == set(_read_json(folder / n))]
    if config or used or found:
        found += [p.name for p in folder.iterdir() if _OF_RUN.fullmatch(p.name)]
    if config:
        found.append(CONFIG_FILE)
    if (config or used) and (folder / CLASSES_FILE).is_file():
        found.append(CLASSES_FILE)
    return sorted(found)


def move_aside(folder: str | os.PathLike[str]) -> Path | None:
    """Move the files of a run into a new sub-folder ``earlier_001``, ``earlier_002``, ...

    That is the folder of a run, too: every command takes it. Logs and files of others stay, see
    :func:`files_of_run`.

    Returns:
        The sub-folder, or None where there is nothing to move.
    """
    folder = Path(folder)
    found = files_of_run(folder)
    return move_files_aside(folder, found) if found else None


def move_files_aside(folder: Path, names: Sequence[str]) -> Path:
    """Move some files of an earlier run into a new sub-folder, as :func:`move_aside` names it."""
    there = [p.name for p in folder.iterdir()]
    number = max([0, *(int(n[len(EARLIER) :]) for n in there if re.fullmatch(EARLIER + r"\d+", n))])
    target = folder / f"{EARLIER}{number + 1:03d}"
    target.mkdir()
    for name in names:
        os.rename(folder / name, target / name)
    logging.getLogger(__name__).warning(
        "%s: moved %d files of an earlier run into %s", folder, len(names), target
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
    """The validation figure of one of a run's checkpoints; None where it was not measured.

    Read from ``model_best.json`` and ``results.json`` beside the checkpoint.
    """
    path = Path(checkpoint)
    iteration = read_content(path).get("iteration")
    if not isinstance(iteration, int):
        return None
    best = _read_json(path.with_name(_BEST_FIGURE))
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


#: In the folder of a run as long as it is trained, see :mod:`fdd.points.file_lock`.
LOCK = "training.lock"


def describe_holder(folder: str | os.PathLike[str]) -> str:
    """Which training is running in ``folder``, and what to do; empty where none is."""
    who = lock_holder(Path(folder, LOCK))
    return _describe(folder, who) if who else ""


def _describe(folder: str | os.PathLike[str], who: str) -> str:
    return (
        f"OUTPUT_DIR {Path(folder)}: a training is running in it ({who}): wait for its end, stop "
        "it, or choose another OUTPUT_DIR"
    )


def refuse_held_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which a training is running; to be called by every process.

    Raises:
        FileExistsError: on every process; names the training, and says what to do.
    """
    found = comm.all_gather(describe_holder(folder))
    if held := next(filter(None, found), ""):
        raise FileExistsError(held)


@contextmanager
def hold_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other trainings out of ``folder``, which is made; to be called by every process.

    On a file system without locks, no training is kept out.

    Raises:
        FileExistsError: on every process; one is running there.
        OSError: on every process; the folder cannot be written to.
    """
    path = Path(folder or ".", LOCK)
    error: OSError | None = None
    lock: FileLock | None = None
    if comm.is_main_process():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
        except FileHeldError as held:
            error = FileExistsError(_describe(path.parent, held.who))
        except OSError as problem:
            error = problem
    first = next((e for e in comm.all_gather(error) if e is not None), None)
    try:
        if first is not None:
            raise first
        yield
    finally:
        if lock is not None:
            lock.release()

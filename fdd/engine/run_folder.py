"""The folder of a run: which files in it are a training's, and what became of them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils import comm

from fdd.engine.training_record import CLASSES_FILE, CONFIG_FILE, read_content
from fdd.points.wording import listed

__all__ = [
    "BEST",
    "EARLIER",
    "FINAL",
    "LAST",
    "Validation",
    "describe_weights",
    "files_of_run",
    "move_aside",
    "move_files_aside",
    "read_validation",
    "refuse_foreign_files",
    "refuse_used_folder",
    "used_files",
]

#: Name of the file that names the checkpoint which a resume starts from.
LAST = "last_checkpoint"
FINAL, BEST = "model_final.pth", "model_best.pth"
#: What sub-folders begin with that :func:`move_aside` makes; a number follows.
EARLIER = "earlier_"

_METRICS, _BEST_FIGURE = "metrics.json", "model_best.json"
_RESULTS = tuple(
    f"{name}.json"
    for name in ("results", "eval_results", "pseudo_label_results", "label_quality_results")
)
_CHECKPOINT = re.compile(r"model_(\d+|final|best)\.pth")
# Of nobody else: these names are a run's wherever there is one. Logs stay: they only grow, and the
# process that moves the others is writing to them.
_OF_RUN = re.compile(
    rf"{_CHECKPOINT.pattern}|{LAST}|{re.escape(_METRICS)}|{re.escape(_BEST_FIGURE)}|"
    r"events\.out\.tfevents\..+|inference"
)
# Names that other programs and people use, too: the content tells.
_MAYBE_OF_RUN = (CONFIG_FILE, CLASSES_FILE, *_RESULTS)
# A run's config.yaml has every key; what somebody writes has some.
_DUMPED = {"CUDNN_BENCHMARK", "DATALOADER", "DATASETS", "GLOBAL", "INPUT", "MODEL"}
_DUMPED |= {"OUTPUT_DIR", "SEED", "SOLVER", "TEST", "VERSION", "VIS_PERIOD"}


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
        f"OUTPUT_DIR {where} holds a training already ({listed(found, 4)}), which a new one would "
        f"replace: {how}, choose another OUTPUT_DIR, or move its files into a sub-folder and "
        "begin anew (--overwrite)"
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
    return sorted(_find_files_of_run(Path(folder))) if os.path.isdir(folder) else []


def _find_files_of_run(folder: Path) -> Iterator[str]:
    config = (folder / CONFIG_FILE).is_file() and _is_dumped(folder / CONFIG_FILE)
    results = [
        name for name in _RESULTS if {"iteration", "results"} == set(_read_json(folder / name))
    ]
    used = bool(used_files(folder))
    yield from results
    if config:
        yield CONFIG_FILE
    if (config or used) and (folder / CLASSES_FILE).is_file():
        yield CLASSES_FILE
    if config or used or results:
        yield from (p.name for p in folder.iterdir() if _OF_RUN.fullmatch(p.name))


def _is_dumped(config: Path) -> bool:
    try:
        content = yaml.safe_load(config.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and set(content) >= _DUMPED


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
    """What a run's validation said of one of its checkpoints; None where it was not measured.

    It stands in ``model_best.json`` and ``results.json`` beside the checkpoint.
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

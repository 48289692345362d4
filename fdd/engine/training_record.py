"""The record of a training in its checkpoints: config and classes.

Both are inside the checkpoint, so that no later command on the folder changes what the weights
mean. Older checkpoints have them only beside them, in ``config.yaml`` and ``classes.json``.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from fdd import __version__
from fdd.data import get_metadata
from fdd.engine.checks import DatasetError
from fdd.engine.configs import current_names, merge_cfg
from fdd.points.class_comparison import compare_classes, describe_differences

__all__ = [
    "CLASSES_FILE",
    "CONFIG_FILE",
    "EXPORT_KEY",
    "RECORD_KEY",
    "check_classes",
    "config_of_checkpoint",
    "make_record",
    "read_classes_beside",
    "read_content",
    "read_record",
    "record_files",
    "refuse_other_classes",
]

logger = logging.getLogger(__name__)

#: Entry of a training's checkpoint: a dict of plain types with ``config`` (YAML text, as in
#: ``config.yaml``), ``categories`` (of each contiguous class ``id``, ``name``, ``isthing`` and
#: ``color``) and ``version`` (of fdd).
RECORD_KEY = "fdd_training"
#: The same of an exported checkpoint, see :mod:`fdd.inference.checkpoint_export`.
EXPORT_KEY = "fdd_export"
#: Beside the checkpoints, for people and other programs: the config, and the classes in contiguous
#: order.
CONFIG_FILE, CLASSES_FILE = "config.yaml", "classes.json"


def make_record(cfg: CfgNode) -> dict[str, Any]:
    """The entry :data:`RECORD_KEY` of a training with this config."""
    # Through JSON, for plain types only.
    categories = json.loads(json.dumps(list(get_metadata(cfg.DATASETS.TRAIN[0]).categories)))
    return {"config": cfg.dump(), "categories": categories, "version": __version__}


def record_files(record: Mapping[str, Any]) -> dict[str, bytes]:
    """Content by name of the files that say the same beside the checkpoints."""
    classes = json.dumps(record["categories"], indent=1)
    return {CONFIG_FILE: record["config"].encode(), CLASSES_FILE: classes.encode()}


def read_content(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """All entries of a checkpoint, on the CPU; none if it cannot be read without running code."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # loading the weights will report it
        return {}
    return content if isinstance(content, dict) else {}


def read_record(content: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` and ``categories`` that a checkpoint's content has, of a training or an export;
    empty for an older checkpoint, and for one of another program."""
    for key in (EXPORT_KEY, RECORD_KEY):
        if isinstance(record := content.get(key), dict):
            return record
    return {}


def config_of_checkpoint(
    checkpoint: Path,
    config_file: str | os.PathLike[str],
    opts: Sequence[str],
    record: Mapping[str, Any],
) -> CfgNode:
    """The config that a model is built with: ``config_file`` if given, else the one inside the
    checkpoint, else ``config.yaml`` beside it.

    Args:
        record: of the checkpoint, see :func:`read_record`.
    """
    beside = checkpoint.parent / CONFIG_FILE
    if config_file or "config" not in record:
        if not config_file and not beside.is_file():
            raise FileNotFoundError(
                f"{checkpoint}: no config inside and no {CONFIG_FILE} beside it; name the model's "
                "config with --config-file"
            )
        return merge_cfg(config_file or beside, opts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, CONFIG_FILE)
        path.write_text(current_names(record["config"]), encoding="utf-8")
        try:
            return merge_cfg(path, opts)
        except ValueError as error:
            shown = str(error).replace(f"config file {path}", f"the config inside {checkpoint}")
            raise ValueError(shown) from error


def read_classes_beside(checkpoint: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The classes in ``classes.json`` beside a checkpoint that does not hold its own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a list of classes.
    """
    path = Path(checkpoint).parent / CLASSES_FILE
    try:
        classes = json.loads(path.read_bytes())
        compare_classes(classes, [])  # has all the fields
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a list of classes with id, name and isthing ({error!r})"
        ) from error
    return classes


def check_classes(checkpoint: str | os.PathLike[str], names: Sequence[str], fix: str) -> None:
    """Refuse data sets of other classes than those that a checkpoint was trained on.

    Where the classes of the checkpoint are not known, a warning says so.

    Args:
        checkpoint: a local file; others (a URL) are not checked.
        names: registered data sets.
        fix: what to do instead, as a sentence.

    Raises:
        DatasetError: see :func:`refuse_other_classes`.
    """
    if not os.path.isfile(checkpoint):
        return
    categories = read_record(read_content(checkpoint)).get("categories")
    problem = "an export that does not know them"
    if categories is None:
        try:
            categories = read_classes_beside(checkpoint)
        except (OSError, ValueError) as error:
            problem = str(error)
    for name in names:
        refuse_other_classes(categories, name, checkpoint, fix, unknown=problem)


def refuse_other_classes(
    categories: Sequence[Mapping[str, Any]] | None,
    name: str,
    checkpoint: str | os.PathLike[str],
    fix: str,
    *,
    unknown: str = "",
) -> None:
    """Refuse a data set whose classes are not those of a checkpoint.

    Args:
        categories: of the checkpoint; None or empty: not known, for the reason ``unknown``, which
            is only a warning.
        name: a registered data set.
        fix: what to do instead, as a sentence.

    Raises:
        DatasetError: a class has another name, id, kind (thing or stuff) or place.
    """
    if not categories:
        logger.warning(
            "The classes that %s was trained on are not known, so those of data set %r cannot be "
            "compared with them. %s",
            os.fspath(checkpoint),
            name,
            unknown,
        )
        return
    if differences := compare_classes(categories, get_metadata(name).categories):
        raise DatasetError(
            f"the classes of data set {name!r} are not those that {os.fspath(checkpoint)} was "
            f"trained on: {describe_differences(differences, 'the checkpoint', 'the data set')}. "
            f"{fix}"
        )

"""A trained model from wherever it is kept: the folder of a run, a checkpoint, an exported file."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config import check_fdd_config
from fdd.data import get_metadata
from fdd.data.dataset_files import resolve_name
from fdd.engine.checkpoint import CheckpointError, load_for_inference
from fdd.engine.checks import check_dataset, resolve_device
from fdd.engine.configs import merge_cfg
from fdd.engine.run_folder import BEST, FINAL, LAST
from fdd.engine.training_record import (
    CONFIG_FILE,
    EXPORT_KEY,
    read_classes_beside,
    read_content,
    read_record,
    refuse_other_classes,
)

__all__ = [
    "EXPORT_KEY",
    "WEIGHTS",
    "TrainedModel",
    "check_model_dataset",
    "find_checkpoint",
    "load_trained",
]

logger = logging.getLogger(__name__)

#: What can be taken of the folder of a run, see :func:`find_checkpoint`.
WEIGHTS = ("best", "final")


@dataclass(frozen=True)
class TrainedModel:
    """A model with its weights, ready to be used.

    Attributes:
        cfg: frozen; ``MODEL.WEIGHTS`` is the checkpoint.
        model: in evaluation mode, on ``MODEL.DEVICE``.
        categories: of each contiguous class a dict with ``id`` (of the label files), ``name``,
            ``isthing`` and maybe ``color``.
        checkpoint: the file.
        named: whether the names of the classes are known; they are made up otherwise.
    """

    cfg: CfgNode
    model: torch.nn.Module
    categories: list[dict[str, Any]]
    checkpoint: Path
    named: bool = True


def load_trained(
    model: str | os.PathLike[str],
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
    *,
    full: bool = False,
    weights: str | None = None,
    default: str = "final",
) -> TrainedModel:
    """Build the model of a checkpoint and load its weights.

    Args:
        model: the folder of a run, or a checkpoint.
        config_file: by default the config inside the checkpoint or, of an older one without, the
            ``config.yaml`` in its folder.
        opts: config keys and values, in pairs.
        full: the training-only parts are needed, too (to estimate labels from points); else the
            model has only what inference uses.
        weights, default: which checkpoint of a run is taken, see :func:`find_checkpoint`.

    Raises:
        FileNotFoundError: there is no such folder, checkpoint or config.
        ValueError: checkpoint and config do not belong together, or the checkpoint has no
            training-only parts though they are needed.
    """
    checkpoint = find_checkpoint(model, weights, default=default)
    content = read_content(checkpoint)
    if full and EXPORT_KEY in content:
        raise CheckpointError(
            f"{checkpoint}: exported for inference, so the parts that estimate labels from points "
            "are not in it. Name the checkpoint that training wrote, such as model_final.pth."
        )
    record = read_record(content)
    cfg = config_of_checkpoint(checkpoint, config_file, opts, record)
    if warning := resolve_device(cfg):
        logger.warning(warning)
    cfg.MODEL.WEIGHTS = str(checkpoint)
    check_fdd_config(cfg)
    cfg.freeze()
    # An export without names says that there were none: nothing else can know them.
    found = list(record["categories"]) if "categories" in record else _categories(cfg, checkpoint)
    categories = found or _generic_categories(cfg)
    network = build_model(cfg).eval()
    if not full:
        _drop_training_parts(network)
    load_for_inference(network, str(checkpoint), full=full)
    return TrainedModel(cfg, network, categories, checkpoint, named=bool(found))


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


def check_model_dataset(trained: TrainedModel, name: str, key: str) -> None:
    """Check that the set ``name``, given as ``key``, is there and has the model's classes.

    Raises:
        DatasetError: it is not, or a class has another name, id, kind or place. A model that does
            not know its classes takes any of the right number, with a warning.
    """
    check_dataset(trained.cfg, name, key, trained=True)
    refuse_other_classes(
        trained.categories if trained.named else None,
        name,
        trained.checkpoint,
        "Use a data set with the classes that the model was trained on, in the same order",
        unknown="Class names are made up",
    )


def _drop_training_parts(model: torch.nn.Module) -> None:
    for prefix in getattr(model, "training_only_prefixes", ()):
        setattr(model, prefix.removesuffix("."), None)


def config_of_checkpoint(
    checkpoint: Path,
    config_file: str | os.PathLike[str],
    opts: Sequence[str],
    record: Mapping[str, Any],
) -> CfgNode:
    """The config that a model is built with: ``config_file`` if given, else the one inside the
    checkpoint, else ``config.yaml`` beside it.

    Args:
        record: of the checkpoint, see :func:`fdd.engine.training_record.read_record`.
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
        path.write_text(record["config"], encoding="utf-8")
        try:
            return merge_cfg(path, opts)
        except ValueError as error:
            shown = str(error).replace(f"config file {path}", f"the config inside {checkpoint}")
            raise ValueError(shown) from error


def _categories(cfg: CfgNode, checkpoint: Path) -> list[dict[str, Any]]:
    """Classes of a checkpoint that does not hold them: of ``classes.json`` beside it, or else of
    the first of the model's data sets that is on disk and fits; none: empty."""
    kinds = [bool(c["isthing"]) for c in _generic_categories(cfg)]
    problems = []
    for source in (None, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        try:
            categories = (
                read_classes_beside(checkpoint)
                if source is None
                else list(get_metadata(_registered(source)).categories)
            )
            if [bool(c["isthing"]) for c in categories] == kinds:
                return categories
            where = source or "the classes beside the checkpoint"
            problems.append(f"{where}: not the model's numbers of thing and stuff classes")
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            if source is not None:
                problems.append(f"{source}: {error}")
            elif not isinstance(error, FileNotFoundError):
                problems.append(str(error))
    logger.warning("Generic class names are used. %s", "; ".join(problems) or "No data set named")
    return []


def _registered(name: str) -> str:
    return resolve_name(name, "points", key="the model's config")


def _generic_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    kinds = ["thing"] * cfg.MODEL.FDD.NUM_THINGS + ["stuff"] * cfg.MODEL.FDD.NUM_STUFF
    return [{"id": n, "name": f"{k} {n}", "isthing": k == "thing"} for n, k in enumerate(kinds)]

"""A trained model from wherever it is kept: the folder of a run, a checkpoint, an exported file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
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
from fdd.engine.run_folder import find_checkpoint
from fdd.engine.training_record import (
    EXPORT_KEY,
    config_of_checkpoint,
    read_classes_beside,
    read_content,
    read_record,
    refuse_other_classes,
)

__all__ = [
    "TrainedModel",
    "check_model_dataset",
    "load_trained",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A model with its weights, ready to be used.

    Attributes:
        cfg: frozen; ``MODEL.WEIGHTS`` is the checkpoint.
        model: in evaluation mode, on ``MODEL.DEVICE``.
        categories: of each contiguous class a dict with ``id`` (of the label files), ``name``,
            ``isthing`` and maybe ``color``.
        checkpoint: the file.
        named: whether the class names are known; otherwise they are generic, such as ``thing 0``.
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
        weights, default: which checkpoint of a run is taken, see
            :func:`fdd.engine.run_folder.find_checkpoint`.

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
        for prefix in getattr(network, "training_only_prefixes", ()):
            setattr(network, prefix.removesuffix("."), None)
    load_for_inference(network, str(checkpoint), full=full)
    return TrainedModel(cfg, network, categories, checkpoint, named=bool(found))


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
        unknown="Class names are generic",
    )


def _categories(cfg: CfgNode, checkpoint: Path) -> list[dict[str, Any]]:
    """Classes of a checkpoint that does not hold them: of ``classes.json`` beside it, or else of
    the first of the model's data sets that is on disk and fits; none: empty."""
    kinds = [bool(c["isthing"]) for c in _generic_categories(cfg)]
    problems = []
    for source in (None, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        try:
            if source is None:
                categories = read_classes_beside(checkpoint)
            else:
                name = resolve_name(source, "points", key="the model's config")
                categories = list(get_metadata(name).categories)
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


def _generic_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    kinds = ["thing"] * cfg.MODEL.FDD.NUM_THINGS + ["stuff"] * cfg.MODEL.FDD.NUM_STUFF
    return [{"id": n, "name": f"{k} {n}", "isthing": k == "thing"} for n, k in enumerate(kinds)]

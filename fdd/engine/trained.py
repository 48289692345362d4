"""A trained model from wherever it is kept: the folder of a run, a checkpoint, an exported file."""

from __future__ import annotations

import json
import logging
import os
import tempfile
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

from .checkpoint import CLASSES_FILE, CheckpointError, load_for_inference
from .checks import resolve_device
from .configs import merge_cfg

__all__ = ["EXPORT_KEY", "TrainedModel", "find_checkpoint", "load_trained"]

logger = logging.getLogger(__name__)

#: Entry of an exported checkpoint that holds what is needed to use it without any other file.
EXPORT_KEY = "fdd_export"


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
) -> TrainedModel:
    """Build the model of a checkpoint and load its weights.

    Args:
        model: the folder of a run (its last checkpoint is taken), or a checkpoint.
        config_file: by default the config inside an exported checkpoint, or else ``config.yaml`` in
            the checkpoint's folder, where training writes it.
        opts: config keys and values, in pairs.
        full: the training-only parts are needed, too (to estimate labels from points); else the
            model has only what inference uses.

    Raises:
        FileNotFoundError: there is no such folder, checkpoint or config.
        ValueError: checkpoint and config do not belong together, or the checkpoint has no
            training-only parts though they are needed.
    """
    checkpoint = find_checkpoint(model)
    exported = read_export(checkpoint)
    if full and exported is not None:
        raise CheckpointError(
            f"{checkpoint}: exported for inference, so the parts that estimate labels from points "
            "are not in it. Name the checkpoint that training wrote, such as model_final.pth."
        )
    cfg = _config_of(checkpoint, config_file, opts, exported)
    if warning := resolve_device(cfg):
        logger.warning(warning)
    cfg.MODEL.WEIGHTS = str(checkpoint)
    check_fdd_config(cfg)
    cfg.freeze()
    found = (
        list(exported["categories"])
        if exported is not None
        else _categories(cfg, checkpoint.parent)
    )
    categories = found or _generic_categories(cfg)
    network = build_model(cfg).eval()
    if not full:
        _drop_training_parts(network)
    load_for_inference(network, str(checkpoint), full=full)
    return TrainedModel(cfg, network, categories, checkpoint, named=bool(found))


def find_checkpoint(model: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path stands for.

    Raises:
        FileNotFoundError: it is neither a file nor the folder of a run with a checkpoint.
    """
    path = Path(os.path.expanduser(model))
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such checkpoint or folder. Name the OUTPUT_DIR of a training, or one of "
            "its .pth files"
        )
    last = path / "last_checkpoint"
    if last.is_file() and (found := path / last.read_text(encoding="utf-8").strip()).is_file():
        return found
    if (path / "model_final.pth").is_file():
        return path / "model_final.pth"
    raise FileNotFoundError(
        f"{path}: no checkpoint in this folder (no last_checkpoint, no model_final.pth). Name the "
        "OUTPUT_DIR of a training that has saved one"
    )


def read_export(checkpoint: Path) -> dict[str, Any] | None:
    """What an exported checkpoint says of itself (see :mod:`fdd.engine.export`), or None for one
    that training wrote."""
    return read_content(checkpoint).get(EXPORT_KEY)


def read_content(checkpoint: Path) -> dict[str, Any]:
    """All entries of a checkpoint, on the CPU; none if it cannot be read without running code."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever it is, loading the weights will say so
        return {}
    return content if isinstance(content, dict) else {}


def _drop_training_parts(model: torch.nn.Module) -> None:
    for prefix in getattr(model, "training_only_prefixes", ()):
        setattr(model, prefix.removesuffix("."), None)


def _config_of(
    checkpoint: Path,
    config_file: str | os.PathLike[str],
    opts: Sequence[str],
    exported: dict[str, Any] | None,
) -> CfgNode:
    beside = checkpoint.parent / "config.yaml"
    if config_file or exported is None:
        if not config_file and not beside.is_file():
            raise FileNotFoundError(
                f"{checkpoint}: no config.yaml beside it; name the model's config with "
                "--config-file"
            )
        return merge_cfg(config_file or beside, opts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(exported["config"], encoding="utf-8")
        return merge_cfg(path, opts)


def _categories(cfg: CfgNode, folder: Path) -> list[dict[str, Any]]:
    """Classes that training wrote beside the checkpoint, or else of the first of the model's data
    sets that is on disk and fits; none: empty."""
    kinds = [bool(c["isthing"]) for c in _generic_categories(cfg)]
    problems = []
    for source in (folder / CLASSES_FILE, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        try:
            if isinstance(source, Path):
                categories = json.loads(source.read_text(encoding="utf-8"))
            else:
                categories = list(get_metadata(_registered(source)).categories)
            if [bool(c["isthing"]) for c in categories] == kinds:
                return categories
            problems.append(f"{source}: not the model's numbers of thing and stuff classes")
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            if not isinstance(error, FileNotFoundError) or not isinstance(source, Path):
                problems.append(f"{source}: {error}")
    logger.warning("Generic class names are used. %s", "; ".join(problems) or "No data set named")
    return []


def _registered(name: str) -> str:
    return resolve_name(name, "points", key="the model's config")


def _generic_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    kinds = ["thing"] * cfg.MODEL.FDD.NUM_THINGS + ["stuff"] * cfg.MODEL.FDD.NUM_STUFF
    return [{"id": n, "name": f"{k} {n}", "isthing": k == "thing"} for n, k in enumerate(kinds)]
